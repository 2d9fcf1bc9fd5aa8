"""Stored volumes at the side of the grid in use, and small copies of them that are read many times faster.

Letters: `G` side of the grid, `r` stored voxels per voxel of the grid along an axis, `L` labelled voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.camera import STORED_SIDE
from skillbank_models.nvpanoptix3d.scene_files import Layout, RoomGeometry, SceneFiles, VolumePart
from skillbank_models.nvpanoptix3d.volume_copies import VolumeCopies

__all__ = [
    "Room",
    "VolumeLabels",
    "pick_labels",
    "reduce_distance",
    "reduce_inside",
    "reduce_weighting",
    "spread_labels",
]

_LEVELS = 20  # of a copied distance per voxel; thresholds that are multiples of 1/20 stay exact


class VolumeLabels(NamedTuple):
    """The labelled voxels of a volume.

    Attributes:
        places: (L,) int32, x * G * G + y * G + z, ascending.
        classes: (L,) uint8, 0 = void.
        instances: (L,) int32, 0 = none.
    """

    places: NDArray[np.int32]
    classes: NDArray[np.uint8]
    instances: NDArray[np.int32]


class Room:
    """The volumes of one image; each is read when it is asked for.

    Args:
        side: G; divides 256.
        copies: where small copies are kept; None = nowhere.
    """

    def __init__(self, files: SceneFiles, layout: Layout, side: int, copies: VolumeCopies | None) -> None:
        self._files = files
        self._layout = layout
        self._side = side
        self._factor = STORED_SIDE // side
        self._copies = copies

    @cached_property
    def _stored(self) -> RoomGeometry:
        return self._layout.geometry(self._files)

    def geometry(self) -> RoomGeometry:
        """Distance (G, G, G) float32 in voxels of the grid, and the frustum where the files have one.

        Raises:
            DataError: the file cannot be used.
        """
        arrays = self._copied("geometry", [self._files.geometry], self._pack_geometry)
        if arrays is None:
            return self._reduced
        distance = arrays["distance"].astype(np.float32)  # (G, G, G)
        distance += np.float32(0.5)
        distance *= np.float32(1 / _LEVELS)
        inside = None
        if "inside" in arrays:
            bits = np.unpackbits(arrays["inside"], count=self._side**3)  # (G * G * G,)
            inside = bits.view(np.bool_).reshape((self._side,) * 3)
        return RoomGeometry(distance, inside)

    def labels(self) -> VolumeLabels:
        """The labelled voxels.

        Raises:
            DataError: a file cannot be used.
        """
        sources = [self._files.segmentation]
        if self._factor > 1:
            sources.append(self._files.geometry)
        arrays = self._copied("labels", sources, lambda: self._picked()._asdict())
        if arrays is None:
            return self._picked()
        return VolumeLabels(
            arrays["places"].astype(np.int32, copy=False),
            arrays["classes"],
            arrays["instances"].astype(np.int32, copy=False),
        )

    def weighting(self) -> NDArray[np.uint8]:
        """Weights in the losses, (G, G, G).

        Raises:
            DataError: the file cannot be used.
        """

        def read() -> NDArray[np.uint8]:
            return reduce_weighting(self._layout.weighting(self._files), self._factor)

        arrays = self._copied("weighting", [self._files.weighting], lambda: {"weighting": read()})
        return read() if arrays is None else arrays["weighting"]

    def _copied(
        self, kind: str, sources: list[Path], build: Callable[[], dict[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]] | None:
        return None if self._copies is None else self._copies.get(kind, self._side, sources, build)

    @cached_property
    def _reduced(self) -> RoomGeometry:
        distance, inside = self._stored
        return RoomGeometry(
            reduce_distance(distance, inside, self._factor),
            None if inside is None else reduce_inside(inside, self._factor),
        )

    def _picked(self) -> VolumeLabels:
        part = self._layout.volume_labels(self._files)
        if self._factor == 1:
            return pick_labels(part, np.empty(0, np.float32), 1)
        picked = pick_labels(part, self._stored.distance, self._factor)
        return spread_labels(picked, self._reduced.distance, self._layout.labelled_below)

    def _pack_geometry(self) -> dict[str, NDArray[Any]]:
        distance, inside = self._reduced
        levels = np.minimum(distance * np.float32(_LEVELS), 255).astype(np.uint8)  # (G, G, G), rounded down
        return {"distance": levels} | ({} if inside is None else {"inside": np.packbits(inside)})


def reduce_distance(
    distance: NDArray[np.float32], inside: NDArray[np.bool_] | None, factor: int
) -> NDArray[np.float32]:
    """The distance field on a coarser grid, in its voxels: the mean of each block, over voxels inside.

    Stored distances end at 12 stored voxels, which are fewer on the coarser grid; farther away the distance
    to the nearest voxel that has one is added, so that limits in voxels keep their meaning.
    """
    if factor == 1:
        return distance
    if inside is None:
        mean = _block_sums(distance, factor) / np.float32(factor**4)  # (G, G, G)
    else:
        count = _block_sums(inside.astype(np.float32), factor)
        total = _block_sums(np.where(inside, distance, np.float32(0)), factor)
        mean = np.where(count > 0, total / np.maximum(count, 1), distance.max()) / np.float32(factor)
    limit = float(distance.max()) / factor
    known = mean < limit - 1
    if not known.any() or known.all():
        return mean.astype(np.float32)
    from scipy import ndimage

    away, nearest = ndimage.distance_transform_edt(~known, return_indices=True)  # (G, G, G), (3, G, G, G)
    far = np.maximum(mean, mean[tuple(nearest)] + away)
    return np.where(known, mean, far).astype(np.float32)


def reduce_inside(inside: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Blocks of which a voxel is inside."""
    return inside if factor == 1 else _blocks(inside, factor).max(axis=(1, 3, 5))  # (G, G, G)


