"""Average precision and recall of instance masks by the COCO definition, computed by pycocotools in memory.

Source: COCO detection evaluation (https://cocodataset.org/#detection-eval); pycocotools `COCOeval` (BSD).
Annotated instances are sorted by size with the area of the annotation file, which for polygons can differ
from their pixels; where the file has none, pixels are counted. Instances without a pixel are missed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skillbank_models.data.batch import SegmentTruth
from skillbank_models.ops.image_result import InstanceResult
from skillbank_models.ops.instance_runs import Rle, encode_masks

__all__ = ["ImageInstances", "InstanceScores", "evaluate_instances", "image_instances"]

# Order of the numbers that `COCOeval.summarize` gives for masks.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
NONE = -1.0  # what pycocotools says where nothing is annotated
ALL_AREAS, MOST_DETECTIONS, AT_50 = 0, -1, 0  # places in its tables


@dataclass(frozen=True, slots=True)
class ImageInstances:
    """Annotated and predicted instances of one image, as run lengths.

    Attributes:
        size: (H0, W0).
        truth: label, area, is_crowd, run lengths.
        found: label, score, run lengths.
    """

    size: tuple[int, int]
    truth: list[tuple[int, float, bool, Rle]]
    found: list[tuple[int, float, Rle]]


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """Numbers from 0 to 1; what cannot be said because nothing of the kind is annotated is left out.

    Attributes:
        values: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100.
        per_class: class index -> (AP, AP50).
        annotated: class index -> annotated instances that are no crowd.
    """

    values: dict[str, float]
    per_class: dict[int, tuple[float, float]]
    annotated: dict[int, int]


def image_instances(
    size: tuple[int, int], truth: Sequence[SegmentTruth], result: InstanceResult
) -> ImageInstances:
    """What has to be kept of one image.

    Args:
        size: (H0, W0).
        truth: annotated instances; those without run lengths are left out.
        result: predicted instances.
    """
    return ImageInstances(
        size,
        [(item.label, item.area, item.is_crowd, item.rle) for item in truth if item.rle is not None],
        list(zip(result.labels.tolist(), result.scores.tolist(), encode_masks(result), strict=True)),
    )


def evaluate_instances(images: Sequence[ImageInstances], labels: Sequence[int]) -> InstanceScores:
    """Average precision and recall over all images.

    Args:
        images: in the order that decides between detections of equal score.
        labels: class indices that are averaged; detections of other classes are left out.
    """
    from pycocotools.cocoeval import COCOeval

    truth, found = _tables(images, labels)
    if not truth:
        return InstanceScores({}, {}, dict.fromkeys(labels, 0))
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(_loaded(images, truth, labels), _loaded(images, found, labels), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = dict(zip(NAMES, map(float, run.stats[: len(NAMES)]), strict=True))
    precision = run.eval["precision"][:, :, :, ALL_AREAS, MOST_DETECTIONS]  # (thresholds, recalls, classes)
    per_class: dict[int, tuple[float, float]] = {}
    for place, label in enumerate(sorted(labels)):
        of_class = precision[:, :, place]
        if of_class.size and (of_class > NONE).any():
            ap50 = of_class[AT_50]
            per_class[label] = (float(of_class[of_class > NONE].mean()), float(ap50[ap50 > NONE].mean()))
    annotated = dict.fromkeys(labels, 0)
    for item in truth:
        annotated[item["category_id"]] += not item["iscrowd"]
    return InstanceScores(
        {name: value for name, value in values.items() if value != NONE}, per_class, annotated
    )


def _tables(
    images: Sequence[ImageInstances], labels: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Annotations and detections as COCO lists; ids count from 1, since 0 means "no match" to COCOeval."""
    wanted = set(labels)
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for label, area, is_crowd, rle in image.truth:
            if label in wanted:
                row = {"area": area, "iscrowd": int(is_crowd), "segmentation": rle}
                truth.append({"id": len(truth) + 1, "image_id": number, "category_id": label, **row})
        for label, score, rle in image.found:
            if label in wanted:
                row = {"score": score, "iscrowd": 0, "segmentation": rle}
                found.append({"id": len(found) + 1, "image_id": number, "category_id": label, **row})
    areas = _areas([row["segmentation"] for row in found])
    for row, area in zip(found, areas, strict=True):
        row["area"] = area
    return truth, found


def _areas(rles: list[Rle]) -> list[int]:
    from pycocotools import mask as coco

    # one by one: the library overflows at more than 255 masks a call
    return [int(coco.area(rle)) for rle in rles]


def _loaded(images: Sequence[ImageInstances], rows: list[dict[str, Any]], labels: Sequence[int]) -> Any:
    from pycocotools.coco import COCO

    data = COCO()
    data.dataset = {
        "images": [
            {"id": number, "height": image.size[0], "width": image.size[1]}
            for number, image in enumerate(images, start=1)
        ],
        "categories": [{"id": label, "name": str(label)} for label in labels],
        "annotations": rows,
    }
    data.createIndex()
    return data
