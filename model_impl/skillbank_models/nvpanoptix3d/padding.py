"""Padding at right and bottom, the same for the network and for what its outputs are compared with.

Letters: `B` batch, `H W` size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["pad_to", "padded_size"]


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The smallest multiples of `multiple` that hold an image."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill up the last two axes with zeros, (..., H, W) to (..., *size); the tensor itself where it fits."""
    height, width = x.shape[-2:]
    if (height, width) == tuple(size):
        return x
    return F.pad(x, (0, size[1] - width, 0, size[0] - height))  # (..., *size)
