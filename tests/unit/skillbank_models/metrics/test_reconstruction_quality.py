"""PRQ against a slow, direct implementation; the worked example; processes, repetition, empty data."""

import pickle
from unittest import mock

import numpy as np
import pytest
import torch

from skillbank.errors import ShapeError
from skillbank_models.data.batch import Truth
from skillbank_models.data.categories import Categories, Category
from skillbank_models.metrics import reconstruction_quality
from skillbank_models.metrics.reconstruction_quality import ReconstructionQuality, match_segments
from skillbank_models.metrics.voxel_sets import VoxelSets, overlaps, thick_surfaces
from skillbank_models.nvpanoptix3d.batch import SceneTruth, VolumeTruth
from skillbank_models.nvpanoptix3d.outputs import Scene, Segment

CLASSES, THINGS = 6, 3
CATEGORIES = Categories(
    (None, *(Category(n, f"class {n}", (n, 0, 0), is_thing=n <= THINGS) for n in range(1, CLASSES)))
)
IS_THING = [1 <= n <= THINGS for n in range(CLASSES)]


def measure(**changes):
    given = {"iso_truth": 1.0, "iso_prediction": 1.5, "downsample": 1, **changes}
    return ReconstructionQuality(categories=CATEGORIES, is_thing=IS_THING, **given)


def scene_of(volume, distance, labels):
    segments = [Segment(n, 0, label, IS_THING[label], 1.0) for n, label in labels.items()]
    flat = np.zeros((1, 1), np.int32)
    return Scene(flat, [], flat.astype(np.float32), np.eye(3), distance, volume, volume, segments)


def truth_of(volume, distance, labels):
    flat = np.zeros((1, 1), np.float32)
    return SceneTruth(Truth(None, None, []), flat, VolumeTruth(volume, labels, distance))


