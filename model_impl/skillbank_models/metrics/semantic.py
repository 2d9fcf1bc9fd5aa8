"""Pixel measures of class maps: counts that add up over images, and the numbers made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError
from skillbank_models.data.batch import IGNORE
from skillbank_models.metrics.overlaps import pair_counts, stretches

__all__ = ["ClassCounts", "SemanticScores", "count_classes"]


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """Averages, 0 to 1."""

    miou: float
    accuracy: float
    class_accuracy: float
    weighted_iou: float


@dataclass(slots=True)
class ClassCounts:
    """Pixels of every class; counts of images add up.

    Unlabelled pixels are left out, except with a single class, where they are the background that has to be
    told from it.

    Attributes:
        right: (K,) annotated and predicted as the class.
        annotated: (K,).
        predicted: (K,) among labelled pixels.
        pixels: labelled pixels.
        correct: labelled pixels with the right class; with one class, background found counts as well.
    """

    right: NDArray[np.int64]
    annotated: NDArray[np.int64]
    predicted: NDArray[np.int64]
    pixels: int
    correct: int

    @classmethod
    def zeros(cls, classes: int) -> ClassCounts:
        """Nothing counted yet."""
        right, annotated, predicted = np.zeros((3, classes), dtype=np.int64)
        return cls(right, annotated, predicted, 0, 0)

    def add(self, other: ClassCounts) -> None:
        """Count in further images."""
        self.right += other.right
        self.annotated += other.annotated
        self.predicted += other.predicted
        self.pixels += other.pixels
        self.correct += other.correct

    @property
    def union(self) -> NDArray[np.int64]:
        """(K,) pixels annotated or predicted as the class."""
        return self.annotated + self.predicted - self.right

    def iou(self) -> NDArray[np.float64]:
        """(K,); 0 where a class does not occur."""
        return self.right / np.maximum(self.union, 1)

    def recall(self) -> NDArray[np.float64]:
        """(K,) share of the annotated pixels that were found; 0 where a class is not annotated."""
        return self.right / np.maximum(self.annotated, 1)

    def scores(self, used: NDArray[np.bool_]) -> SemanticScores | None:
        """Averages; None when no labelled pixel was seen.

        mIoU is over classes that are annotated or predicted somewhere, class accuracy over annotated ones.

        Args:
            used: (K,) classes that the dataset has; others never enter an average.
        """
        seen, labelled = used & (self.union > 0), used & (self.annotated > 0)
        if not self.pixels or not seen.any():
            return None
        weight = np.where(labelled, self.annotated, 0)
        iou = self.iou()
        return SemanticScores(
            miou=float(iou[seen].mean()),
            accuracy=self.correct / self.pixels,
            class_accuracy=float(self.recall()[labelled].mean()) if labelled.any() else 0.0,
            weighted_iou=float((iou * weight).sum() / max(int(weight.sum()), 1)),
        )


def count_classes(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], *, num_classes: int, where: str
) -> ClassCounts:
    """Pixels of one image.

    Args:
        truth: (H0, W0), class index or `IGNORE`.
        predicted: (H0, W0), class index or `IGNORE` where none is predicted.
        num_classes: K.
        where: the image, for messages.

    Raises:
        AnnotationError: a class index outside 0..K-1.
        ShapeError: the maps have different sizes.
    """
    first, second, pixels = stretches(truth, predicted, where=where)
    for name, values in (("annotation", first), ("prediction", second)):
        if values.size and (values.min() < IGNORE or values.max() >= num_classes):
            raise AnnotationError(
                f"{where}, {name}: class {int(values.max())} with {num_classes} classes; "
                f"allowed are 0 to {num_classes - 1}, and {IGNORE} for none",
                hint="-o model.sem_seg_head.num_classes=<largest category id>",
            )
    size = num_classes + 1  # class + 1; 0 is none
    table = pair_counts(first.astype(np.int64) + 1, second.astype(np.int64) + 1, pixels, (size, size))
    if num_classes > 1:
        table[0] = 0
        diagonal = np.diagonal(table)[1:]  # (K,)
        correct = int(diagonal.sum())
    else:
        diagonal = np.diagonal(table)[1:]  # (1,)
        correct = int(np.trace(table))
    return ClassCounts(
        right=diagonal.copy(),
        annotated=table[1:].sum(1),
        predicted=table[:, 1:].sum(0),
        pixels=int(table.sum()),
        correct=correct,
    )
