"""Panoptic quality of files in the COCO panoptic format: on each side a JSON and a folder of PNGs.

The definition is that of `metrics.segment_counts`, which counts one image in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skillbank.errors import AnnotationError
from skillbank_models.data.batch import SegmentTruth
from skillbank_models.data.images import read_ids
from skillbank_models.data.label_map import read_json_file
from skillbank_models.data.problems import Problems, some
from skillbank_models.metrics.segment_counts import PanopticCounts, Quality, count_segments
from skillbank_models.ops.image_result import PredictedSegment

__all__ = [
    "PanopticCounts",
    "PanopticQuality",
    "Quality",
    "count_segments",
    "evaluate_folders",
]


@dataclass(frozen=True, slots=True)
class PanopticQuality:
    """Panoptic quality of a set of images.

    Attributes:
        all: average over all classes that occur; None when there is none.
        things: over things.
        stuff: over stuff.
        per_class: category id -> quality of that class, for those that occur.
        images: how many were compared.
    """

    all: Quality | None
    things: Quality | None
    stuff: Quality | None
    per_class: Mapping[int, Quality]
    images: int


@dataclass(frozen=True, slots=True)
class _Listed:
    file_name: str
    segments: list[dict[str, Any]]


def evaluate_folders(gt_json: Path, gt_dir: Path, pred_json: Path, pred_dir: Path) -> PanopticQuality:
    """Compare predicted with annotated panoptic segmentations.

    Args:
        gt_json: annotation file with ``annotations`` and ``categories``.
        gt_dir: folder of the annotation's PNG files.
        pred_json: prediction file with ``annotations``; further images in it are left out.
        pred_dir: folder of the prediction's PNG files.

    Raises:
        MissingFilesError: a JSON or PNG is missing.
        AnnotationError: images without a prediction, unknown categories, ids that JSON and PNG do not share.
        ShapeError: PNGs of one image differ in size.
    """
    truth, predicted = _read(Path(gt_json)), _read(Path(pred_json))
    things = {int(item["id"]): bool(item.get("isthing", 1)) for item in truth[1]}
    ids = sorted(things)
    index = {category: place for place, category in enumerate(ids)}
    problems = Problems(pred_json)
    absent = [image for image in truth[0] if image not in predicted[0]]
    if absent:
        problems.add(f"no prediction for {len(absent)} of {len(truth[0])} images: {some(absent)}")
    _check_categories(gt_json, truth[0], index, problems)
    _check_categories(pred_json, predicted[0], index, problems)
    problems.check()

    counts = PanopticCounts.zeros(len(ids))
    for image, listed in truth[0].items():
        theirs = [
            SegmentTruth(item["id"], index[item["category_id"]], bool(item.get("iscrowd", 0)), 0)
            for item in listed.segments
        ]
        ours = [
            PredictedSegment(item["id"], index[item["category_id"]], things[item["category_id"]], 1.0, 0)
            for item in predicted[0][image].segments
        ]
        counts.add(
            count_segments(
                read_ids(Path(gt_dir) / listed.file_name),
                theirs,
                read_ids(Path(pred_dir) / predicted[0][image].file_name),
                ours,
                num_classes=len(ids),
                where=f"image {image}",
            )
        )
    is_thing = np.array([things[category] for category in ids], dtype=bool)
    pq, sq, rq = counts.per_class()
    return PanopticQuality(
        all=counts.quality(),
        things=counts.quality(is_thing),
        stuff=counts.quality(~is_thing),
        per_class={
            ids[place]: Quality(float(pq[place]), float(sq[place]), float(rq[place]), 1)
            for place in np.flatnonzero(counts.present).tolist()
        },
        images=len(truth[0]),
    )


def _read(path: Path) -> tuple[dict[int | str, _Listed], list[dict[str, Any]]]:
    """Segments by image, and the categories of the file."""
    content = read_json_file(path, "panoptic JSON")
    listed: dict[int | str, _Listed] = {}
    try:
        for item in content["annotations"]:
            segments = [
                {**segment, "id": int(segment["id"]), "category_id": int(segment["category_id"])}
                for segment in item["segments_info"]
            ]
            listed[item["image_id"]] = _Listed(str(item["file_name"]), segments)
        categories = list(content.get("categories") or [])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnnotationError(
            f"{path}: no COCO panoptic file ({type(error).__name__}: {error})",
            hint="annotations need image_id, file_name and segments_info with id and category_id",
            key=str(path),
        ) from error
    return listed, categories


def _check_categories(
    path: Path, listed: Mapping[int | str, _Listed], known: Mapping[int, int], problems: Problems
) -> None:
    for image, entry in listed.items():
        unknown = {segment["category_id"] for segment in entry.segments} - known.keys()
        if unknown:
            problems.note(
                AnnotationError(
                    f"{path}: image {image} has category ids {some(sorted(unknown))}, which the annotation "
                    "file does not list",
                    hint="compare the lists of categories of both files",
                    key=str(path),
                )
            )
