"""Files of Matterport3D: images of real rooms, each with a camera and a frustum of its own."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import ShapeError
from skillbank_models.data.images import read_labels
from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.intrinsics import read_matrix
from skillbank_models.nvpanoptix3d.scene_arrays import (
    Rules,
    clean_depth,
    read_maps,
    read_volume,
    read_volume_labels,
    read_weighting,
)
from skillbank_models.nvpanoptix3d.scene_files import (
    RoomGeometry,
    SceneFiles,
    ScenePixels,
    SceneRecord,
    VolumePart,
)

__all__ = ["MatterportLayout"]

log = logging.getLogger(__name__)

_PER_METRE = 4000.0  # of depth images


class _Name(NamedTuple):
    """``<name>_<angle>_<rotation>``."""

    name: str
    angle: str
    rotation: str


class MatterportLayout:
    """Reads ``<data>/<scene_id>/<name>_<kind><angle>_<rotation>...``.

    Depth is read from ``depth_gen`` beside the folder of the scenes. The depth of the original release, which
    lies among the other files, does not line up with the volumes; it is used where there is no other.

    Args:
        data: the folder of the scenes.

    Source: release of Dahnert et al. 2021; depth and room masks of BUOL (Chu et al. 2023).
    """

    labelled_below = 3.0
    shifted = False
    camera: Camera | None = None

    def __init__(self, data: Path, rules: Rules) -> None:
        self.data = data
        self.rules = rules
        self._depth = _beside(data, "depth_gen")
        self._rooms = _beside(data, "room_mask")
        if not self._depth.is_dir():
            _tell_depth(self._depth)

    def fault(self, record: SceneRecord) -> str:
        """Whether the id has three parts."""
        if record.image_id.count("_") < 2:
            return (
                f"has image_id {record.image_id!r}; of Matterport3D it is <name>_<angle>_<rotation>, such as "
                '"4e87_1_4"'
            )
        return ""

    def files(self, record: SceneRecord) -> SceneFiles:
        """Files of an image."""
        name, angle, rotation = _Name(*record.image_id.rsplit("_", 2))
        folder, view = self.data / record.scene_id, f"{angle}_{rotation}"
        depth = self._depth / record.scene_id / f"{name}_d{view}.png"
        room = self._rooms / record.scene_id / f"{name}_rm{view}.png"
        return SceneFiles(
            image=folder / f"{name}_i{view}.jpg",
            depth=depth if self._depth.is_dir() else folder / depth.name,
            labels=folder / f"{name}_segmap{view}.mapped.npz",
            geometry=folder / f"{name}_geometry{view}.npz",
            segmentation=folder / f"{name}_segmentation{view}.mapped.npz",
            weighting=folder / f"{name}_weighting{view}.npz",
            camera=folder / f"{name}_intrinsics_{angle}.npy",
            room_mask=room if room.is_file() else None,
        )

    def camera_of(self, record: SceneRecord, files: SceneFiles) -> Camera:
        """The camera of the image.

        Raises:
            DataError: the matrix cannot be used.
        """
        assert files.camera is not None
        return read_matrix(files.camera, record.width, record.height)

    def pixels(self, files: SceneFiles, size: tuple[int, int]) -> ScenePixels:
        """Labels, depth and room of an image of that size.

        Raises:
            DataError: a file cannot be used.
        """
        semantic, instance = read_maps(files.labels, size, 3, self.rules)
        depth = self._grey(files.depth, size).astype(np.float32) / _PER_METRE  # (H0, W0)
        room = None if files.room_mask is None else self._grey(files.room_mask, size) > 0
        return ScenePixels(
            semantic,
            instance,
            clean_depth(depth.astype(np.float32), files.depth, self.rules, bound=True),
            room,
        )

    @staticmethod
    def _grey(path: Path, size: tuple[int, int]) -> NDArray[np.uint16]:
        values = read_labels(path)
        if values.shape != size:
            raise ShapeError(
                f"{path}: {values.shape[0]} x {values.shape[1]} pixels (height x width), but the image has "
                f"{size[0]} x {size[1]}",
                hint="write the file in the size of the image",
                key=str(path),
            )
        return values.astype(np.uint16)

    def geometry(self, files: SceneFiles) -> RoomGeometry:
        """The distance field, whose sign is dropped, and the frustum of the image.

        Raises:
            DataError: the file cannot be used.
        """
        distance, outside = read_volume(files.geometry, with_mask=True)
        return RoomGeometry(np.abs(distance.astype(np.float32)), ~outside.astype(np.bool_))

    def volume_labels(self, files: SceneFiles) -> VolumePart:
        """Classes and instances of the voxels.

        Raises:
            DataError: the file cannot be used.
        """
        return VolumePart(*read_volume_labels(files.segmentation, self.rules))

    def weighting(self, files: SceneFiles) -> NDArray[np.uint8]:
        """Weights of the voxels.

        Raises:
            DataError: the file cannot be used.
        """
        return read_weighting(files.weighting)


@cache  # splits that share a folder tell it once
def _tell_depth(folder: Path) -> None:
    log.warning(
        "there is no folder %s: the depth of the original release is used, which is several voxels beside "
        "the volumes; BUOL's depth_gen lines up",
        folder,
    )


def _beside(data: Path, name: str) -> Path:
    """A folder beside ``data``; inside it where the folder of the scenes has another name."""
    inner = data / name
    return inner if inner.is_dir() else data.parent / name