def reduce_weighting(weights: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The largest weight of each block."""
    return weights if factor == 1 else _blocks(weights, factor).max(axis=(1, 3, 5))  # (G, G, G)


def pick_labels(part: VolumePart, distance: NDArray[np.float32], factor: int) -> VolumeLabels:
    """The labelled voxels; of each block the one that is nearest to a surface.

    Args:
        distance: (256, 256, 256), of the stored voxels; not looked at where blocks are single voxels.
    """
    labelled = (part.semantic > 0) | (part.instance > 0)
    places = np.flatnonzero(labelled)  # (L,)
    classes = part.semantic[labelled].astype(np.uint8)
    instances = part.instance[labelled]
    if factor > 1:
        x, y, z = (axis // factor for axis in np.unravel_index(places, labelled.shape))
        side = len(labelled) // factor
        blocks = (x * side + y) * side + z
        order = np.lexsort((distance[labelled], blocks))
        places, first = np.unique(blocks[order], return_index=True)
        chosen = order[first]
        classes, instances = classes[chosen], instances[chosen]
    return VolumeLabels(places.astype(np.int32), classes, instances)


def spread_labels(labels: VolumeLabels, distance: NDArray[np.float32], reach: float) -> VolumeLabels:
    """Labels on all voxels of a reduced grid that are nearer to a surface than `reach`, and on no others.

    Stored labels are like that, in stored voxels; a measure that compares voxels near surfaces needs it at
    every side. A voxel without a label takes that of the nearest one.

    Args:
        distance: (G, G, G) in voxels of the grid.
        reach: in voxels.
    """
    near = distance < reach
    if not len(labels.places) or not near.any():
        return VolumeLabels(labels.places[:0], labels.classes[:0], labels.instances[:0])
    from scipy import ndimage

    rows = np.full(distance.size, -1, np.int32)
    rows[labels.places] = np.arange(len(labels.places), dtype=np.int32)
    row = rows.reshape(distance.shape)  # (G, G, G)
    nearest = ndimage.distance_transform_edt(row < 0, return_distances=False, return_indices=True)
    chosen = row[tuple(axis[near] for axis in nearest)]  # (L,)
    places = np.flatnonzero(near).astype(np.int32)
    return VolumeLabels(places, labels.classes[chosen], labels.instances[chosen])


def _blocks(volume: NDArray[Any], factor: int) -> NDArray[Any]:
    side = len(volume) // factor
    return volume.reshape(side, factor, side, factor, side, factor)


def _block_sums(volume: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Sums over blocks, one axis after the other, which reads the memory in order."""
    for axis in (2, 1, 0):
        shape = [*volume.shape[:axis], volume.shape[axis] // factor, factor, *volume.shape[axis + 1 :]]
        volume = volume.reshape(shape).sum(axis=axis + 1)
    return volume  # (G, G, G)
