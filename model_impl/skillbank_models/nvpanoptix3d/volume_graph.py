"""Sparse layers as a graph of standard operators: voxels whose number follows from the data.

The layers of `skillbank_models.sparse` ask for sorted keys and caches, which no exporter can follow. Here a
grid of row numbers says where each voxel is, so that every neighbour is one look-up; all else is products of
matrices. One image at a time.

Letters: `N` voxels, `M` voxels of a result, `C D` channels, `T` taps, `S` side of the grid.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skillbank_models.nvpanoptix3d.frustum_blocks import SparseBlock
from skillbank_models.sparse.layers import (
    EPSILON,
    GenerativeConv3d,
    SparseInstanceNorm,
    SparseLinear,
    SparseVoxelNorm,
    StridedConv3d,
    SubmanifoldConv3d,
)

__all__ = [
    "Voxels",
    "best",
    "block",
    "fits",
    "generate",
    "grid_of",
    "join",
    "look_up",
    "norm",
    "read_grid",
    "select",
    "submanifold",
    "voxels_at",
    "voxels_in",
]

AT_ONCE = 9  # taps that are multiplied together: few nodes in a graph, and 9 rows for each voxel in memory
BEFORE, BEHIND = 1, 2  # cells around a grid, so that look-ups of a kernel of 3 or 4 never leave it


class Voxels(NamedTuple):
    """Channels of some voxels.

    Attributes:
        features: (N, C).
        coords: (N, 3) int64.
        table: ((S + 3) ** 3,) int32, 1 + the row of the voxel at each place of the widened grid, 0 = none.
        side: S.
    """

    features: Tensor
    coords: Tensor
    table: Tensor
    side: int

    def with_features(self, features: Tensor) -> Voxels:
        """Other channels of the same voxels."""
        return Voxels(features, self.coords, self.table, self.side)


def voxels_at(features: Tensor, coords: Tensor, side: int) -> Voxels:
    """Voxels at coordinates (N, 3) int64, each there once."""
    places = _places(coords, side)
    numbers = torch.arange(1, coords.shape[0] + 1, dtype=torch.int32, device=coords.device)
    table = torch.zeros((side + BEFORE + BEHIND) ** 3, dtype=torch.int32, device=coords.device)
    return Voxels(features, coords, table.scatter(0, places, numbers), side)


def voxels_in(active: Tensor) -> Voxels:
    """Voxels of a grid (S, S, S) bool, without channels."""
    coords = active.nonzero()  # (N, 3)
    return voxels_at(torch.zeros(coords.shape[0], 0, device=active.device), coords, active.shape[-1])


def grid_of(x: Voxels) -> Tensor:
    """(C, S, S, S) with zeros where no voxel is."""
    side = (x.side,) * 3
    return _rows(x.features, _inner(x.table, x.side).flatten()).view(*side, -1).permute(3, 0, 1, 2)


def join(first: Voxels, second: Voxels) -> Voxels:
    """Voxels of either, with the channels of both."""
    found = voxels_in((_inner(first.table, first.side) > 0) | (_inner(second.table, first.side) > 0))
    places = _places(found.coords, found.side)
    parts = [_rows(part.features, part.table.index_select(0, places)) for part in (first, second)]
    return found.with_features(torch.cat(parts, 1))


def select(x: Voxels, keep: Tensor) -> Voxels:
    """Those voxels for which (N,) is true."""
    row = keep.nonzero()[:, 0]
    return voxels_at(x.features.index_select(0, row), x.coords.index_select(0, row), x.side)


def read_grid(grid: Tensor, coords: Tensor) -> Tensor:
    """Values (N, C) of a grid (C, S, S, S) at coordinates (N, 3)."""
    side = grid.shape[-1]
    x, y, z = coords.unbind(1)
    return grid.flatten(1).t().index_select(0, (x * side + y) * side + z)


def look_up(x: Voxels, coords: Tensor, *, missing: float) -> Tensor:
    """Features (M, C) at coordinates (M, 3); `missing` where no voxel is."""
    row = x.table.index_select(0, _places(coords, x.side))  # (M,)
    return F.pad(x.features, (0, 0, 1, 0), value=missing).index_select(0, row)


def best(scores: Tensor, most: int) -> Tensor:
    """The `most` highest scores (N,), the first of equal ones; (N,) bool."""
    return _ranks(scores) < most


def fits(x: Voxels, scores: Tensor, within: Tensor, most: int) -> Tensor:
    """Parents (N,) bool with at most `most` children in (2 S, 2 S, 2 S) bool, best first.

    See `frustum_pruning.affordable_parents`. Here the best parent of a cell is the least of eight shifted
    grids, as not all runtimes can scatter the least of several values.
    """
    side, number = x.side, scores.shape[0]
    rank = _ranks(scores)
    padded = torch.full_like(x.table, number).scatter(0, _places(x.coords, side), rank.int())
    grid = padded.view(*(side + BEFORE + BEHIND,) * 3)
    first = grid
    for axis in range(3):
        first = torch.minimum(first, first.roll(1, axis))
    own = slice(BEFORE, BEFORE + side)
    children = within.view(*(side, 2) * 3).int().sum((1, 3, 5))  # (S, S, S)
    new = torch.zeros(number + 1, dtype=torch.int32, device=rank.device)
    new = new.scatter_add(0, first[own, own, own].flatten().long(), children.flatten().int())
    return new[:-1].cumsum(0).index_select(0, rank) <= most


def block(x: Voxels, layer: SparseBlock) -> Voxels:
    """A residual block."""
    if isinstance(layer.conv1, StridedConv3d):
        y = _coarser(x)
        shortcut = layer.shortcut
        assert isinstance(shortcut, StridedConv3d)
        assert layer.shortcut_norm is not None
        near, wide = _neighbours(x, 2 * y.coords, range(-1, 2)), _neighbours(x, 2 * y.coords, range(4))
        features = F.relu(norm(_convolve(x.features, near, layer.conv1.weight), layer.norm1))
        kept = norm(_convolve(x.features, wide, shortcut.weight), layer.shortcut_norm)
    else:
        y, kept = x, x.features
        near = _neighbours(x, x.coords, range(-1, 2))
        features = F.relu(norm(_convolve(x.features, near, layer.conv1.weight), layer.norm1))
        if isinstance(layer.shortcut, SparseLinear):
            assert layer.shortcut_norm is not None
            kept = norm(_linear(x.features, layer.shortcut), layer.shortcut_norm)
    near = _neighbours(y, y.coords, range(-1, 2))
    features = norm(_convolve(features, near, layer.conv2.weight), layer.norm2)
    return y.with_features(F.relu(features + kept))


def submanifold(x: Voxels, layer: SubmanifoldConv3d) -> Tensor:
    """A convolution that keeps the voxels, (N, D)."""
    out = _convolve(x.features, _neighbours(x, x.coords, range(-1, 2)), layer.weight)
    return out if layer.bias is None else out + layer.bias


def generate(x: Voxels, layer: GenerativeConv3d, within: Tensor) -> Voxels:
    """All children of the voxels inside (2 S, 2 S, 2 S) bool.

    A child reads two parents along each axis. Each parent goes through all 64 taps at once, and the children
    pick their eight products.
    """
    grid = (x.table > 0).view(*(x.side + BEFORE + BEHIND,) * 3)
    for axis in range(3):
        grid = grid | grid.roll(1, axis)  # what comes round lands behind the grid's own cells or before them
    own = slice(BEFORE, BEFORE + x.side)
    cells = grid[own, own, own]  # (S, S, S)
    wide = cells.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)  # (2 S, 2 S, 2 S)
    y = voxels_in(wide & within)
    taps, _, width = layer.weight.shape
    products = x.features @ layer.weight.permute(1, 0, 2).flatten(1)  # (N, T D)
    products = F.pad(products.view(-1, width), (0, 0, taps, 0))  # ((N + 1) T, D)
    back = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=wide.device)  # (8, 3)
    parents = (y.coords // 2)[:, None] - back  # (M, 8, 3)
    rows = x.table.index_select(0, _places(parents.flatten(0, 1), x.side))
    i, j, k = ((y.coords % 2)[:, None] + 2 * back).unbind(2)  # (M, 8) each
    places = rows.long() * taps + ((i * 4 + j) * 4 + k).flatten()  # (8 M,)
    return y.with_features(products.index_select(0, places).view(-1, len(back), width).sum(1))


def norm(x: Tensor, layer: SparseInstanceNorm | SparseVoxelNorm) -> Tensor:
    """Norm of one image's voxels, (N, C) to the same shape."""
    axis = 0 if isinstance(layer, SparseInstanceNorm) else 1
    away = x - x.mean(axis, keepdim=True)
    scaled = away * torch.rsqrt(away.square().mean(axis, keepdim=True) + EPSILON)
    if isinstance(layer, SparseVoxelNorm) or layer.weight is None or layer.bias is None:
        return scaled
    return scaled * layer.weight + layer.bias


