"""Occupancy-aware lifting: voxels from the visible surface to the room's walls take what their pixel shows.

Letters: `B` batch, `K` classes, `D` depth bins, `G` side of the grid, `h w` image plane of the 3D stage,
`N` voxels.

Source: BUOL (Chu et al. 2023), section 3.3, chtsy/buol `model/model3d/occ_lifting.py`. Differs:
voxels without features never replace those with features, and each is there once; the voxels of an image are
together; margins are lengths, so other bins can be used; with `fill` a visible surface is always lifted,
also where it is beyond the walls or there is no wall. Under the rule "measured" a voxel is written where it
was looked up, and all voxels of the grid can be; the published lifting writes it one voxel lower along each
axis, to make up for a map that is one voxel off, and loses the voxels of the last layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.dilation import dilate
from skillbank_models.nvpanoptix3d.frustum import kept_voxels, published_shift
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = ["lift", "room_depth"]

_BEFORE_M = 0.18  # published: 3 bins of 6 cm
_BEHIND_M = 0.3  # published: 5 bins
_STUFF_MARGIN = 2  # pixels by which stuff is narrowed, so that its depth is not that of what stands before it
_PADDING = 2  # voxels around the lifted ones


def lift(
    depth: Tensor,
    class_scores: Tensor,
    occupancy: Tensor,
    *,
    views: Sequence[View],
    frusta: Tensor,
    room_masks: Tensor | None,
    num_things: int,
    fill: bool,
    far: float,
) -> SparseTensor:
    """Fill the space where something may be with class scores and occupancy.

    A voxel is lifted when its depth bin is not before the visible surface and not behind the room's walls at
    its pixel, with a margin on either side. Around the lifted voxels some with zeros are added, for the
    network to grow into. An image without any gets one zero voxel in the middle of the grid.

    Args:
        depth: (B, h, w) metres along z.
        class_scores: (B, K, h, w); classes above `num_things` are stuff, which the room's walls are made of.
        occupancy: (B, D, h, w) logits.
        views: camera and grid of each image, all of one grid.
        frusta: (B, G, G, G) bool, voxels that may be used.
        room_masks: (B, h, w) bool, pixels that may be used; None where all.
        num_things: classes 1 to this number are things.
        fill: extend the room's walls to pixels that show none, and lift all visible surfaces.
        far: end of the last depth bin, metres.

    Returns:
        (N, K + 3): class scores, occupancy 0..1, sign and magnitude of the metres behind the surface.
    """
    bins, (height, width) = occupancy.shape[1], depth.shape[1:]
    surface, first, last = _bins_of(
        depth.float(), class_scores, bins=bins, num_things=num_things, fill=fill, far=far
    )
    if room_masks is not None:
        last = last.where(room_masks, -1)
    keys, features = [], []
    grid = views[0].grid
    for image, view in enumerate(views):
        kept = kept_voxels(view, (height, width), depth.device)
        depth_bin = kept.bins(bins, far)  # (V,)
        allowed = frusta[image].reshape(-1).index_select(0, kept.keys)  # (V,)
        chosen = depth_bin >= first[image].view(-1).index_select(0, kept.pixels)
        chosen &= depth_bin <= last[image].view(-1).index_select(0, kept.pixels)
        rows = (chosen & allowed).nonzero().view(-1)  # (N',)
        own, depth_bin, pixels = (
            part.index_select(0, rows).long() for part in (kept.keys, depth_bin, kept.pixels)
        )
        away = (depth_bin - surface[image].view(-1)[pixels]) * (far / bins)  # (N',)
        filled = occupancy[image].reshape(-1)[depth_bin * (height * width) + pixels]  # (N',)
        parts = (
            class_scores[image].flatten(1).t()[pixels],  # (N', K)
            filled.float().sigmoid().unsqueeze(1),
            away.sign().unsqueeze(1),
            away.abs().unsqueeze(1),
        )
        shift = published_shift(grid) if view.rule == "published" else 0
        places, values = _padded(own, torch.cat(parts, 1), kept.keys, allowed, grid.side, shift)
        keys.append(places + image * grid.side**3)
        features.append(values)
    return SparseTensor(torch.cat(features), Sites.of_keys(torch.cat(keys), grid.side, len(views)))


def room_depth(depth: Tensor, stuff: Tensor, *, fill: bool) -> Tensor:
    """How far the room reaches at each pixel: the nearer of the deepest stuff in its column and in its row.

    Columns and rows without stuff take the smaller maximum of those beside them. That rule goes from left to
    right and counts what it has filled; since a filled value is never below the smallest to its left, only a
    start without stuff matters, and that is filled with the smallest of all. So it needs no loop.

    Args:
        depth: (B, h, w) metres.
        stuff: (B, h, w) bool.
        fill: first give pixels without stuff at the image border the depth of the nearest column or row that
            has some.

    Returns:
        (B, h, w) metres, 0 where the whole image has no stuff.
    """
    walls = depth * stuff  # (B, h, w)
    if fill:
        columns, rows = walls.amax(1), walls.amax(2)  # (B, w), (B, h)
        filled = walls.clone()
        for edge, scanned in ((0, rows), (-1, rows.flip(1))):
            filled[:, edge] = _or_else(walls[:, edge], _first_above_zero(scanned))
        for edge, scanned in ((0, columns), (-1, columns.flip(1))):  # corners follow the columns
            filled[:, :, edge] = _or_else(walls[:, :, edge], _first_above_zero(scanned))
        walls = filled
    columns, rows = _without_gaps(walls.amax(1)), _without_gaps(walls.amax(2))  # (B, w), (B, h)
    return torch.minimum(columns[:, None, :], rows[:, :, None])  # (B, h, w)


def _bins_of(
    depth: Tensor, class_scores: Tensor, *, bins: int, num_things: int, fill: bool, far: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Bin of the surface at each pixel, and the first and the last that is lifted, (B, h, w) int16 each."""
    depth = depth.clamp(max=far)
    stuff = class_scores.argmax(1) > num_things  # (B, h, w)
    stuff = ~dilate(~stuff, _STUFF_MARGIN, axes=2)
    limit = room_depth(depth, stuff, fill=fill)
    if fill:
        limit = torch.maximum(limit, depth)
    before, behind = (max(2, math.ceil(length * bins / far - 1e-6)) for length in (_BEFORE_M, _BEHIND_M))
    surface, wall = ((length / far * bins).to(torch.int16) for length in (depth, limit))
    return surface, surface - (before - 1), wall + (behind - 1)


