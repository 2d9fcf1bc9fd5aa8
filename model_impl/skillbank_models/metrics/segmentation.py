"""The measures of a segmentation run: collected by image, joined over processes, named as the specs do."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.data.batch import Truth
from skillbank_models.data.categories import Categories
from skillbank_models.metrics.class_table import class_table
from skillbank_models.metrics.mask_ap import (
    ImageInstances,
    InstanceScores,
    evaluate_instances,
    image_instances,
)
from skillbank_models.metrics.reduction import from_first, gather_on_all, gather_on_first, merge_images
from skillbank_models.metrics.segment_counts import CountRows, PanopticCounts, count_segments
from skillbank_models.metrics.semantic import ClassCounts, count_classes
from skillbank_models.ops.image_result import ImageResult
from skillbank_models.ops.postprocess import Mode

__all__ = ["SegmentationMeasures"]

log = logging.getLogger(__name__)

Key = int | str
SEMANTIC = ("mIoU", "ACC_all", "mACC", "fwIoU")


class SegmentationMeasures:
    """Numbers of one pass over a data split.

    All modes report mIoU, ACC_all, mACC and fwIoU; panoptic adds PQ, SQ and RQ with their forms for things
    (``_th``) and stuff (``_st``); instance adds AP, AP50, AP75, APs, APm, APl, AR1, AR10 and AR100. All are
    from 0 to 1. A number that the data cannot give, such as AP of large instances where none is annotated, is
    left out and the log says why. Indices without a category never enter an average.

    Every image counts once, however often samplers repeat it, and the numbers do not depend on how images are
    spread over processes.

    Args:
        mode: task.
        categories: class index -> category.
        num_classes: K of the network.
    """

    def __init__(self, *, mode: Mode, categories: Categories, num_classes: int) -> None:
        self.mode = mode
        self.categories = categories
        self.num_classes = num_classes
        used = [index for index in categories.used if index < num_classes]
        self._used = np.zeros(num_classes, dtype=bool)  # (K,)
        self._used[used] = True
        self._things = np.array(
            [index in used and categories.is_thing(index) for index in range(num_classes)]
        )
        self._told: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._pixels: dict[Key, _Rows] = {}
        self._segments: dict[Key, CountRows] = {}
        self._instances: dict[Key, ImageInstances] = {}
        self._seen: set[Key] = set()
        self._classes: ClassCounts | None = None
        self._panoptic: PanopticCounts | None = None
        self._precision: InstanceScores | None = None
        self._kpi: dict[str, float] = {}
        self._images = 0

    def update(
        self, image_id: Key, original_size: tuple[int, int], result: ImageResult, truth: Truth
    ) -> None:
        """Count one image; an image that was counted is passed over.

        Args:
            image_id: id in the annotation file, or a path.
            original_size: (H0, W0).
            result: prediction at that size.
            truth: annotation at that size.

        Raises:
            AnnotationError: ids or classes that do not fit.
            ShapeError: annotation and prediction differ in size.
        """
        if image_id in self._seen:
            return
        where = f"image {image_id}"
        if truth.class_map is not None:
            counts = count_classes(
                truth.class_map, _ints(result.class_map), num_classes=self.num_classes, where=where
            )
            self._pixels[image_id] = _class_rows(counts)
        if self.mode == "panoptic" and truth.segment_map is not None and result.panoptic is not None:
            found = count_segments(
                truth.segment_map,
                truth.segments,
                _ints(result.panoptic.segment_map),
                result.panoptic.segments,
                num_classes=self.num_classes,
                where=where,
            )
            self._segments[image_id] = found.packed()
        if self.mode == "instance" and result.instances is not None:
            self._instances[image_id] = image_instances(original_size, truth.segments, result.instances)
        self._seen.add(image_id)

    def reduce_and_compute(self) -> dict[str, float]:
        """Join all processes, each of which must call this, and give the numbers to each of them."""
        self._images = len(set().union(*gather_on_all(self._seen)))
        self._kpi = self._semantic()
        if self.mode == "panoptic":
            self._kpi.update(self._quality())
        if self.mode == "instance":
            self._kpi.update(self._average_precision())
        return dict(self._kpi)

    def class_kpis(self) -> dict[str, float]:
        """``IoU_<class name>`` of every class that occurs; after `reduce_and_compute`.

        Where several categories share a name, ``_<category id>`` follows it.
        """
        rows = self.per_class()
        shared = Counter(row["name"] for row in rows)
        names = [row["name"] if shared[row["name"]] == 1 else f"{row['name']}_{row['id']}" for row in rows]
        return {
            f"IoU_{name}": row["IoU"] for name, row in zip(names, rows, strict=True) if row["IoU"] is not None
        }

    def per_class(self) -> list[dict[str, Any]]:
        """One row for each category, by class index; after `reduce_and_compute`.

        Keys: class, id, name, thing, pixels, IoU, ACC; in panoptic mode PQ, SQ, RQ, TP, FP, FN; in instance
        mode AP, AP50, instances. None stands where the class does not occur.
        """
        return [self._row(index) for index in np.flatnonzero(self._used).tolist()]

    def table(self) -> str:
        """The numbers as text, in percent: totals, then a row for each class that occurs."""
        return class_table(self._kpi, self.per_class(), images=self._images)

    def _semantic(self) -> dict[str, float]:
        self._classes = ClassCounts.zeros(self.num_classes)
        for rows in merge_images(gather_on_all(self._pixels)).values():
            self._classes.add(_class_counts(rows, self.num_classes))
        scores = self._classes.scores(self._used)
        if scores is None:
            self._tell("mIoU and pixel accuracy are left out: no image has a labelled pixel")
            return {}
        values = (scores.miou, scores.accuracy, scores.class_accuracy, scores.weighted_iou)
        return dict(zip(SEMANTIC, values, strict=True))

    def _quality(self) -> dict[str, float]:
        rows = merge_images(gather_on_all(self._segments)).values()
        self._panoptic = PanopticCounts.summed(rows, self.num_classes)
        out: dict[str, float] = {}
        groups = {"": self._used, "_th": self._used & self._things, "_st": self._used & ~self._things}
        for suffix, among in groups.items():
            quality = self._panoptic.quality(among)
            if quality is None:
                self._tell(f"PQ{suffix} is left out: no such segment is annotated or predicted")
                continue
            out.update({f"PQ{suffix}": quality.pq, f"SQ{suffix}": quality.sq, f"RQ{suffix}": quality.rq})
        return out

    def _average_precision(self) -> dict[str, float]:
        records = gather_on_first(self._instances)
        if records is not None:
            images = list(merge_images(records).values())
            labels = np.flatnonzero(self._used & self._things).tolist()
            self._precision = evaluate_instances(images, labels)
        self._precision = from_first(self._precision)
        values = self._precision.values if self._precision is not None else {}
        absent = [name for name in ("AP", "APs", "APm", "APl") if name not in values]
        if absent:
            self._tell(f"left out: {', '.join(absent)}; no such instance is annotated")
        return dict(values)

    def _tell(self, reason: str) -> None:
        """Say once in a run, not after every epoch, why a number is missing."""
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%s", reason)

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {
            "class": index,
            "id": self.categories.category_id(index),
            "name": self.categories.name(index),
            "thing": self.categories.is_thing(index),
        }
        if self._classes is not None:
            counts = self._classes
            seen, labelled = bool(counts.union[index]), bool(counts.annotated[index])
            row["pixels"] = int(counts.annotated[index])
            row["IoU"] = float(counts.iou()[index]) if seen else None
            row["ACC"] = float(counts.recall()[index]) if labelled else None
        if self._panoptic is not None:
            present = bool(self._panoptic.present[index])
            for name, values in zip(("PQ", "SQ", "RQ"), self._panoptic.per_class(), strict=True):
                row[name] = float(values[index]) if present else None
            found = {"TP": self._panoptic.tp, "FP": self._panoptic.fp, "FN": self._panoptic.fn}
            row.update({name: int(values[index]) for name, values in found.items()})
        if self._precision is not None:
            row["AP"], row["AP50"] = self._precision.per_class.get(index, (None, None))
            row["instances"] = self._precision.annotated.get(index, 0)
        return row


# What is kept of an image: the classes that occur in it, a few counts for each, and totals.
_Rows = tuple[NDArray[np.int32], NDArray[Any], Sequence[int]]


def _ints(values: Tensor) -> NDArray[np.int32]:
    return values.cpu().numpy().astype(np.int32, copy=False)


def _class_rows(counts: ClassCounts) -> _Rows:
    seen = np.flatnonzero(counts.union)
    rows = np.stack([counts.right[seen], counts.annotated[seen], counts.predicted[seen]])  # (3, seen)
    return seen.astype(np.int32), rows, (counts.pixels, counts.correct)


def _class_counts(rows: _Rows, classes: int) -> ClassCounts:
    seen, values, (pixels, correct) = rows
    counts = ClassCounts.zeros(classes)
    counts.right[seen], counts.annotated[seen], counts.predicted[seen] = values
    counts.pixels, counts.correct = pixels, correct
    return counts