def _convolve(features: Tensor, neighbours: Tensor, weight: Tensor) -> Tensor:
    """(M, D): rows (N, C) that (M, T) names, times weights (T, C, D), summed."""
    taps, channels, width = weight.shape
    out = torch.zeros(neighbours.shape[0], width, device=features.device)
    first = F.pad(features, (0, 0, 1, 0))  # (N + 1, C)
    for start in range(0, taps, AT_ONCE):
        own, rows = (
            weight[start : start + AT_ONCE],
            neighbours[:, start : start + AT_ONCE],
        )  # (t, C, D), (M, t)
        some = own.shape[0]
        if channels > width:  # the narrow side is gathered
            products = (first @ own.permute(1, 0, 2).flatten(1)).view(-1, width)  # ((N + 1) t, D)
            places = (rows * some + torch.arange(some, device=rows.device)).flatten()
            out = out + products.index_select(0, places).view(-1, some, width).sum(1)
        else:
            out = out + first.index_select(0, rows.flatten()).view(-1, some * channels) @ own.flatten(0, 1)
    return out


def _linear(features: Tensor, layer: SparseLinear) -> Tensor:
    return F.linear(features, layer.weight, layer.bias)


def _neighbours(x: Voxels, coords: Tensor, reach: range) -> Tensor:
    """(M, T) int64: 1 + rows of the voxels that a kernel reads around coordinates (M, 3), 0 = none."""
    wide = x.side + BEFORE + BEHIND
    steps = [(i * wide + j) * wide + k for i, j, k in itertools.product(reach, repeat=3)]
    places = _places(coords, x.side)[:, None] + torch.tensor(steps, device=coords.device)  # (M, T)
    return x.table.index_select(0, places.flatten()).view(-1, len(steps)).long()


