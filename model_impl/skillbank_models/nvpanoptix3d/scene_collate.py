"""Room samples -> a batch, padded at right and bottom.

Letters: `B` batch, `M` segments of an image, `h w` its content, `H W` padded batch, `P p` plane of the 3D
stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.data.batch import MaskTarget
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.scene_set import SceneSample
from skillbank_models.nvpanoptix3d.scene_targets import FoundSegments

__all__ = ["SceneCollate"]

_GREY = 128.0  # of padding; the published pipeline pads with it


class SceneCollate:
    """Samples -> batch.

    Args:
        divisor: sides of the batch are multiples of it; None = the largest image alone decides.
    """

    def __init__(self, *, divisor: int | None) -> None:
        self.divisor = divisor or 1

    def __call__(self, samples: Sequence[SceneSample]) -> SceneBatch:
        """A batch; what a sample does not have is empty or None."""
        sizes = [(sample.image.shape[0], sample.image.shape[1]) for sample in samples]
        height, width = (self._padded(max(size[side] for size in sizes)) for side in (0, 1))
        images = torch.full((len(samples), 3, height, width), _GREY)  # (B, 3, H, W)
        for place, (sample, (h, w)) in enumerate(zip(samples, sizes, strict=True)):
            np.copyto(images[place, :, :h, :w].numpy(), sample.image.transpose(2, 0, 1))
        planes = [sample.plane for sample in samples if sample.plane is not None]
        return SceneBatch(
            images=images,
            sizes=sizes,
            original_sizes=[sample.original_size for sample in samples],
            views=[sample.view for sample in samples],
            frusta=_stacked([sample.inside for sample in samples if sample.inside is not None], len(samples)),
            room_masks=_rooms(samples),
            targets=[
                _target(sample.segments, height, width) for sample in samples if sample.segments is not None
            ],
            depths=_depths(samples, height, width),
            planes=_stacked([plane.bins for plane in planes], len(samples)),
            plane_valid=_stacked([torch.from_numpy(plane.valid) for plane in planes], len(samples)),
            volumes=[sample.volume for sample in samples if sample.volume is not None],
            weights=torch.tensor([sample.weight for sample in samples]),
            file_names=[sample.file_name for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            truths=[sample.truth for sample in samples if sample.truth is not None],
            cameras_known=tuple(sample.knows_camera for sample in samples),
        )

    def _padded(self, side: int) -> int:
        return -(-side // self.divisor) * self.divisor


def _target(segments: FoundSegments, height: int, width: int) -> MaskTarget:
    count, h, w = segments.masks.shape
    masks = torch.zeros(count, height, width, dtype=torch.bool)  # (M, H, W)
    masks[:, :h, :w] = torch.from_numpy(segments.masks)
    return MaskTarget(torch.from_numpy(segments.labels), masks)


def _depths(samples: Sequence[SceneSample], height: int, width: int) -> Tensor | None:
    found: list[NDArray[np.float32]] = [sample.depth for sample in samples if sample.depth is not None]
    if len(found) < len(samples):
        return None
    depths = torch.zeros(len(samples), height, width)  # (B, H, W)
    for place, depth in enumerate(found):
        depths[place, : depth.shape[0], : depth.shape[1]] = torch.from_numpy(depth)
    return depths


def _rooms(samples: Sequence[SceneSample]) -> Tensor | None:
    """(B, P, p); None where no image has a mask."""
    shape = next((sample.room.shape for sample in samples if sample.room is not None), None)
    if shape is None:
        return None
    rooms = torch.ones(len(samples), *shape, dtype=torch.bool)
    for place, sample in enumerate(samples):
        if sample.room is not None:
            rooms[place] = torch.from_numpy(sample.room)
    return rooms


def _stacked(parts: Sequence[Tensor], count: int) -> Tensor | None:
    """All of a batch, or None."""
    return torch.stack(list(parts)) if parts and len(parts) == count else None
