"""Files of 3D-Front, and of the synthetic sets, which have the same layout.

Volumes are stored mirrored in x and y; the reader turns them. They lie up to 0.75 voxels beside the grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import ShapeError
from skillbank_models.data.exr import read_exr
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Camera
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

__all__ = ["MIRRORED", "Front3dLayout"]

MIRRORED = (0, 1)  # axes of a stored volume that run against x and y


class Front3dLayout:
    """Reads ``<data>/<scene_id>/<kind>_<image_id>...``.

    Args:
        data: the folder of the scenes.

    Source: release of Dahnert et al. 2021, "Panoptic 3D Scene Reconstruction from a Single RGB Image".
    """

    labelled_below = 1.0
    shifted = True
    camera: Camera | None = FRONT3D_CAMERA

    def __init__(self, data: Path, rules: Rules) -> None:
        self.data = data
        self.rules = rules

    def fault(self, record: SceneRecord) -> str:
        """Every id is possible."""
        return ""

    def files(self, record: SceneRecord) -> SceneFiles:
        """Files of an image."""
        folder, name = self.data / record.scene_id, record.image_id
        return SceneFiles(
            image=self._image(record, folder),
            depth=folder / f"depth_{name}.exr",
            labels=folder / f"segmap_{name}.mapped.npz",
            geometry=folder / f"geometry_{name}.npz",
            segmentation=folder / f"segmentation_{name}.mapped.npz",
            weighting=folder / f"weighting_{name}.npz",
            camera=None,
            room_mask=None,
        )

    def _image(self, record: SceneRecord, folder: Path) -> Path:
        if not record.file_name:
            return folder / f"rgb_{record.image_id}.png"
        places = [self.data.parent, self.data, folder]  # an absolute path replaces them
        found = (place / record.file_name for place in places if (place / record.file_name).is_file())
        return next(found, self.data / record.file_name)

    def camera_of(self, record: SceneRecord, files: SceneFiles) -> Camera:
        """The camera that all images share."""
        return FRONT3D_CAMERA.scaled(record.width, record.height)

    def pixels(self, files: SceneFiles, size: tuple[int, int]) -> ScenePixels:
        """Labels and depth of an image of that size.

        Raises:
            DataError: a file cannot be used.
        """
        semantic, instance = read_maps(files.labels, size, 2, self.rules)
        depth = read_exr(files.depth)  # (H0, W0)
        if depth.shape != size:
            raise ShapeError(
                f"{files.depth}: {depth.shape[0]} x {depth.shape[1]} pixels (height x width), but the image "
                f"has {size[0]} x {size[1]}",
                hint="write the depth in the size of the image",
                key=str(files.depth),
            )
        return ScenePixels(
            semantic, instance, clean_depth(depth, files.depth, self.rules, bound=self.rules.bound), None
        )

    def geometry(self, files: SceneFiles) -> RoomGeometry:
        """The distance field; the frustum is the same for all images.

        Raises:
            DataError: the file cannot be used.
        """
        (distance,) = read_volume(files.geometry, with_mask=False)
        return RoomGeometry(np.abs(np.flip(distance, MIRRORED).astype(np.float32, order="C")), None)

    def volume_labels(self, files: SceneFiles) -> VolumePart:
        """Classes and instances of the voxels.

        Raises:
            DataError: the file cannot be used.
        """
        semantic, instance = read_volume_labels(files.segmentation, self.rules)
        return VolumePart(np.flip(semantic, MIRRORED), np.flip(instance, MIRRORED))

    def weighting(self, files: SceneFiles) -> NDArray[np.uint8]:
        """Weights of the voxels.

        Raises:
            DataError: the file cannot be used.
        """
        return np.ascontiguousarray(np.flip(read_weighting(files.weighting), MIRRORED))
