"""Growing of sets of voxels or pixels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dilate"]


def dilate(mask: Tensor, radius: int, *, axes: int) -> Tensor:
    """Set all cells within a cube around a set cell; outside the array nothing is set.

    One axis after the other and in bytes, so a volume is neither converted to floating point nor unfolded.

    Args:
        mask: bool, any shape.
        radius: 1 reaches 3 cells along each axis, 2 reaches 5.
        axes: how many of the last axes are grown.

    Returns:
        A new array of the same shape.
    """
    grown = mask.clone().view(torch.uint8)  # torch joins bytes faster than bools
    before = torch.empty_like(grown)
    for axis in range(mask.dim() - axes, mask.dim()):
        inner = mask.shape[axis] - 1
        for _ in range(radius if inner > 0 else 0):
            before.copy_(grown)
            grown.narrow(axis, 1, inner).bitwise_or_(before.narrow(axis, 0, inner))
            grown.narrow(axis, 0, inner).bitwise_or_(before.narrow(axis, 1, inner))
    return grown.view(torch.bool)
