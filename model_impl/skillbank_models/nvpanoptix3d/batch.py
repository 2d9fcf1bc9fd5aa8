"""What a batch of rooms holds: the contract between data, network, losses and measures.

Letters: `B` batch, `M` ground-truth segments of one image, `H W` padded input, `H0 W0` labels as stored,
`D` depth bins, `h w` image plane of the 3D stage, `G` side of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.data.batch import MaskTarget, Truth
from skillbank_models.nvpanoptix3d.camera import View

__all__ = ["SceneBatch", "SceneTruth", "VolumeTarget", "VolumeTruth"]


class VolumeTarget(NamedTuple):
    """What one image teaches in 3D; axes x right, y down, z forward.

    Attributes:
        distance: (G, G, G) float32, unsigned distance to the nearest surface, in voxels, clipped to
            `dataset.truncation_range`.
        weighting: (G, G, G) uint8, weight of a voxel in the losses.
        owner: (G, G, G) int16, 0 or 1 + the row of the image's `MaskTarget` that the voxel belongs to.
    """

    distance: Tensor
    weighting: Tensor
    owner: Tensor


@dataclass(slots=True)
class VolumeTruth:
    """Annotated volume of one image, for measures.

    Loader processes hand it over in shared memory; through a pipe, the arrays would take seconds.

    Attributes:
        segment_map: (G, G, G) int32, 0 or the id of a segment.
        labels: class 1..12 of each id, in the order in which the measure visits them: things, then stuff.
        distance: (G, G, G) float32, unsigned, in voxels.
    """

    segment_map: NDArray[np.int32]
    labels: dict[int, int]
    distance: NDArray[np.float32]

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_tensors, (
            torch.from_numpy(self.segment_map),
            self.labels,
            torch.from_numpy(self.distance),
        )


def _from_tensors(segment_map: Tensor, labels: dict[int, int], distance: Tensor) -> VolumeTruth:
    return VolumeTruth(segment_map.numpy(), labels, distance.numpy())


@dataclass(slots=True)
class SceneTruth:
    """Annotations of one image for measures.

    Attributes:
        image: classes and segments at (H0, W0); classes are 0..12 as in the label map, `IGNORE` for void.
        depth: (H0, W0) float32 metres, 0 where unknown.
        volume: None in stage 1.
    """

    image: Truth
    depth: NDArray[np.float32]
    volume: VolumeTruth | None


class SceneBatch(NamedTuple):
    """Images of one step. Lists have one entry for each image, or none where nothing is annotated.

    Attributes:
        images: (B, 3, H, W) float32, RGB 0..255, padded at right and bottom.
        sizes: (height, width) of the content inside the padded image.
        original_sizes: (H0, W0) of the image as stored, after EXIF orientation.
        views: camera of the content and the grid it looks into, after augmentation.
        frusta: (B, G, G, G) bool, voxels inside the frustum; None in stage 1.
        room_masks: (B, h, w) bool, pixels of the reconstructed room; None where all of them are.
        targets: labels and masks (M, H, W), for training and validation.
        depths: (B, H, W) float32 metres, 0 = unknown or padding; None in inference.
        planes: (B, D, h, w) bool, bins near a surface; None without `dataset.enable_mp_occ`.
        plane_valid: (B, h, w) bool, pixels that count in the loss of `planes`.
        volumes: for stage 2.
        weights: (B,) float32, weight of an image in the losses.
        file_names: path of each image.
        image_ids: ``<scene_id>/<image_id>``, or the path relative to the image folder.
        truths: for measures.
        cameras_known: whether the camera of each view is that of its image; where it is not, a stand-in is
            there until the camera head tells a better one. Empty = all are known.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    views: list[View]
    frusta: Tensor | None
    room_masks: Tensor | None
    targets: list[MaskTarget]
    depths: Tensor | None
    planes: Tensor | None
    plane_valid: Tensor | None
    volumes: list[VolumeTarget]
    weights: Tensor
    file_names: list[str]
    image_ids: list[str]
    truths: list[SceneTruth]
    cameras_known: tuple[bool, ...] = ()
