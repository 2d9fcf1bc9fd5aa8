"""Surfaces of segments as sets of voxels, and how two groups of such sets overlap.

Surfaces fill less than a hundredth of a volume, so that sets are lists of the voxels they hold. Sets are made
one voxel thicker all around, after which they may share voxels.

Letters: `G` side of the volume, `g` side of the grid that is measured in, `N` pairs of a voxel and a segment,
`S` segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import ShapeError

__all__ = ["VoxelSets", "overlaps", "thick_surfaces"]

Ints = NDArray[np.int64]


class VoxelSets(NamedTuple):
    """Sets of voxels, sorted by voxel.

    Attributes:
        voxels: (N,) number of a voxel.
        owners: (N,) position of the set that holds it.
        number: S.
    """

    voxels: Ints
    owners: Ints
    number: int

    def sizes(self) -> Ints:
        """Voxels of each set, (S,)."""
        return np.bincount(self.owners, minlength=self.number)


def thick_surfaces(
    segment_map: NDArray[np.int32],
    distance: NDArray[np.float32],
    ids: Sequence[int],
    *,
    iso: float,
    downsample: int,
    inside: NDArray[np.bool_] | None,
    where: str,
) -> VoxelSets:
    """The voxels near the surface of each segment, one voxel thicker on all sides.

    Args:
        segment_map: (G, G, G), values that no id has are free space.
        distance: (G, G, G) to the nearest surface; the sign does not matter.
        ids: of the segments, each once.
        iso: voxels with a smaller distance are surface.
        downsample: 1, or 2 to halve the grid first; a cell then stands for the 3 x 3 x 3 voxels around twice
            its place.
        inside: (G, G, G), voxels that count; None when all do.
        where: the volume, for messages.

    Raises:
        ShapeError: the volumes differ in size.

    Source: published measure of Uni-3D and BUOL. Differs: thickened by one on either side, where they
    take two steps towards one side.
    """
    shapes = {segment_map.shape, distance.shape} | ({inside.shape} if inside is not None else set())
    if len(shapes) > 1:
        raise ShapeError(
            f"{where}: segments {segment_map.shape}, distances {distance.shape}"
            + (f" and frustum {inside.shape}" if inside is not None else "")
            + " differ in size",
            hint="all volumes of an image have model.frustum3d.grid_dimensions voxels per side",
        )
    flat = segment_map.reshape(-1)
    found = np.flatnonzero(flat != 0)
    found = found[np.abs(distance.reshape(-1)[found]) < iso]
    owners = _positions(flat[found], ids)
    found, owners = found[owners >= 0], owners[owners >= 0]
    places = np.stack(np.unravel_index(found, segment_map.shape))  # (3, N)
    side = segment_map.shape[0]
    if downsample != 1:
        assert downsample == 2, downsample  # the spec allows no other
        places, owners, side = *_halved(places, owners, side // 2), side // 2
        inside = inside[::2, ::2, ::2] if inside is not None else None
    return _thickened(places, owners, side, len(ids), inside)


def overlaps(first: VoxelSets, second: VoxelSets) -> NDArray[np.float64]:
    """Intersection over union of each pair of sets, (S, S'); 0 where both are empty."""
    start = np.searchsorted(second.voxels, first.voxels, side="left")
    partners = np.searchsorted(second.voxels, first.voxels, side="right") - start  # (N,) sets with that voxel
    ours = np.repeat(first.owners, partners)
    skipped = np.cumsum(partners) - partners
    theirs = second.owners[np.arange(ours.size) + np.repeat(start - skipped, partners)]
    pairs = np.bincount(ours * second.number + theirs, minlength=first.number * second.number)
    shared = pairs.reshape(first.number, second.number)  # (S, S')
    union = first.sizes()[:, None] + second.sizes() - shared
    out: NDArray[np.float64] = shared / np.maximum(union, 1)
    return out


def _positions(values: NDArray[np.int32], ids: Sequence[int]) -> Ints:
    """Position of each value in `ids`, -1 for values that are not there."""
    known = np.array(ids, dtype=np.int64)
    if not known.size:
        return np.full(values.size, -1, dtype=np.int64)
    order = np.argsort(known)
    at = np.searchsorted(known[order], values).clip(max=known.size - 1)
    return np.where(known[order][at] == values, order[at], -1)


def _halved(places: Ints, owners: Ints, side: int) -> tuple[Ints, Ints]:
    """Maximum over 3 x 3 x 3 in steps of two: odd coordinates fall into two cells; with repetitions."""
    for axis in range(3):
        odd = np.flatnonzero(places[axis] & 1)
        places[axis] >>= 1
        more = places[:, odd]
        more[axis] += 1
        odd, more = odd[more[axis] < side], more[:, more[axis] < side]
        places, owners = np.concatenate([places, more], axis=1), np.concatenate([owners, owners[odd]])
    return places, owners


def _thickened(
    places: Ints, owners: Ints, side: int, count: int, inside: NDArray[np.bool_] | None
) -> VoxelSets:
    """Every voxel with its 26 neighbours, as far as they are inside, each once for a set."""
    wide = side + 2  # a margin, so that steps over an edge do not come out at the other side
    steps = (wide * wide * count, wide * count, count)
    pairs = owners + sum((axis + 1) * step for axis, step in zip(places, steps, strict=True))  # (N,)
    pairs = _unique(pairs)
    for step in steps:
        pairs = _unique(np.concatenate([pairs - step, pairs, pairs + step]))
    voxels, owners = np.divmod(pairs, max(count, 1))
    x, y, z = np.stack(np.unravel_index(voxels, (wide, wide, wide))) - 1  # (N,) each
    in_grid = (np.minimum(np.minimum(x, y), z) >= 0) & (np.maximum(np.maximum(x, y), z) < side)
    if inside is not None:
        in_grid[in_grid] = inside[x[in_grid], y[in_grid], z[in_grid]]
    return VoxelSets(voxels[in_grid], owners[in_grid], count)


def _unique(values: Ints) -> Ints:
    """Sorted, each once; quick on runs that are sorted already, which the stable sort merges."""
    values = np.sort(values, kind="stable")
    keep = np.ones(values.size, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return values[keep]
