"""Panoptic counts against the definition written out with sets and dictionaries."""

import numpy as np
import pytest

from skillbank.errors import AnnotationError, ShapeError
from skillbank_models.data.batch import SegmentTruth
from skillbank_models.metrics.segment_counts import PanopticCounts, count_segments
from skillbank_models.ops.image_result import PredictedSegment

CLASSES = 4


def slow(truth_map, truth, predicted_map, predicted):
    """tp, fp, fn, overlap by class, pixel sets compared pair by pair."""
    tp, fp, fn, overlap = [0] * CLASSES, [0] * CLASSES, [0] * CLASSES, [0.0] * CLASSES
    void = truth_map == 0
    matched_truth, matched = set(), set()
    for theirs in truth:
        for ours in predicted:
            if theirs.is_crowd or theirs.label != ours.label:
                continue
            a, b = truth_map == theirs.id, predicted_map == ours.id
            union = (a | b).sum() - (b & void).sum()
            share = (a & b).sum() / union if (a & b).any() else 0
            if share > 0.5:
                tp[ours.label] += 1
                overlap[ours.label] += share
                matched_truth.add(theirs.id)
                matched.add(ours.id)
    crowds = {}
    for theirs in truth:
        if theirs.is_crowd:
            crowds[theirs.label] = theirs.id
        elif theirs.id not in matched_truth:
            fn[theirs.label] += 1
    for ours in predicted:
        region = predicted_map == ours.id
        if ours.id in matched or not region.any():
            continue
        forgiven = (region & void).sum()
        if ours.label in crowds:
            forgiven += (region & (truth_map == crowds[ours.label])).sum()
        if not forgiven / region.sum() > 0.5:
            fp[ours.label] += 1
    return tp, fp, fn, overlap


def areas(rng, count, large_ids):
    """A map of `count` areas and void, with ids that are small or use all 24 bits."""
    points = rng.uniform(0, 24, (count + 2, 2))
    rows, columns = np.mgrid[0:24, 0:24]
    distance = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in points]
    ids = rng.choice(np.arange(1, 1 << (24 if large_ids else 8)), count, replace=False)
    return np.concatenate([[0, 0], ids])[np.argmin(distance, axis=0)].astype(np.int32), ids


def case(seed):
    rng = np.random.default_rng(seed)
    truth_map, truth_ids = areas(rng, 9, large_ids=True)
    predicted_map, ids = areas(rng, 9, large_ids=bool(seed % 2))
    if seed % 3:  # mostly right, so that there are matches
        predicted_map = np.searchsorted(np.sort(truth_ids), np.roll(truth_map, 2, 0)).astype(np.int32) + 1
        predicted_map[np.roll(truth_map, 2, 0) == 0] = 0
        ids = np.arange(1, 10)
    labels = rng.integers(0, CLASSES, 9)
    truth = [
        SegmentTruth(int(number), int(label), bool(rng.random() < 0.25), 0)
        for number, label in zip(np.sort(truth_ids), labels, strict=True)
    ]
    wrong = rng.random(9) < 0.3
    labels = np.where(wrong, rng.integers(0, CLASSES, 9), labels)
    predicted = [
        PredictedSegment(int(number), int(label), True, 1.0, 0)
        for number, label in zip(ids, labels, strict=True)
    ]
    return truth_map, truth, predicted_map, predicted


