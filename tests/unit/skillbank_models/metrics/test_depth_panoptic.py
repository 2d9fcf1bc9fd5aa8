"""Depth-aware panoptic quality against a slow, direct implementation; names, averages, processes."""

import pickle
import re
from unittest import mock

import numpy as np
import pytest

from skillbank.specs.nvpanoptix3d import NETWORK
from skillbank_models.data.batch import SegmentTruth, Truth
from skillbank_models.data.categories import Categories, Category
from skillbank_models.metrics import depth_panoptic
from skillbank_models.metrics.depth_panoptic import LIMITS, DepthPanoptic, drop_wrong_depth
from skillbank_models.nvpanoptix3d.batch import SceneTruth
from skillbank_models.nvpanoptix3d.outputs import Scene, Segment

CLASSES, THINGS = 7, 4
CATEGORIES = Categories(
    (None, *(Category(n, f"class {n}", (n, 0, 0), is_thing=n <= THINGS) for n in range(1, CLASSES)))
)
IS_THING = [1 <= n <= THINGS for n in range(CLASSES)]
SIZE = (24, 32)


def measure(prefix="val"):
    return DepthPanoptic(categories=CATEGORIES, is_thing=IS_THING, prefix=prefix)


def scene_of(segment_map, labels, depth):
    segments = [Segment(n, 0, label, IS_THING[label], 1.0) for n, label in labels.items()]
    return Scene(segment_map, segments, depth, np.eye(3), None, None, None, [])


def truth_of(segment_map, labels, depth):
    segments = [SegmentTruth(n, label, False, 0) for n, label in labels.items()]
    return SceneTruth(Truth(None, segment_map, segments), depth, None)


