"""Multi-scale deformable attention: one operator, several forms, the fastest that fits is taken.

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `d` channels of a head, `L` levels, `P` points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skillbank_models.ops._deformable_plain import grid_sample_attention

__all__ = ["deformable_attention"]


def deformable_attention(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    deterministic: bool,
) -> Tensor:
    """Sample value maps at given places and sum the samples with given weights."""
    del deterministic
    dtype = torch.promote_types(torch.promote_types(value.dtype, locations.dtype), torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        out = grid_sample_attention(value.to(dtype), shapes, locations.to(dtype), weights.to(dtype))
    return out.to(value.dtype)  # (B, Q, M*d)
