"""Points instead of pixels: masks and maps are compared at a few random places, not everywhere.

Letters: `N` maps, `M` ground-truth masks, `C` channels, `h w` map, `H W` mask, `P` points. A point is (x, y)
in 0..1 of a map's width and height, so one point means the same place in maps of any size.

Source: the sampling of PointRend (Kirillov et al. 2020, section 3.1) as Mask2Former (Cheng et al. 2022,
section 3.3) uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "CHUNK",
    "PointSource",
    "sample_maps",
    "sample_masks",
    "spread_to_maps",
    "uncertain_points",
    "uniform_points",
]

PointSource: TypeAlias = Callable[[int, int, torch.device], Tensor]
"""Gives (rows, points, 2) places on a device; `uniform_points` unless a comparison needs certain ones."""

CHUNK = 1 << 22  # numbers that users of this module should sample at once: bounds memory, yet fills a GPU

_INT32_LIMIT = 1 << 31
_BILINEAR, _ZEROS = 0, 0  # how the operator below `grid_sample` numbers its modes


def uniform_points(rows: int, points: int, device: torch.device) -> Tensor:
    """Draw points evenly over a map from the device's ordinary generator, (rows, points, 2)."""
    return torch.rand(rows, points, 2, device=device)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points, bilinearly; a pixel's value sits at its centre, outside is zero.

    Args:
        maps: (N, C, h, w), floating point.
        points: (N, P, 2).

    Returns:
        (N, C, P); gradients flow to `maps`.
    """
    grid = (2.0 * points - 1.0).unsqueeze(2)  # (N, P, 1, 2)
    found = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.squeeze(3)  # (N, C, P)


def spread_to_maps(values: Tensor, points: Tensor, size: Sequence[int]) -> Tensor:
    """Add up values where points lie, each on its four pixels: the gradient of `sample_maps`.

    Args:
        values: (N, C, P).
        points: (N, P, 2).
        size: height and width of the maps.

    Returns:
        (N, C, h, w).
    """
    grid = (2.0 * points - 1.0).unsqueeze(2)  # (N, P, 1, 2)
    blank = values.new_empty(*values.shape[:2], *size)  # its shape matters only
    found: Tensor = torch.ops.aten.grid_sampler_2d_backward(
        values.unsqueeze(3), blank, grid, _BILINEAR, _ZEROS, False, [True, False]
    )[0]
    return found


def sample_masks(masks: Tensor, points: Tensor, rows: Tensor | None = None) -> Tensor:
    """Read masks at points, with the values that `sample_maps` would give for them as floating point.

    Only the four neighbours of each point are looked up; the masks are neither copied nor converted.

    Args:
        masks: (M, H, W), bool or uint8 with 0 and 1.
        points: (P, 2), the same for all masks; with `rows` (N, P, 2).
        rows: (N,) int64, the mask that each row of `points` belongs to; a mask may come up many times.

    Returns:
        (M, P), or (N, P) with `rows`; dtype of the points.
    """
    count, height, width = masks.shape
    index_type = torch.int32 if masks.numel() < _INT32_LIMIT else torch.int64
    column, left, right = _neighbours(points[..., 0], width, index_type)
    row, top, bottom = _neighbours(points[..., 1], height, index_type)
    place = row.mul_(width).add_(column)  # (P,) or (N, P)
    if rows is not None:
        place += (rows * (height * width)).to(index_type).unsqueeze(1)
    next_column, next_row = int(width > 1), width * int(height > 1)
    out: Tensor | None = None
    for weight, step in (
        (left * top, 0),
        (right * top, next_column),
        (left * bottom, next_row),
        (right * bottom, next_row + next_column),
    ):
        if rows is None:
            value = masks.reshape(count, height * width).index_select(1, place + step)  # (M, P)
        else:
            value = masks.reshape(-1).index_select(0, (place + step).view(-1)).view_as(weight)  # (N, P)
        term = weight * value
        out = term if out is None else out.add_(term)
    assert out is not None
    return out


def uncertain_points(
    maps: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    source: PointSource = uniform_points,
) -> Tensor:
    """Choose points where a mask is undecided, with some even ones among them.

    Of ``num_points * oversample_ratio`` even candidates those with the smallest absolute logit are kept,
    as many as ``importance_sample_ratio`` of the points; the rest is drawn anew.

    Args:
        maps: (N, h, w) mask logits; no gradient is followed.
        num_points: points for each map.
        oversample_ratio: at least 1.
        importance_sample_ratio: 0..1.
        source: where points come from; it is asked for the candidates, then for the rest.

    Returns:
        (N, num_points, 2), the uncertain ones first, in no order.
    """
    candidates = int(num_points * oversample_ratio)
    uncertain = int(num_points * importance_sample_ratio)
    maps = maps.detach()
    chosen = []
    if uncertain > 0:
        drawn = source(len(maps), candidates, maps.device)
        doubt = sample_maps(maps.unsqueeze(1), drawn).squeeze(1).abs_()  # (N, candidates)
        index = doubt.topk(uncertain, dim=1, largest=False, sorted=False).indices  # (N, uncertain)
        chosen.append(drawn.gather(1, index.unsqueeze(2).expand(-1, -1, 2)))
    if uncertain < num_points:
        chosen.append(source(len(maps), num_points - uncertain, maps.device))
    return torch.cat(chosen, dim=1)  # (N, P, 2)


def _neighbours(position: Tensor, size: int, index_type: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The first of the two pixels between which a position along one axis lies, and the weights of both.

    Near an edge the two pixels inside are named; a pixel that is not next to the position weighs nothing.
    """
    # the detour over -1..1 rounds as the sampling of maps does: logits and truth are read at one place
    pixel = ((2.0 * position - 1.0) + 1.0).mul_(size / 2).sub_(0.5)
    first = pixel.floor().clamp_(0, max(size - 2, 0))
    pixel -= first
    start = (1.0 - pixel.abs()).clamp_(min=0)
    end = torch.zeros_like(pixel) if size == 1 else (1.0 - (pixel - 1.0).abs_()).clamp_(min=0)
    return first.to(index_type), start, end
