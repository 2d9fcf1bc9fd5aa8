"""Pixel measures against a confusion matrix filled pixel by pixel."""

import numpy as np
import pytest

from skillbank.errors import AnnotationError, ShapeError
from skillbank_models.metrics.semantic import ClassCounts, count_classes

CLASSES = 5
ALL = np.ones(CLASSES, dtype=bool)


def maps(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, CLASSES - 1, (9, 13)).astype(np.int32)  # the last class is never annotated
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(-1, CLASSES, truth.shape))
    return truth, predicted.astype(np.int32)


def count(truth, predicted, classes=CLASSES):
    arrays = (np.asarray(part, np.int32) for part in (truth, predicted))
    return count_classes(*arrays, num_classes=classes, where="image 3")


def test_numbers_are_those_of_a_confusion_matrix():
    total = ClassCounts.zeros(CLASSES)
    matrix = np.zeros((CLASSES, CLASSES + 1), dtype=np.int64)  # last column: nothing predicted
    for seed in range(5):
        truth, predicted = maps(seed)
        total.add(count(truth, predicted))
        for a, b in zip(truth.flat, predicted.flat, strict=True):
            if a >= 0:
                matrix[a, b] += 1
    right = np.diag(matrix)
    annotated, guessed = matrix.sum(1), matrix[:, :CLASSES].sum(0)
    union = annotated + guessed - right
    assert total.right.tolist() == right.tolist()
    assert total.right.dtype == np.int64
    scores = total.scores(ALL)
    iou = right / union
    assert scores.miou == pytest.approx(iou.mean())
    assert scores.accuracy == pytest.approx(right.sum() / annotated.sum())
    assert scores.class_accuracy == pytest.approx((right[:4] / annotated[:4]).mean())
    assert scores.weighted_iou == pytest.approx((iou * annotated).sum() / annotated.sum())
    assert guessed[4] > 0, "a class that is predicted but never annotated pulls mIoU down"


def test_unused_indices_never_enter_an_average():
    total = count([[0, 0, 1, 1]], [[0, 4, 1, 1]])
    used = np.array([True, True, False, False, False])
    assert total.scores(ALL).miou == pytest.approx((0.5 + 1 + 0) / 3)
    assert total.scores(used).miou == pytest.approx((0.5 + 1) / 2)
    assert total.scores(used).accuracy == 0.75, "the pixel is still wrong"


def test_unlabelled_pixels_do_not_count():
    total = count([[-1, -1, 2, 2]], [[1, 2, 2, 0]])
    assert total.predicted.tolist() == [1, 0, 1, 0, 0]
    assert total.pixels == 2


def test_one_class_is_told_from_the_background():
    perfect = count([[0, 0, -1, -1]], [[0, 0, -1, -1]], 1)
    everywhere = count([[0, 0, -1, -1]], [[0, 0, 0, 0]], 1)
    one = np.ones(1, dtype=bool)
    assert perfect.scores(one).miou == perfect.scores(one).accuracy == 1
    assert everywhere.scores(one).miou == 0.5
    assert everywhere.scores(one).accuracy == 0.5
    assert count([[-1, -1]], [[-1, -1]], 1).scores(one) is None


def test_nothing_labelled_gives_no_number():
    assert count([[-1, -1]], [[0, 1]]).scores(ALL) is None
    assert ClassCounts.zeros(3).scores(np.ones(3, dtype=bool)) is None


def test_bad_maps_are_named():
    with pytest.raises(
        AnnotationError, match=r"image 3, annotation: class 5 with 5 classes; .* 0 to 4"
    ) as error:
        count([[5]], [[0]])
    assert "num_classes" in error.value.hint
    with pytest.raises(AnnotationError, match="prediction: class 9"):
        count([[1]], [[9]])
    with pytest.raises(ShapeError, match="image 3"):
        count([[1]], [[1, 1]])
