"""Matches and misses of segments, and the panoptic quality they give.

Segments of the same class match when their overlap is above one half, where pixels of a prediction that are
void in the annotation do not count. Of unmatched predictions those are forgiven that lie for more than a half
on void and on the crowd region of their class. PQ = sum of overlaps / (TP + FP / 2 + FN / 2) for each class,
averaged over the classes that occur.

Source: Kirillov et al. 2019 (Panoptic Segmentation), section 4; COCO panoptic API, evaluation.py (BSD).
Differs: areas are counted, not taken from the file; no class at all gives no number instead of a division by
zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError
from skillbank_models.data.batch import VOID, SegmentTruth
from skillbank_models.metrics.overlaps import pair_counts, stretches
from skillbank_models.ops.image_result import PredictedSegment

__all__ = ["CountRows", "PanopticCounts", "Quality", "count_segments"]

CountRows = tuple[NDArray[np.int32], NDArray[np.float64]]  # (seen,) classes; (4, seen) tp, fp, fn, overlap

MATCH = 0.5  # overlap that has to be exceeded, which makes matches unique
FORGIVEN = 0.5  # share on void and crowd from which a prediction is no false positive
MAX_ID = (1 << 24) - 1  # what three 8-bit channels hold
TABLE = 1 << 16  # ids up to here are looked up in a table, larger ones by search, to spare its memory


@dataclass(frozen=True, slots=True)
class Quality:
    """Averages over classes, 0 to 1, and how many classes went in."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(slots=True)