def sample(seed, side=14):
    """Blobs with distances around the limits, and a prediction that is like them."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((side, side, side), np.int32)
    ids = rng.choice(np.arange(1, 60), rng.integers(1, 7), replace=False).tolist()
    for number in ids:
        low = rng.integers(0, side - 2, 3)
        size = rng.integers(1, side // 2, 3)
        volume[tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))] = number
    labels = {number: int(rng.integers(1, CLASSES)) for number in ids}
    things_first = dict(sorted(labels.items(), key=lambda item: (item[1] > THINGS, item[0])))
    distance = rng.uniform(-2, 2, volume.shape).astype(np.float32)
    guess = np.roll(volume, rng.integers(-1, 2, 3), (0, 1, 2))
    guess[rng.random(guess.shape) < 0.1] = 0
    renamed = {number: place + 1 for place, number in enumerate(rng.permutation(ids).tolist())}
    guess = np.vectorize(lambda value: renamed.get(value, 0))(guess).astype(np.int32)
    guessed = {
        place: labels[number] if rng.random() < 0.8 else int(rng.integers(1, CLASSES))
        for number, place in renamed.items()
    }
    near = np.abs(distance + rng.normal(0, 0.3, volume.shape)).astype(np.float32)
    frustum = rng.random(volume.shape) < 0.9
    return scene_of(guess, near, guessed), truth_of(volume, distance, things_first), frustum


def grown(own, steps):
    """Maximum over neighbours, one by one."""
    out = np.zeros_like(own)
    side = len(own)
    for x, y, z in np.argwhere(own):
        for dx in steps:
            for dy in steps:
                for dz in steps:
                    at = (x + dx, y + dy, z + dz)
                    if all(0 <= c < side for c in at):
                        out[at] = True
    return out


def halved(own):
    """Maximum over 3 x 3 x 3 around every second voxel."""
    side = len(own) // 2
    out = np.zeros((side, side, side), bool)
    for x in range(side):
        for y in range(side):
            for z in range(side):
                around = tuple(slice(max(2 * c - 1, 0), 2 * c + 2) for c in (x, y, z))
                out[x, y, z] = own[around].any()
    return out


def slow(samples, *, iso_truth, iso_prediction, downsample):
    """Section 8 word by word: sets, greedy matching, per class, means."""
    iou, tp, fp, fn = (np.zeros(CLASSES) for _ in range(4))
    for scene, truth, frustum in samples:
        inside = frustum if downsample == 1 else frustum[::2, ::2, ::2]

        def voxels(volume, distance, number, iso, inside=inside):
            own = (volume == number) & (abs(distance) < iso)
            own = halved(own) if downsample == 2 else own
            return grown(own, (-1, 0, 1)) & inside

        ours = [
            (s.label, voxels(scene.panoptic_volume, scene.geometry, s.id, iso_prediction))
            for s in scene.volume_segments
        ]
        used = set()
        for number, label in truth.volume.labels.items():
            theirs = voxels(truth.volume.segment_map, truth.volume.distance, number, iso_truth)
            for place, (guess, own) in enumerate(ours):
                union = (theirs | own).sum()
                share = (theirs & own).sum() / union if union else 0
                if guess == label and place not in used and share > 0.25:
                    used.add(place)
                    tp[label] += 1
                    iou[label] += share
                    break
            else:
                fn[label] += 1
        for place, (label, _) in enumerate(ours):
            fp[label] += place not in used
    out = {}
    rq = tp / np.maximum(tp + fp / 2 + fn / 2, 0.5)
    sq = iou / np.maximum(tp, 1)
    for suffix, group in (("", range(CLASSES)), ("_things", range(1, THINGS + 1)), ("_stuff", range(4, 6))):
        among = [n for n in group if tp[n] + fn[n] > 0]
        for name, values in (("PRQ", sq * rq), ("RSQ", sq), ("RRQ", rq)):
            if among:
                out[name + suffix] = 100 * values[among].mean()
    return out


@pytest.mark.parametrize("downsample", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_slow_way(seed, downsample):
    samples = [sample(100 * seed + place) for place in range(3)]
    found = measure(downsample=downsample)
    for place, (scene, truth, frustum) in enumerate(samples):
        found.update(scene, truth, torch.from_numpy(frustum), image_id=place)
    expected = slow(samples, iso_truth=1.0, iso_prediction=1.5, downsample=downsample)
    assert found.reduce_and_compute() == pytest.approx(expected, abs=1e-9)


def test_the_cases_find_matches_and_misses():
    found = measure()
    for seed in range(30):
        scene, truth, frustum = sample(seed)
        found.update(scene, truth, frustum, image_id=seed)
    assert 20 < found.reduce_and_compute()["PRQ"] < 80
    for row in found.per_class():
        assert min(row["TP"], row["FP"], row["FN"]) > 0, row


def test_worked_example():
    """Chairs A, B and floor F; chairs P1, P2, floor P3, table P4, in a grid of 4 x 4 x 4."""

    def sets(*members):
        owners = np.concatenate([np.full(len(own), n) for n, own in enumerate(members)])
        voxels = np.concatenate([np.array(own) for own in members])
        order = np.argsort(voxels, kind="stable")
        return VoxelSets(voxels[order], owners[order], len(members))

    theirs = sets(range(8), range(8, 16), range(16, 32))
    ours = sets([*range(6), 40, 41], [8, 9, *range(42, 48)], range(16, 28), range(50, 55))
    overlap = overlaps(theirs, ours)
    assert overlap[0, 0] == pytest.approx(0.6)
    assert overlap[1, 1] == pytest.approx(2 / 14)
    assert overlap[2, 2] == pytest.approx(0.75)
    chair, table, floor = 1, 2, 4
    counts = match_segments(overlap, [chair, chair, floor], [chair, chair, floor, table], classes=CLASSES)
    found = measure()
    with mock.patch.object(found, "_count_image", return_value=counts):
        found.update(*sample(0), image_id=0)
    kpi = found.reduce_and_compute()
    assert {name: round(value, 9) for name, value in kpi.items()} == {
        "PRQ": 52.5, "RSQ": 67.5, "RRQ": 75.0, "PRQ_things": 30, "RSQ_things": 60, "RRQ_things": 50,
        "PRQ_stuff": 75, "RSQ_stuff": 75, "RRQ_stuff": 100,
    }  # fmt: skip
    rows = {row["class"]: row for row in found.per_class()}
    assert rows[chair]["PRQ"] == pytest.approx(30)
    assert (rows[chair]["TP"], rows[chair]["FP"], rows[chair]["FN"]) == (1, 1, 1)
    assert rows[table]["PRQ"] is None
    assert rows[table]["FP"] == 1
    text = found.table()
    assert "1 images, 2 of 5 classes occur; percent" in text
    assert "PRQ      52.50" in text
    assert "PRQ_stuff  75.00" in text
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("class ")][1:] == [
        ["class", "1"], ["class", "4"],
    ]  # fmt: skip


def test_matching_is_in_order_and_one_to_one():
    overlap = np.array([[0.3, 0.9], [0.0, 0.8], [0.25, 0.0]])
    counts = match_segments(overlap, [1, 1, 1], [1, 1], classes=3)
    # the first takes the first that exceeds a quarter, not the best; a quarter itself is too little
    assert counts.overlap[1] == pytest.approx(0.3 + 0.8)
    assert (counts.tp[1], counts.fp[1], counts.fn[1]) == (2, 0, 1)
    nothing = match_segments(np.zeros((0, 2)), [], [1, 2], classes=3)
    assert nothing.fp.tolist() == [0, 1, 1]


def single(place, side=8, number=1):
    volume = np.zeros((side, side, side), np.int32)
    volume[place] = number
    return volume


@pytest.mark.parametrize(
    ("place", "size"), [((4, 4, 4), 27), ((0, 4, 4), 18), ((7, 7, 4), 12), ((0, 7, 0), 8)]
)
def test_surfaces_grow_evenly_and_do_not_wrap(place, size):
    near = np.zeros((8, 8, 8), np.float32)
    own = thick_surfaces(single(place), near, [1], iso=1, downsample=1, inside=None, where="x")
    assert own.sizes().tolist() == [size]
    moved = tuple(c + (1 if c < 7 else -1) for c in place[:1]) + place[1:]
    other = thick_surfaces(single(moved), near, [1], iso=1, downsample=1, inside=None, where="x")
    expected = slow_overlap(grown(single(place) > 0, (-1, 0, 1)), grown(single(moved) > 0, (-1, 0, 1)))
    assert overlaps(own, other)[0, 0] == pytest.approx(expected)


def slow_overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def test_distances_on_either_side_and_the_limit_itself():
    volume = single((4, 4, 4), number=70)
    for value, counts in ((0.99, 27), (-0.99, 27), (1.0, 0), (-3.0, 0)):
        distance = np.full((8, 8, 8), value, np.float32)
        own = thick_surfaces(volume, distance, [5, 70], iso=1, downsample=1, inside=None, where="x")
        assert own.sizes().tolist() == [0, counts]


def test_segments_without_voxels_are_missed_or_wrong():
    volume, far = single((4, 4, 4)), np.full((8, 8, 8), 3, np.float32)
    found = measure()
    found.update(scene_of(volume, far, {1: 2}), truth_of(volume, far, {1: 2}), None, image_id="a")
    assert found.reduce_and_compute()["PRQ"] == 0
    row = found.per_class()[1]
    assert (row["TP"], row["FP"], row["FN"]) == (0, 1, 1)


def test_nothing_predicted_and_nothing_annotated(caplog):
    empty, near = np.zeros((8, 8, 8), np.int32), np.zeros((8, 8, 8), np.float32)
    found = measure()
    assert found.reduce_and_compute() == {}
    found.update(scene_of(single((1, 1, 1)), near, {1: 1}), truth_of(empty, near, {}), None, image_id=0)
    found.update(scene_of(empty, near, {}), truth_of(empty, near, {}), None, image_id=1)
    assert found.reduce_and_compute() == {}
    said = [record.message for record in caplog.records]
    assert said[0] == "PRQ is left out: no such segment is annotated in any volume"
    assert len(said) == 3, "each is said once"
    assert found.table() == "2 images, 0 of 5 classes occur; percent"
    found.update(scene_of(empty, near, {}), truth_of(single((1, 1, 1)), near, {1: 1}), None, image_id=2)
    assert found.reduce_and_compute() == {
        f"{n}{s}": 0 for s in ("", "_things") for n in ("PRQ", "RSQ", "RRQ")
    }


def test_a_perfect_prediction_has_100():
    _, truth, frustum = sample(3)
    volume = truth.volume
    found = measure(iso_prediction=1.0)
    found.update(scene_of(volume.segment_map, volume.distance, volume.labels), truth, frustum, image_id=0)
    kpi = found.reduce_and_compute()
    assert kpi["PRQ"] == kpi["RSQ"] == kpi["RRQ"] == 100


def test_two_processes_with_repeated_samples_give_the_numbers_of_one():
    def measured(seeds):
        out = measure()
        for seed in seeds:
            out.update(*sample(seed), image_id=f"scene/{seed}")
        return out

    alone, first, second = measured(range(7)), measured([6, 0, 2, 4]), measured([5, 3, 1, 6])
    expected = alone.reduce_and_compute()
    others = pickle.loads(pickle.dumps(second._images))
    with mock.patch.object(reconstruction_quality, "gather_on_all", lambda value: [value, others]):
        assert first.reduce_and_compute() == expected  # bit for bit
    assert first.per_class() == alone.per_class()
    assert first.table() == alone.table()
    assert measured([1, 2, 1]).reduce_and_compute() == measured([2, 1]).reduce_and_compute()
    alone.reset()
    alone.update(*sample(4), image_id=0)
    assert alone.reduce_and_compute() == measured([4]).reduce_and_compute()


def test_volumes_of_other_sizes_are_told():
    scene, truth, frustum = sample(0)
    with pytest.raises(
        ShapeError, match=r"image 7, annotation: segments \(14, 14, 14\).*frustum \(7, 14, 14\)"
    ):
        measure().update(scene, truth, frustum[:7], image_id=7)
    truth.volume = None
    found = measure()
    found.update(scene, truth, frustum, image_id=8)  # an image of stage 1
    assert found.reduce_and_compute() == {}
