"""Tables that follow from sizes alone: resizing of learned positions, and position waves of feature maps.

They are computed in float64 outside of torch, so that an exported graph holds the finished numbers and no
float64; each is kept, so that it is made once.

Letters: `B` batch, `C` channels, `h w` feature map, `n` old and `m` new length of an axis.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["add_uv_waves", "as_tensor", "image_statistics", "resizing_matrix"]

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for RGB from 0 to 1
IMAGE_STD = (0.229, 0.224, 0.225)
WAVE_SHARE = 0.1  # Wang et al. 2025: weight of the position waves
WAVE_BASE = 100.0
_CUBIC = -0.5  # sharpness of the cubic kernel, that of Pillow, which torch takes for antialias=True
_KEPT = 256

Floats = NDArray[np.float64]


def as_tensor(values: Floats, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Finished numbers as a tensor that training and inference may share.

    A tensor that is born in inference mode could never be used in training again.
    """
    with torch.inference_mode(False):
        return torch.tensor(values.astype(np.float32) if dtype != torch.float64 else values).to(device, dtype)


def image_statistics(*, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of images, (3, 1, 1) each."""
    build = _statistics if torch.compiler.is_compiling() else _kept_statistics
    return build(dtype, device)


def add_uv_waves(x: Tensor, *, aspect: float) -> Tensor:
    """Add sine and cosine of the place in the image to a feature map.

    The first half of the channels tells the column, the second the row; within each, sines come before
    cosines. Places span +-aspect / d across and +-1 / d down, where d = sqrt(aspect^2 + 1).

    Args:
        x: (B, C, h, w); C a multiple of 4.
        aspect: width over height of the image.

    Returns:
        (B, C, h, w).

    Source: facebookresearch/vggt, heads/utils.py and heads/dpt_head.py.
    """
    height, width = x.shape[-2:]
    diagonal = (aspect**2 + 1.0) ** 0.5
    build = _waves if torch.compiler.is_compiling() else _kept_waves
    # Each table is zero in the half of the other; together they would be as large as the map.
    across = build(width, x.shape[1], aspect / diagonal, True, x.dtype, x.device)[:, None, :]  # (C, 1, w)
    down = build(height, x.shape[1], 1.0 / diagonal, False, x.dtype, x.device)[:, :, None]  # (C, h, 1)
    return x + across + down


def resizing_matrix(old: int, new: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bicubic resizing of an axis with antialiasing, as a product.

    Exporters write the operator as a plain cubic one, which differs where it shrinks; a product they keep.

    Returns:
        (m, n); rows add up to 1.
    """
    build = _resizing if torch.compiler.is_compiling() else _kept_resizing
    return build(old, new, dtype, device)


def _statistics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (
        as_tensor(np.array(values).reshape(3, 1, 1), dtype=dtype, device=device)
        for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return mean, std


def _waves(
    length: int, channels: int, span: float, is_first: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(C, length), zero in the half that belongs to the other axis."""
    quarter = channels // 4
    edge = span * (length - 1) / length
    places = np.linspace(-edge, edge, length)
    angles = WAVE_BASE ** (-np.arange(quarter) / quarter)[:, None] * places  # (C / 4, length)
    own = WAVE_SHARE * np.concatenate([np.sin(angles), np.cos(angles)])  # (C / 2, length)
    other = np.zeros((channels - 2 * quarter, length))
    return as_tensor(np.concatenate([own, other] if is_first else [other, own]), dtype=dtype, device=device)


def _resizing(old: int, new: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale  # (m,)
    first = np.clip(np.floor(centres - 2 * reach + 0.5), 0, old)
    last = np.clip(np.floor(centres + 2 * reach + 0.5), 0, old)
    places = np.arange(old)
    weights = _cubic((places - centres[:, None] + 0.5) / reach)  # (m, n)
    weights[(places < first[:, None]) | (places >= last[:, None])] = 0.0
    return as_tensor(weights / weights.sum(1, keepdims=True), dtype=dtype, device=device)


def _cubic(distance: Floats) -> Floats:
    x = np.abs(distance)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = _CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_kept_statistics = lru_cache(maxsize=_KEPT)(_statistics)
_kept_waves = lru_cache(maxsize=_KEPT)(_waves)
_kept_resizing = lru_cache(maxsize=_KEPT)(_resizing)