class PanopticCounts:
    """What the qualities are made of, for every class; counts of images add up.

    Attributes:
        tp: (K,) matched pairs.
        fp: (K,) predictions without a match.
        fn: (K,) annotated segments without a match.
        overlap: (K,) sum of the overlaps of the matched pairs.
    """

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @classmethod
    def zeros(cls, classes: int) -> PanopticCounts:
        """Nothing counted yet."""
        tp, fp, fn = np.zeros((3, classes), dtype=np.int64)
        return cls(tp, fp, fn, np.zeros(classes))

    def add(self, other: PanopticCounts) -> None:
        """Count in further images."""
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        self.overlap += other.overlap

    def packed(self) -> CountRows:
        """The classes that occur, and their counts; small to keep and to send."""
        seen = np.flatnonzero(self.present)
        return seen.astype(np.int32), np.stack(
            [self.tp[seen], self.fp[seen], self.fn[seen], self.overlap[seen]]
        )

    @classmethod
    def summed(cls, rows: Iterable[CountRows], classes: int) -> PanopticCounts:
        """The sum of packed counts."""
        total = cls.zeros(classes)
        for seen, (tp, fp, fn, overlap) in rows:
            total.tp[seen] += tp.astype(np.int64)
            total.fp[seen] += fp.astype(np.int64)
            total.fn[seen] += fn.astype(np.int64)
            total.overlap[seen] += overlap
        return total

    @property
    def present(self) -> NDArray[np.bool_]:
        """(K,) classes that occur in annotations or predictions."""
        return (self.tp + self.fp + self.fn) > 0

    def per_class(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """PQ, SQ and RQ, each (K,); 0 where nothing matched and where a class does not occur."""
        weight = np.maximum(self.tp + 0.5 * self.fp + 0.5 * self.fn, 0.5)  # 0.5 is the least that can occur
        return self.overlap / weight, self.overlap / np.maximum(self.tp, 1), self.tp / weight

    def quality(self, among: NDArray[np.bool_] | None = None) -> Quality | None:
        """Averages over the classes that occur; None when there is none.

        Args:
            among: (K,) the classes to average, all without it.
        """
        chosen = self.present if among is None else self.present & among
        if not chosen.any():
            return None
        pq, sq, rq = (float(values[chosen].mean()) for values in self.per_class())
        return Quality(pq, sq, rq, int(chosen.sum()))


@dataclass(slots=True)
class _Side:
    """The segments of one map, in columns."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def _side(segments: Sequence[SegmentTruth] | Sequence[PredictedSegment], whose: str) -> _Side:
    ids = np.fromiter((segment.id for segment in segments), np.int64, len(segments))
    labels = np.fromiter((segment.label for segment in segments), np.int64, len(segments))
    if ids.size and (ids.min() <= VOID or ids.max() > MAX_ID or np.unique(ids).size != ids.size):
        raise AnnotationError(
            f"{whose}: segment ids must be unique and from 1 to {MAX_ID}; got {ids.tolist()}"
        )
    return _Side(ids, labels)


def _places(values: NDArray[np.int32], side: _Side, whose: str) -> NDArray[np.int64]:
    """Position + 1 in the list of segments for each value of a map; 0 is void."""
    if not values.size:
        return np.zeros(0, dtype=np.int64)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < VOID or highest > MAX_ID:
        raise AnnotationError(
            f"{whose}: segment map has values from {lowest} to {highest}; allowed are 0 to {MAX_ID}"
        )
    if not side.ids.size:
        places = np.zeros(values.size, dtype=np.int64)
    elif max(highest, int(side.ids.max())) < TABLE:
        table = np.zeros(TABLE, dtype=np.int64)
        table[side.ids] = np.arange(1, side.ids.size + 1)
        places = table[values]
    else:
        order = np.argsort(side.ids)
        known = side.ids[order].astype(np.int32)
        found = np.searchsorted(known, values).clip(max=known.size - 1)
        places = np.where(known[found] == values, order[found] + 1, 0)
    unlisted = np.unique(values[(places == 0) & (values != VOID)])
    if unlisted.size:
        raise AnnotationError(
            f"{whose}: the segment map has ids that no segment has: {unlisted[:10].tolist()}",
            hint="list every id of the map in segments_info, or make its pixels 0",
        )
    return places


def count_segments(
    truth_map: NDArray[np.int32],
    truth: Sequence[SegmentTruth],
    predicted_map: NDArray[np.int32],
    predicted: Sequence[PredictedSegment],
    *,
    num_classes: int,
    where: str,
) -> PanopticCounts:
    """Matches and misses of one image.

    Args:
        truth_map: (H0, W0), `VOID` or the id of an annotated segment.
        truth: annotated segments; one without a pixel counts as missed. Of several crowd regions of one class
            the last one forgives, as in the reference.
        predicted_map: (H0, W0), `VOID` or the id of a predicted segment.
        predicted: predicted segments; one without a pixel is left out.
        num_classes: K.
        where: the image, for messages.

    Raises:
        AnnotationError: an id in a map that no segment has, an id out of range or used twice.
        ShapeError: the maps have different sizes.
    """
    theirs, ours = _side(truth, f"{where}, annotation"), _side(predicted, f"{where}, prediction")
    crowd = np.fromiter((segment.is_crowd for segment in truth), bool, len(truth))
    first, second, pixels = stretches(truth_map, predicted_map, where=where)
    pairs = pair_counts(
        _places(first, theirs, f"{where}, annotation"),
        _places(second, ours, f"{where}, prediction"),
        pixels,
        (theirs.ids.size + 1, ours.ids.size + 1),
    )  # (annotated + 1, predicted + 1); row and column 0 are void
    on_void, shared = pairs[0, 1:], pairs[1:, 1:]  # (predicted,), (annotated, predicted)
    true_area, area = pairs[1:].sum(1), pairs[:, 1:].sum(0)  # (annotated,), (predicted,)

    comparable = (theirs.labels[:, None] == ours.labels[None]) & ~crowd[:, None] & (shared > 0)
    union = true_area[:, None] + (area - on_void)[None] - shared  # (annotated, predicted)
    overlap = np.divide(shared, union, out=np.zeros(shared.shape), where=comparable)
    matched = overlap > MATCH

    forgiven = on_void.astype(np.float64)  # (predicted,)
    last_crowd = {int(theirs.labels[place]): int(place) for place in np.flatnonzero(crowd)}
    for label, place in last_crowd.items():
        forgiven += np.where(ours.labels == label, shared[place], 0)
    missed = ~matched.any(1) & ~crowd
    wrong = ~matched.any(0) & (area > 0) & (forgiven <= FORGIVEN * area)

    true_place, _ = np.nonzero(matched)
    found = theirs.labels[true_place]
    return PanopticCounts(
        tp=np.bincount(found, minlength=num_classes),
        fp=np.bincount(ours.labels[wrong], minlength=num_classes),
        fn=np.bincount(theirs.labels[missed], minlength=num_classes),
        overlap=np.bincount(found, weights=overlap[matched], minlength=num_classes).astype(np.float64),
    )