def _coarser(x: Voxels) -> Voxels:
    """Cells of twice the edge with a voxel, without channels."""
    active = (_inner(x.table, x.side) > 0).view(*(x.side // 2, 2) * 3)
    return voxels_in(active.any(5).any(3).any(1))


def _places(coords: Tensor, side: int) -> Tensor:
    """Places of coordinates (N, 3) in the table."""
    wide = side + BEFORE + BEHIND
    x, y, z = (coords + BEFORE).unbind(1)
    return (x * wide + y) * wide + z


def _inner(table: Tensor, side: int) -> Tensor:
    """The table without its border, (S, S, S)."""
    own = slice(BEFORE, BEFORE + side)
    return table.view(*(side + BEFORE + BEHIND,) * 3)[own, own, own]


def _rows(features: Tensor, numbers: Tensor) -> Tensor:
    """Rows of (N, C), numbered from 1; 0 gives zeros."""
    return F.pad(features, (0, 0, 1, 0)).index_select(0, numbers)


def _ranks(scores: Tensor) -> Tensor:
    """Place of each score (N,) in descending order, (N,) int64."""
    # the exporter knows no stable sort; of equal scores ONNX takes the first, as torch does on a CPU
    order = scores.sort(descending=True).indices
    return torch.zeros_like(order).scatter(0, order, torch.arange(scores.shape[0], device=scores.device))
