"""Deformable attention as one `grid_sample` for each level: the form that exports and compiles.

The other forms are compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["grid_sample_attention"]


def grid_sample_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples; all tensors of one floating dtype.

    Levels are added up one after the other, so that the samples of one level at a time are held.

    Args:
        value: (B, S, M, d), levels one after the other, rows of pixels.
        shapes: height and width of each level; may be symbolic while exporting.
        locations: (B, Q, M, L, P, 2), x and y, 0..1 from edge to edge of a map.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * d).
    """
    batch, _, heads, width = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B*M, Q, P, 2)
    scales = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)  # (L, B*M, Q, P)
    total: Tensor | None = None
    start = 0
    for level, (height_px, width_px) in enumerate(shapes):
        pixels = value[:, start : start + height_px * width_px]  # (B, h*w, M, d)
        start = start + height_px * width_px
        maps = pixels.permute(0, 2, 3, 1).reshape(batch * heads, width, height_px, width_px)  # (B*M, d, h, w)
        samples = F.grid_sample(
            maps, grids[level], "bilinear", "zeros", align_corners=False
        )  # (B*M, d, Q, P)
        part = (samples * scales[level].unsqueeze(1)).sum(-1)  # (B*M, d, Q)
        total = part if total is None else total + part
    assert total is not None
    return total.reshape(batch, heads * width, queries).transpose(1, 2)  # (B, Q, M*d)