def sample(seed):
    """Rectangles with void between them, and a prediction that is like them; depth with holes."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(SIZE, np.int32)
    for number in range(1, 8):
        top, left = rng.integers(0, SIZE[0] - 6), rng.integers(0, SIZE[1] - 6)
        truth[top : top + rng.integers(5, 14), left : left + rng.integers(5, 16)] = number
    present = np.unique(truth[truth > 0]).tolist()
    labels = {number: int(rng.integers(1, CLASSES)) for number in present}
    guess = np.roll(truth, rng.integers(-1, 2, 2), (0, 1))
    guess[rng.random(SIZE) < 0.05] = 0
    extra = int(rng.integers(0, SIZE[0] - 4))
    guess[extra : extra + 4, :4] = 9
    known = {**labels, 9: int(rng.integers(1, CLASSES))}
    guessed = {
        number: known[number] if rng.random() < 0.85 else int(rng.integers(1, CLASSES))
        for number in np.unique(guess[guess > 0]).tolist()
    }
    depth = rng.uniform(0.5, 6, SIZE).astype(np.float32)
    near = (depth * (1 + rng.normal(0, 0.15, SIZE))).astype(np.float32)
    depth[rng.random(SIZE) < 0.2] = 0
    return scene_of(guess, guessed, near), truth_of(truth, labels, depth)


def slow(samples, limit):
    """Section 8 word by word, pixel by pixel: TP, FP, FN and overlaps of each class."""
    iou, tp, fp, fn = (np.zeros(CLASSES) for _ in range(4))
    for scene, truth in samples:
        guess = scene.segment_map.copy()
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                wanted, given = int(truth.depth[y, x] * 256), int(scene.depth[y, x] * 256)
                if limit > 0 and wanted > 0 and abs(given - wanted) / wanted > limit:
                    guess[y, x] = 0
        void = truth.image.segment_map == 0
        matched, used = set(), set()
        for theirs in truth.image.segments:
            own = truth.image.segment_map == theirs.id
            for segment in scene.segments:
                other = guess == segment.id
                both = (own & other).sum()
                if not both or segment.label != theirs.label:
                    continue
                share = both / (own.sum() + other.sum() - both - (other & void).sum())
                if share > 0.5:
                    matched.add(theirs.id)
                    used.add(segment.id)
                    tp[theirs.label] += 1
                    iou[theirs.label] += share
            fn[theirs.label] += theirs.id not in matched
        for segment in scene.segments:
            area = (guess == segment.id).sum()
            if segment.id not in used and area and (void & (guess == segment.id)).sum() / area <= 0.5:
                fp[segment.label] += 1
    return iou / np.maximum(tp, 1) * tp / np.maximum(tp + fp / 2 + fn / 2, 1), tp + fp + fn > 0


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_slow_way(seed):
    samples = [sample(100 * seed + place) for place in range(3)]
    found = measure("test")
    for place, (scene, truth) in enumerate(samples):
        found.update(scene, truth, None, image_id=place)
    kpi = found.reduce_and_compute()
    _, present = slow(samples, -1)
    assert len(kpi) == 15
    for kind, group in (("", range(1, CLASSES)), ("_th", range(1, 5)), ("_st", range(5, CLASSES))):
        among = [n for n in group if present[n]]
        expected = {limit: 100 * slow(samples, limit)[0][among].mean() for limit in LIMITS}
        for limit, value in expected.items():
            assert kpi[f"test_dpq{kind}_{limit}_epoch"] == pytest.approx(value, abs=1e-9)
        average = np.mean([expected[limit] for limit in (0.5, 0.25, 0.1)])
        assert kpi[f"test_dpq{kind}_averages_epoch"] == pytest.approx(average, abs=1e-9)


def measured(seeds, prefix="val"):
    out = measure(prefix)
    for seed in seeds:
        out.update(*sample(seed), image_id=f"scene/{seed}")
    return out


def test_limits_matter_and_names_are_those_of_the_spec():
    kpi = measured(range(10)).reduce_and_compute()
    values = [kpi[f"val_dpq_{limit}_epoch"] for limit in ("-1", "0.5", "0.25", "0.1")]
    assert values == sorted(values, reverse=True)
    assert 10 < values[-1] < values[-2] < values[0] < 90
    metrics = [metric for metric in NETWORK.metrics if "dpq" in metric.name]
    assert len(metrics) == 2
    assert metrics[0].name in kpi
    assert metrics[1].name in kpi
    assert all(re.fullmatch(metrics[1].pattern, name) for name in kpi)


def test_wrong_depth_makes_void_and_unknown_depth_does_not():
    segments = np.full((1, 6), 5, np.int32)
    truth = np.array([[2.0, 2.0, 2.0, 0.0, 0.003, 1.0]], np.float32)
    given = np.array([[2.2, 2.21, np.nan, 9.0, 0.5, np.inf]], np.float32)
    # 2.2 m is 563 steps, 0.0996 off 512; 2.21 m is 565 steps; 3 mm are no step, so unknown
    assert drop_wrong_depth(segments, given, truth, limit=0.1).tolist() == [[5, 0, 0, 5, 5, 0]]
    assert drop_wrong_depth(segments, given, truth, limit=0.5).tolist() == [[5, 5, 0, 5, 5, 0]]
    assert segments.all(), "the map itself stays"


def test_predictions_of_another_size_are_resized():
    scene, truth = sample(2)
    small = scene_of(
        truth.image.segment_map[::2, ::2],
        {s.id: s.label for s in truth.image.segments},
        np.ones((12, 16), np.float32),
    )
    blocks = np.kron(small.segment_map, np.ones((2, 2), np.int32))
    full = scene_of(blocks, {s.id: s.label for s in truth.image.segments}, np.ones(SIZE, np.float32))
    first, second = measure(), measure()
    first.update(small, truth, image_id=0)
    second.update(full, truth, image_id=0)
    assert first.reduce_and_compute() == second.reduce_and_compute()
    assert first.reduce_and_compute()["val_dpq_-1_epoch"] > 50
    assert scene.segment_map.shape == SIZE


def test_absent_classes_count_in_the_published_mean_only():
    depth = np.ones(SIZE, np.float32)
    half = np.zeros(SIZE, np.int32)
    half[:12], half[12:] = 1, 2
    found = measure()
    found.update(scene_of(half, {1: 1, 2: 6}, depth), truth_of(half, {1: 1, 2: 6}, depth), image_id=0)
    kpi = found.reduce_and_compute()
    assert set(kpi.values()) == {100.0}
    text = found.table()
    assert "1 images, 2 of 6 classes occur; percent" in text
    assert re.search(r"dpq_averages 100.00 +dpq_th_averages 100.00 +dpq_st_averages 100.00", text)
    assert re.search(
        r"published_averages +33.33 +published_th_averages +25.00 +published_st_averages +50.00", text
    )
    rows = {row["class"]: row for row in found.per_class()}
    assert rows[1]["DPQ"] == rows[1]["PQ"] == rows[6]["DPQ_0.1"] == 100
    assert rows[2]["DPQ"] is None
    assert (rows[6]["name"], rows[6]["thing"], rows[6]["TP"]) == ("class 6", False, 1)
    head = next(line for line in text.splitlines() if line.startswith("class  "))
    assert head.split() == [
        "class",
        "PQ",
        "SQ",
        "RQ",
        "DPQ",
        "DPQ_0.5",
        "DPQ_0.25",
        "DPQ_0.1",
        "TP",
        "FP",
        "FN",
    ]


def test_a_prediction_that_loses_all_its_pixels_does_not_raise_the_average():
    """The wrong prediction is the only one of its class; without its pixels it is no longer wrong."""
    depth = np.ones(SIZE, np.float32)
    truth, guess, given = np.ones(SIZE, np.int32), np.ones(SIZE, np.int32), depth.copy()
    guess[:4], given[:4] = 2, 5.0
    found = measure()
    found.update(scene_of(guess, {1: 1, 2: 2}, given), truth_of(truth, {1: 1}, depth), image_id=0)
    kpi = found.reduce_and_compute()
    assert kpi["val_dpq_0.1_epoch"] <= kpi["val_dpq_-1_epoch"]
    assert kpi["val_dpq_0.1_epoch"] == pytest.approx(100 * (20 / 24) / 2)


def test_nothing_annotated(caplog):
    found = measure()
    assert found.reduce_and_compute() == {}
    empty = np.zeros(SIZE, np.int32)
    depth = np.zeros(SIZE, np.float32)
    found.update(scene_of(empty, {}, depth), truth_of(empty, {}, depth), image_id=0)
    found.update(scene_of(empty, {}, depth), SceneTruth(Truth(None, None, []), depth, None), image_id=1)
    assert found.reduce_and_compute() == {}
    said = [record.message for record in caplog.records]
    assert said[0] == "dpq is left out: no such segment is annotated or predicted"
    assert len(said) == 3, "each is said once"
    assert found.table().startswith("1 images, 0 of 6 classes occur; percent")
    assert "nan" not in found.table()


def test_two_processes_with_repeated_samples_give_the_numbers_of_one():
    alone, first, second = measured(range(7)), measured([6, 0, 2, 4]), measured([5, 3, 1, 6])
    expected = alone.reduce_and_compute()
    others = pickle.loads(pickle.dumps(second._images))
    with mock.patch.object(depth_panoptic, "gather_on_all", lambda value: [value, others]):
        assert first.reduce_and_compute() == expected  # bit for bit
    assert first.per_class() == alone.per_class()
    assert first.table() == alone.table()
    assert measured([1, 2, 1]).reduce_and_compute() == measured([2, 1]).reduce_and_compute()
    alone.reset()
    alone.update(*sample(4), image_id=0)
    assert alone.reduce_and_compute() == measured([4]).reduce_and_compute()