def _first_above_zero(values: Tensor) -> Tensor:
    """(B, 1) from (B, n): the first number that is not zero, zero where all are."""
    place = (values != 0).int().argmax(1, keepdim=True)  # the first of equal ones
    return values.gather(1, place)


def _or_else(values: Tensor, other: Tensor) -> Tensor:
    return torch.where(values == 0, other, values)


def _without_gaps(values: Tensor) -> Tensor:
    """Zeros of (B, n) become the larger of the smallest number left and the smallest right of them."""
    infinite = float("inf")
    known = values.masked_fill(values == 0, infinite)
    smallest = known.amin(1, keepdim=True)
    known = torch.cat((torch.where(known[:, :1] < infinite, known[:, :1], smallest), known[:, 1:]), 1)
    left = known.cummin(1).values  # (B, n)
    right = known.flip(1).cummin(1).values.flip(1)  # (B, n)
    filled = torch.maximum(left, right.where(right < infinite, 0.0))
    filled = filled.where(filled < infinite, 0.0)
    return torch.where(values == 0, filled, values)


def _padded(
    own: Tensor, values: Tensor, seen: Tensor, allowed: Tensor, side: int, shift: int
) -> tuple[Tensor, Tensor]:
    """Add zero voxels, at even places only, around the own ones of an image.

    Args:
        own: (N',) keys, ascending.
        values: (N', C) their features.
        seen: (V,) keys of all voxels that the camera sees.
        allowed: (V,) bool, those that may be added, before they are moved to even places.
        side: of the grid.
        shift: all voxels are moved down by this; those that leave the grid or reach its end are lost.

    Returns:
        Keys (N,), ascending, and features (N, C).
    """
    taken = torch.zeros(side**3, dtype=torch.bool, device=own.device)
    taken[own] = True
    near = dilate(taken.view(side, side, side), _PADDING, axes=3).view(-1)
    near &= ~taken
    added = seen[near.index_select(0, seen) & allowed].long()  # (A,)
    x, y, z = (places // 2 * 2 for places in (added // side**2, added // side % side, added % side))
    present = near.copy_(taken)
    present[(x * side + y) * side + z] = True
    middle = (side // 2 - 1) // 2 * 2
    present[(middle * side + middle) * side + middle] |= ~present.any()
    keys = present.nonzero().view(-1)  # (N,)
    features = values.new_zeros(len(keys), values.shape[1])  # (N, C)
    features[taken.index_select(0, keys)] = values
    if shift:
        x, y, z = (places - shift for places in (keys // side**2, keys // side % side, keys % side))
        inside = (torch.minimum(torch.minimum(x, y), z) >= 0) & (
            torch.maximum(torch.maximum(x, y), z) < side - 1
        )
        keys, features = ((x * side + y) * side + z)[inside], features[inside]
    return keys, features
