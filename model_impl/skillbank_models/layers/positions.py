"""Where a feature map's pixels are: the sine encoding of attention, and pixel centres for sampling.

Letters: `h w` feature map, `S` pixels of all levels, `L` levels, `C` channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["pixel_centres", "sine_positions"]

_TEMPERATURE = 1e4  # Vaswani et al. 2017, section 3.5
_EPSILON = 1e-6  # keeps published weights exact: the last row is 2 pi * h / (h + epsilon)


def sine_positions(
    height: int, width: int, channels: int, *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Sine encoding of the pixels of one map, the first half of the channels for y, the second for x.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: a multiple of 4.
        dtype: of the result; angles are computed in float32.
        device: of the result.

    Returns:
        (h, w, C), not to be written to.

    Source: Carion et al. 2020 (DETR), appendix A.4; normalised to 2 pi, pixels counted from 1.
    """
    table = _axis_table if torch.compiler.is_compiling() else _kept_axis_table
    y = table(height, channels // 2, dtype, device)[:, None].expand(-1, width, -1)  # (h, w, C/2)
    x = table(width, channels // 2, dtype, device)[None].expand(height, -1, -1)  # (h, w, C/2)
    return torch.cat([y, x], dim=-1)  # (h, w, C)


def pixel_centres(sizes: Sequence[tuple[int, int]], *, device: torch.device) -> Tensor:
    """Centres of the pixels of several maps, as shares of the map they are in.

    Args:
        sizes: height and width of each level.
        device: of the result.

    Returns:
        (S, 2), x before y, 0..1, float32; not to be written to.
    """
    build = _centres if torch.compiler.is_compiling() else _kept_centres
    return build(tuple((height, width) for height, width in sizes), device)


def _axis_table(length: int, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Encoding of one axis, (length, features): sine of even, cosine of odd features."""
    places = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    places = places * (2 * math.pi / (length + _EPSILON))
    pairs = torch.arange(features // 2, dtype=torch.float32, device=device)
    angles = places[:, None] / _TEMPERATURE ** (2 * pairs / features)  # (length, features / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype)  # (length, features)


def _centres(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    centres = []
    for height, width in sizes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        grid = torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], dim=-1)  # (h, w, 2)
        centres.append(grid.flatten(0, 1))  # (h * w, 2)
    return torch.cat(centres)  # (S, 2)


# A tensor that is born in inference mode could never be used in training again, so the kept ones are not.
@lru_cache(maxsize=256)
def _kept_axis_table(length: int, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _axis_table(length, features, dtype, device)


@lru_cache(maxsize=16)
def _kept_centres(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _centres(sizes, device)
