"""What an image teaches, and what it is measured against, from its maps of classes and instances.

Letters: `M` segments, `h w` image, `G` side of the grid, `L` labelled voxels.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from skillbank_models.data.batch import IGNORE, SegmentTruth, Truth
from skillbank_models.nvpanoptix3d.batch import VolumeTruth
from skillbank_models.nvpanoptix3d.volumes import VolumeLabels

__all__ = ["FoundSegments", "find_segments", "image_truth", "owner_volume", "volume_truth"]

Ids = NDArray[np.int32]
Kind = TypeVar("Kind", bound=np.generic)


class FoundSegments(NamedTuple):
    """Segments that are learnt: things by ascending id, then stuff by ascending class.

    Attributes:
        labels: (M,) int64.
        masks: (M, h, w) bool; they may overlap.
        ids: (M,) int64, instance id of a thing, 0 for stuff.
    """

    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    ids: NDArray[np.int64]


def find_segments(
    semantic: Ids, instance: Ids, *, num_classes: int, num_things: int, min_pixels: int
) -> FoundSegments:
    """Segments of an image.

    An instance is left out when it has `min_pixels` or fewer, or when most of its pixels are void or stuff.
    Stuff is one segment for each class.

    Args:
        semantic: (h, w) classes, 0 = void.
        instance: (h, w) ids, 0 = none.

    Source: target rules of Uni-3D (Zhang et al. 2023). Differs: class 12 of 3D-Front counts as stuff.
    """
    numbers, ranks = np.unique(instance, return_inverse=True)
    ranks = ranks.reshape(instance.shape)  # (h, w)
    votes = np.bincount(
        (ranks * num_classes + semantic).ravel(), minlength=len(numbers) * num_classes
    ).reshape(len(numbers), num_classes)  # (instances, classes)
    classes = votes.argmax(1)
    is_target = (numbers > 0) & (votes.sum(1) > min_pixels) & (classes > 0) & (classes <= num_things)
    things = np.flatnonzero(is_target)
    stuff = [label for label in range(num_things + 1, num_classes) if votes[:, label].any()]
    masks = [ranks == rank for rank in things] + [semantic == label for label in stuff]
    return FoundSegments(
        labels=np.array([*classes[things], *stuff], np.int64),
        masks=np.stack(masks) if masks else np.zeros((0, *semantic.shape), np.bool_),  # (M, h, w)
        ids=np.array([*numbers[things], *([0] * len(stuff))], np.int64),
    )


def owner_volume(labels: VolumeLabels, segments: FoundSegments, side: int) -> NDArray[np.int16]:
    """The segment of each voxel, (G, G, G): 0, or 1 + its row in `segments`.

    A voxel is a thing's by its instance id, and stuff's by its class; a voxel of both is stuff's.
    """
    owners = np.zeros(len(labels.places), np.int16)  # (L,)
    for row, (label, number) in enumerate(zip(segments.labels, segments.ids, strict=True)):
        owners[labels.instances == number if number else labels.classes == label] = row + 1
    return _painted(labels, owners, side)


def image_truth(semantic: Ids, instance: Ids, *, num_things: int) -> Truth:
    """Segments of an image for measures: each instance of a thing class, and each stuff class as one."""
    keys = np.where(semantic > num_things, 0, instance.astype(np.int64))  # (h, w)
    keys += semantic.astype(np.int64) << 32
    keys[semantic == 0] = 0
    numbers, ranks, areas = np.unique(keys, return_inverse=True, return_counts=True)
    first = int(numbers[0] > 0)  # segment ids count from 1, whether or not there is void
    segments = [
        SegmentTruth(id=place + first, label=int(number >> 32), is_crowd=False, area=int(area))
        for place, (number, area) in enumerate(zip(numbers, areas, strict=True))
        if number
    ]
    return Truth(
        class_map=np.where(semantic > 0, semantic, IGNORE).astype(np.int32),
        segment_map=(ranks.reshape(semantic.shape) + first).astype(np.int32),
        segments=segments,
    )


def volume_truth(
    labels: VolumeLabels, distance: NDArray[np.float32], *, num_classes: int, num_things: int
) -> VolumeTruth:
    """Segments of a volume for measures.

    Stuff classes have the ids 1, 2, ... in their order; instances follow by ascending id, each with the class
    that most of its voxels have which are neither void nor stuff. One without such voxels is no segment.
    Voxels of stuff belong to stuff, whatever their instance.

    Args:
        distance: (G, G, G), unsigned, in voxels.
    """
    stuff = range(num_things + 1, num_classes)
    is_stuff = labels.classes > num_things
    numbers, ranks = np.unique(labels.instances, return_inverse=True)
    votes = np.bincount(ranks * num_classes + labels.classes, minlength=len(numbers) * num_classes)
    votes = votes.reshape(len(numbers), num_classes)[:, : num_things + 1]  # (instances, things + 1)
    votes[:, 0] = 0
    is_segment = (numbers > 0) & votes.any(1)
    ids = np.where(numbers > 0, np.cumsum(numbers > 0) + len(stuff), 0) * is_segment
    found = ids[ranks]  # (L,)
    found[is_stuff] = labels.classes[is_stuff].astype(np.int64) - num_things
    things = {int(ids[place]): int(votes[place].argmax()) for place in np.flatnonzero(is_segment)}
    present = {number: label for number, label in enumerate(stuff, start=1) if (found == number).any()}
    return VolumeTruth(
        segment_map=_painted(labels, found.astype(np.int32), len(distance)),
        labels=things | present,
        distance=distance,
    )


def _painted(labels: VolumeLabels, values: NDArray[Kind], side: int) -> NDArray[Kind]:
    volume = np.zeros(side**3, values.dtype)
    volume[labels.places] = values
    return volume.reshape((side,) * 3)  # (G, G, G)
