"""Rotary position embedding in two dimensions: a token's row and column turn its queries and keys.

Letters: `B` batch, `M` heads, `T` tokens, `d` channels of a head, `h w` grid of patches.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skillbank_models.nvpanoptix3d.vggt.tables import as_tensor

__all__ = ["Rotation", "rotate", "rotation"]

BASE = 100.0  # facebookresearch/vggt, layers/rope.py


class Rotation(NamedTuple):
    """Where tokens turn their channels to, (T, d) each.

    Attributes:
        cosines: factor of a channel itself.
        sines: factor of its partner; negative in the first channel of a pair.
    """

    cosines: Tensor
    sines: Tensor


def rotation(
    grid: tuple[int, int], *, special: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Rotation:
    """The rotation of special tokens, which stay as they are, followed by the patches of a grid, from row 1.

    Args:
        grid: rows and columns of patches.
        special: tokens without a place.
        head_dim: d, a multiple of 4; the first half of it follows the row, the second the column.
        dtype: of the result.
        device: of the result.
    """
    build = _rotation if torch.compiler.is_compiling() else _kept_rotation
    return build(grid[0], grid[1], special, head_dim, dtype, device)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn queries or keys, (B, M, T, d) to the same shape.

    Source: Su et al. 2021 (RoFormer); two axes as in Heo et al. 2024 (RoPE-ViT).
    """
    halves = x.reshape(*x.shape[:-1], 2, 2, -1)  # (B, M, T, 2, 2, d / 4)
    first, second = halves.unbind(-2)  # (B, M, T, 2, d / 4) each
    partners = torch.stack([second, first], dim=-2).flatten(-3)  # (B, M, T, d)
    return x * by.cosines + partners * by.sines


def _rotation(
    height: int, width: int, special: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Rotation:
    quarter = head_dim // 4
    rows = np.repeat(np.arange(1, height + 1), width)  # (h w,)
    columns = np.tile(np.arange(1, width + 1), height)  # (h w,)
    places = np.concatenate([np.zeros((special, 2)), np.stack([rows, columns], axis=1)])  # (T, 2)
    angles = places[:, :, None] * BASE ** (-np.arange(quarter) / quarter)  # (T, 2, d / 4)
    cosines = np.stack([np.cos(angles), np.cos(angles)], axis=2)  # (T, 2, 2, d / 4)
    sines = np.stack([-np.sin(angles), np.sin(angles)], axis=2)  # (T, 2, 2, d / 4)
    shape = (places.shape[0], head_dim)
    return Rotation(
        as_tensor(cosines.reshape(shape), dtype=dtype, device=device),
        as_tensor(sines.reshape(shape), dtype=dtype, device=device),
    )


_kept_rotation = lru_cache(maxsize=32)(_rotation)
