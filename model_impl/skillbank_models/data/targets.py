"""What an image teaches and what it is measured against, for each task, from its annotated regions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skillbank_models.data.batch import IGNORE, VOID, SegmentTruth, Truth
from skillbank_models.data.categories import Categories
from skillbank_models.data.regions import MapRegions, MaskRegions, Regions
from skillbank_models.data.run_lengths import encode_mask

__all__ = ["Task", "build_targets", "build_truth"]

Task = Literal["panoptic", "instance", "semantic"]


def build_targets(
    regions: Regions, *, task: Task, categories: Categories
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels (M,) and masks (M, h, w) of one image; M = 0 where nothing is left.

    semantic: one target for each class, crowds included, whose pixels have a class too. panoptic: one for
    each segment that is no crowd. instance: the same, things only. Targets without a pixel are dropped.
    """
    labels = regions.labels
    if task == "semantic":
        present = sorted(set(labels.tolist()))
        groups = [np.flatnonzero(labels == label).tolist() for label in present]
        found = np.asarray(present, np.int64)  # (M,)
    else:
        wanted = [
            place
            for place, label in enumerate(labels.tolist())
            if not regions.is_crowd[place] and (task == "panoptic" or categories.is_thing(label))
        ]
        groups = [[place] for place in wanted]
        found = labels[wanted]  # (M,)
    masks = regions.masks(groups)  # (M, h, w)
    seen = masks.any(axis=(1, 2))  # (M,)
    return (found, masks) if seen.all() else (found[seen], masks[seen])


def build_truth(regions: Regions, *, task: Task, categories: Categories) -> Truth:
    """The annotations in the form measures want, at the size the image is stored in.

    Pixels of crowds have a class. Where instances overlap, the maps show the smaller one.
    """
    class_map = regions.painted(regions.labels.astype(np.int32), IGNORE)  # (H0, W0)
    if task == "instance":
        return Truth(class_map=class_map, segment_map=None, segments=_instances(regions, categories))
    # ids of instances may be larger than 32 bits, so these are counted anew
    ids = regions.ids if isinstance(regions, MapRegions) else range(1, len(regions.ids) + 1)
    segment_map = regions.painted(np.asarray(ids, np.int32), VOID)  # (H0, W0)
    if isinstance(regions, MapRegions):
        areas = regions.areas()
    else:
        areas = np.bincount(segment_map.ravel(), minlength=len(regions.ids) + 1)[1:]
    segments = [
        SegmentTruth(int(number), int(label), bool(crowd), int(area))
        for number, label, crowd, area in zip(ids, regions.labels, regions.is_crowd, areas, strict=True)
        if area
    ]
    return Truth(class_map=class_map, segment_map=segment_map, segments=segments)


def _instances(regions: Regions, categories: Categories) -> list[SegmentTruth]:
    """Things, with the annotated area where there is one; masks without a pixel are there to be missed."""
    found = []
    told = list(regions.annotated_areas) if isinstance(regions, MaskRegions) else []
    areas = told or [None] * len(regions.ids)
    for place, (number, label) in enumerate(zip(regions.ids, regions.labels.tolist(), strict=True)):
        if categories.is_thing(label):
            mask = regions.masks([[place]])[0]  # (H0, W0)
            pixels = int(np.count_nonzero(mask))
            crowd = bool(regions.is_crowd[place])
            if pixels or isinstance(regions, MaskRegions):
                area = areas[place]
                area = pixels if area is None else area
                found.append(SegmentTruth(int(number), label, crowd, area, encode_mask(mask)))
    return found
