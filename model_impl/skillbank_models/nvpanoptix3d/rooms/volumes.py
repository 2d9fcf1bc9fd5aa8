"""Volumes of a view: exact distances to surfaces, and whose surface is nearest.

Letters: `X Y Z` voxels of the part of the grid that holds the frustum; axes x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.rooms.sight import Scenery
from skillbank_models.nvpanoptix3d.rooms.solids import Solid, corners, signed_distance

__all__ = ["REACH", "Field", "measure", "probe"]

Reals = NDArray[np.float32]

REACH = 12.0  # voxels; stored distances end here
_SLAB = 8  # voxels along x that are worked on at once, so that they stay in the processor's cache


@dataclass(slots=True)
class Field:
    """Distances in a part of the grid.

    Attributes:
        place: the part of the grid, along x, y, z.
        distance: (X, Y, Z) voxels to the nearest surface, at most `REACH`.
        owner: (X, Y, Z) int8, number of the piece with that surface; -1 - face of the room where it is none.
        is_solid: (X, Y, Z), inside a piece or outside the room.
    """

    place: tuple[slice, slice, slice]
    distance: Reals
    owner: NDArray[np.int8]
    is_solid: NDArray[np.bool_]


def measure(
    scenery: Scenery, view: View, place: tuple[slice, slice, slice], bodies: Collection[int]
) -> Field:
    """Distances to the walls and to some pieces of furniture.

    Every part of a piece has its whole surface, also where other parts touch it.

    Args:
        scenery: in the camera's frame.
        view: camera and grid.
        place: the part of the grid.
        bodies: numbers of the pieces.
    """
    axes = [np.arange(part.start, part.stop, dtype=np.float32) for part in place]
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    found = Field(place, np.empty(shape, np.float32), np.empty(shape, np.int8), np.empty(shape, np.bool_))
    factor, shift = 1 / view.grid.voxel, np.array(view.origin)
    _add_shell(found, scenery.shell.scaled(factor, shift), axes)
    for number in bodies:
        for solid in scenery.bodies[number].solids:
            _add_solid(found, solid.scaled(factor, shift), axes, number)
    np.minimum(found.distance, np.float32(REACH), out=found.distance)
    return found


def probe(field: Field, view: View) -> Callable[[Reals], Reals]:
    """Distance in metres at any points (3, N) of the camera's frame, as far as the field tells."""
    from scipy.ndimage import map_coordinates

    shift = np.array([view.origin[axis] - field.place[axis].start for axis in range(3)], np.float32)

    def distance_at(points: Reals) -> Reals:
        places = points / np.float32(view.grid.voxel) + shift[:, None]
        found = map_coordinates(field.distance, places, order=1, mode="nearest", prefilter=False)
        return np.asarray(found * np.float32(view.grid.voxel), np.float32)

    return distance_at


def _add_shell(field: Field, shell: Solid, axes: list[Reals]) -> None:
    """The walls: a box, of which one is inside."""
    half = shell.half.astype(np.float32)
    for start in range(0, len(axes[0]), _SLAB):
        part = slice(start, start + _SLAB)
        x, y, z = axes[0][part, None, None], axes[1][None, :, None], axes[2][None, None, :]
        signed = signed_distance(shell, x, y, z)
        field.distance[part] = np.abs(signed)
        field.is_solid[part] = signed > 0
        field.owner[part] = _face(shell, x, y, z, half)


def _face(shell: Solid, x: Reals, y: Reals, z: Reals, half: Reals) -> NDArray[np.int8]:
    """-1 - face of the room that is nearest."""
    center, turn = shell.center.astype(np.float32), shell.axes.astype(np.float32)
    best, found = None, None
    for axis in range(3):
        along = (
            turn[0, axis] * (x - center[0])
            + turn[1, axis] * (y - center[1])
            + turn[2, axis] * (z - center[2])
        )
        out = np.abs(along) - half[axis]
        name = np.where(along > 0, np.int8(-2 - 2 * axis), np.int8(-1 - 2 * axis))
        if best is None or found is None:
            best, found = out, name
        else:
            found = np.where(out > best, name, found)
            best = np.maximum(best, out)
    assert found is not None
    return found


def _add_solid(field: Field, solid: Solid, axes: list[Reals], number: int) -> None:
    points = corners(solid)
    low, high = points.min(0) - REACH, points.max(0) + REACH
    parts = [slice(*np.searchsorted(axes[axis], (low[axis], high[axis])).tolist()) for axis in range(3)]
    x, y, z = (axes[axis][part] for axis, part in enumerate(parts))
    if not (x.size and y.size and z.size):
        return
    where = tuple(parts)
    signed = signed_distance(solid, x[:, None, None], y[None, :, None], z[None, None, :])
    field.is_solid[where] |= signed < 0
    np.abs(signed, out=signed)
    nearer = signed < field.distance[where]
    np.copyto(field.distance[where], signed, where=nearer)
    np.copyto(field.owner[where], np.int8(number), where=nearer)