def count(truth_map, truth, predicted_map, predicted):
    return count_segments(
        np.asarray(truth_map, np.int32), truth, np.asarray(predicted_map, np.int32), predicted,
        num_classes=CLASSES, where="image 7",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_counts_are_the_definition(seed):
    maps = case(seed)
    found = count(*maps)
    tp, fp, fn, overlap = slow(*maps)
    assert (found.tp.tolist(), found.fp.tolist(), found.fn.tolist()) == (tp, fp, fn)
    np.testing.assert_allclose(found.overlap, overlap, rtol=0, atol=1e-12)


def test_the_cases_cover_all_outcomes():
    total = PanopticCounts.zeros(CLASSES)
    predicted = 0
    for seed in range(30):
        maps = case(seed)
        total.add(count(*maps))
        predicted += len(set(np.unique(maps[2])) - {0})
    assert min(total.tp.sum(), total.fp.sum(), total.fn.sum()) > 20
    assert total.tp.sum() + total.fp.sum() < predicted  # some were forgiven


def one(truth_row, predicted_row, *, crowd=False, labels=(1, 1)):
    """One annotated segment 5 against one predicted segment 3."""
    truth = [SegmentTruth(5, labels[0], crowd, 0)]
    found = count([truth_row], truth, [predicted_row], [PredictedSegment(3, labels[1], True, 1.0, 0)])
    return int(found.tp.sum()), int(found.fp.sum()), int(found.fn.sum()), float(found.overlap.sum())


def test_rules_one_by_one():
    assert one([5, 5, 5, 5], [3, 3, 3, 3]) == (1, 0, 0, 1.0)
    assert one([5, 5, 5, 5], [3, 3, 0, 0]) == (0, 1, 1, 0.0), "one half is no match"
    assert one([5, 5, 0, 0], [3, 3, 3, 3]) == (1, 0, 0, 1.0), "void does not count against a match"
    assert one([5, 0, 0, 0], [0, 3, 3, 3]) == (0, 0, 1, 0.0), "a prediction on void is forgiven"
    assert one([5, 5, 0, 0], [0, 3, 3, 0]) == (0, 1, 1, 0.0), "one half on void is not enough"
    assert one([5, 5, 5, 5], [3, 3, 3, 3], labels=(1, 2)) == (0, 1, 1, 0.0)
    assert one([5, 5, 5, 5], [3, 3, 3, 3], crowd=True) == (0, 0, 0, 0.0), (
        "crowds are neither found nor missed"
    )
    assert one([5, 5, 5, 5], [3, 3, 3, 3], crowd=True, labels=(1, 2)) == (0, 1, 0, 0.0)


def test_a_listed_segment_without_pixels():
    truth = [SegmentTruth(5, 1, False, 0), SegmentTruth(6, 2, False, 0)]
    predicted = [PredictedSegment(3, 1, True, 1.0, 0), PredictedSegment(4, 2, True, 1.0, 0)]
    found = count([[5, 5]], truth, [[3, 3]], predicted)
    assert found.tp.tolist() == [0, 1, 0, 0]
    assert found.fn.tolist() == [0, 0, 1, 0], "missed, as in the reference"
    assert not found.fp.any()


def test_no_segments_at_all():
    found = count(np.zeros((2, 3)), [], np.zeros((2, 3)), [])
    assert found.quality() is None
    assert not found.present.any()
    assert count(np.zeros((0, 0)), [], np.zeros((0, 0)), []).quality() is None


def test_quality_averages_present_classes_only():
    counts = PanopticCounts.zeros(CLASSES)
    counts.tp[:2], counts.fp[1], counts.fn[2] = 1, 2, 1
    counts.overlap[:2] = 0.8, 0.6
    quality = counts.quality()
    assert quality.classes == 3
    assert quality.pq == pytest.approx((0.8 + 0.3 + 0) / 3)
    assert quality.sq == pytest.approx((0.8 + 0.6 + 0) / 3)
    assert quality.rq == pytest.approx((1 + 0.5 + 0) / 3)
    assert counts.quality(np.array([True, False, False, True])).pq == pytest.approx(0.8)
    assert counts.quality(np.array([False, False, False, True])) is None


class TestBadMaps:
    def test_ids_that_no_segment_has(self):
        with pytest.raises(AnnotationError, match=r"image 7, annotation: .* \[9\]"):
            count([[5, 9]], [SegmentTruth(5, 1, False, 0)], [[0, 0]], [])
        with pytest.raises(AnnotationError, match=r"image 7, prediction: .* \[1000000\]") as error:
            count([[0, 0]], [], [[2, 1_000_000]], [PredictedSegment(2, 1, True, 1.0, 0)])
        assert "segments_info" in error.value.hint

    def test_ids_out_of_range_or_twice(self):
        with pytest.raises(AnnotationError, match="from -1 to 5; allowed are 0 to 16777215"):
            count([[5, -1]], [SegmentTruth(5, 1, False, 0)], [[0, 0]], [])
        with pytest.raises(AnnotationError, match=r"unique and from 1 to 16777215; got \[0\]"):
            count([[0, 0]], [SegmentTruth(0, 1, False, 0)], [[0, 0]], [])
        with pytest.raises(AnnotationError, match=r"got \[5, 5\]"):
            count([[5, 5]], [SegmentTruth(5, 1, False, 0)] * 2, [[0, 0]], [])

    def test_sizes_that_differ(self):
        with pytest.raises(ShapeError, match=r"image 7: annotation \(1, 2\) and prediction \(2, 1\)"):
            count([[5, 5]], [SegmentTruth(5, 1, False, 0)], [[0], [0]], [])
