"""The measures of a run: names, images counted once, one process or two, rows and table."""

import pickle
from unittest import mock

import numpy as np
import pytest
import torch

from skillbank.metrics import find_metric
from skillbank.specs import network
from skillbank_models.data.batch import SegmentTruth, Truth
from skillbank_models.data.categories import Categories, Category
from skillbank_models.data.run_lengths import encode_mask
from skillbank_models.metrics import segmentation
from skillbank_models.metrics.segmentation import SegmentationMeasures
from skillbank_models.ops.image_result import ImageResult, InstanceResult, PanopticResult, PredictedSegment

CATEGORIES = Categories(
    (
        Category(1, "cat", (255, 0, 0), True),
        None,
        Category(3, "sky", (0, 0, 255), False),
        Category(4, "dog", (0, 255, 0), True),
        Category(5, "road", (9, 9, 9), False),
    )
)
SIZE = (20, 30)


def sample(seed, mode):
    """Truth of a few boxes on sky and a prediction that is mostly right."""
    rng = np.random.default_rng(seed)
    classes, ids = np.full(SIZE, 2, np.int32), np.full(SIZE, 9, np.int32)
    segments = [SegmentTruth(9, 2, False, 0)]
    masks, labels = [], []
    for number in range(1, 4):
        top, left, label = rng.integers(0, 14), rng.integers(0, 22), int(rng.choice([0, 3]))
        box = np.zeros(SIZE, bool)
        box[top : top + 6, left : left + 8] = True
        classes[box], ids[box] = label, number
        rle = encode_mask(box) if mode == "instance" else None
        segments.append(SegmentTruth(number, label, False, int(box.sum()), rle))
        masks.append(np.roll(box, int(rng.integers(-1, 2)), 1))
        labels.append(label if rng.random() < 0.7 else int(rng.choice([0, 1, 3])))
    truth = Truth(classes, None if mode == "instance" else ids, segments)
    guess = np.roll(classes, 1, 1)
    guess[0, :3] = 1  # an index without a category
    panoptic = instances = None
    if mode == "panoptic":
        present = np.unique(np.roll(ids, 1, 1))
        found = [
            PredictedSegment(int(i), 2 if i == 9 else labels[i - 1], i != 9, 0.9, 0) for i in present.tolist()
        ]
        panoptic = PanopticResult(torch.from_numpy(np.roll(ids, 1, 1)), found)
    if mode == "instance":
        instances = InstanceResult(
            torch.tensor(labels), torch.tensor([0.9, 0.8, 0.7]), torch.from_numpy(np.stack(masks)),
            torch.arange(3),
        )  # fmt: skip
        truth.segments = segments[1:]
    return ImageResult(torch.from_numpy(guess), panoptic, instances), truth


def measured(mode, seeds):
    measures = SegmentationMeasures(mode=mode, categories=CATEGORIES, num_classes=5)
    for seed in seeds:
        measures.update(seed, SIZE, *sample(seed, mode))
    return measures


SEMANTIC = {"mIoU", "ACC_all", "mACC", "fwIoU"}
QUALITY = {f"{name}{suffix}" for name in ("PQ", "SQ", "RQ") for suffix in ("", "_th", "_st")}
PRECISION = {"AP", "AP50", "AP75", "APs", "AR1", "AR10", "AR100"}  # all boxes are small


@pytest.mark.parametrize(
    ("mode", "names"),
    [("semantic", SEMANTIC), ("panoptic", SEMANTIC | QUALITY), ("instance", SEMANTIC | PRECISION)],
)
def test_names_are_those_of_the_specs(mode, names):
    measures = measured(mode, range(6))
    kpi = measures.reduce_and_compute()
    assert set(kpi) == names
    for name in [*names, *measures.class_kpis()]:
        find_metric(network("mask2former"), name)
    assert all(0 < value <= 1 for value in kpi.values())


@pytest.mark.parametrize("mode", ["semantic", "panoptic", "instance"])
def test_two_processes_with_repeated_samples_give_the_numbers_of_one(mode):
    alone = measured(mode, range(7))
    expected = alone.reduce_and_compute()
    # as samplers share out 7 images over 2 processes, in another order, one of them twice
    first, second = measured(mode, [6, 0, 2, 4]), measured(mode, [5, 3, 1, 6])

    def everyone(value):
        return [value, pickle.loads(pickle.dumps(other(value)))]

    def other(value):
        """What the second process has in the place of a value of the first."""
        return next(getattr(second, name) for name in vars(first) if getattr(first, name) is value)

    with (
        mock.patch.object(segmentation, "gather_on_all", everyone),
        mock.patch.object(segmentation, "gather_on_first", everyone),
    ):
        assert first.reduce_and_compute() == expected  # bit for bit
    assert first.per_class() == alone.per_class()
    assert first.table() == alone.table()
    assert "7 images" in first.table()


def test_an_image_counts_once():
    measures = measured("panoptic", [1, 2, 1, 1])
    assert measures.reduce_and_compute() == measured("panoptic", [1, 2]).reduce_and_compute()


def test_reset_forgets():
    measures = measured("panoptic", [1, 2])
    measures.reset()
    measures.update(3, SIZE, *sample(3, "panoptic"))
    assert measures.reduce_and_compute() == measured("panoptic", [3]).reduce_and_compute()


def test_rows_leave_out_indices_without_a_category():
    measures = measured("panoptic", range(6))
    kpi = measures.reduce_and_compute()
    rows = measures.per_class()
    assert [row["class"] for row in rows] == [0, 2, 3, 4]
    assert [row["id"] for row in rows] == [1, 3, 4, 5]
    road = rows[-1]
    assert (road["name"], road["PQ"], road["IoU"], road["pixels"]) == ("road", None, None, 0)
    seen = [row for row in rows if row["IoU"] is not None]
    assert kpi["mIoU"] == pytest.approx(np.mean([row["IoU"] for row in seen]))
    assert kpi["PQ"] == pytest.approx(np.mean([row["PQ"] for row in seen]))
    assert kpi["PQ_th"] == pytest.approx(np.mean([row["PQ"] for row in seen if row["thing"]]))
    assert set(measures.class_kpis()) == {"IoU_cat", "IoU_sky", "IoU_dog"}


def test_categories_of_one_name_have_numbers_of_their_own():
    twins = [Category(7 + place, "cat", (place, 0, 0), True) for place in range(2)]
    sky = Category(9, "sky", (0, 0, 9), False)
    measures = SegmentationMeasures(mode="semantic", categories=Categories((*twins, sky)), num_classes=3)
    classes = np.array([[0, 0, 1, 2]], np.int32)
    guess = torch.tensor([[0, 2, 1, 2]])
    measures.update(1, (1, 4), ImageResult(guess, None, None), Truth(classes, None, []))
    measures.reduce_and_compute()
    assert measures.class_kpis() == {"IoU_cat_7": 0.5, "IoU_cat_8": 1.0, "IoU_sky": 0.5}


def test_the_table_is_aligned_and_in_percent():
    measures = measured("instance", range(6))
    kpi = measures.reduce_and_compute()
    lines = measures.table().splitlines()
    assert lines[0] == "6 images, 3 of 4 classes occur; percent"
    assert f"mIoU    {100 * kpi['mIoU']:6.2f}" in measures.table()
    head = next(place for place, line in enumerate(lines) if line.startswith("class"))
    assert lines[head].split() == ["class", "AP", "AP50", "IoU", "ACC", "instances", "pixels"]
    assert [line.split()[0] for line in lines[head + 2 :]] == ["cat", "sky", "dog"]
    assert len({len(line) for line in lines[head:]}) == 1
    assert lines[head + 3].split()[2] == "-", "stuff has no AP"


def test_missing_numbers_are_told_once(caplog):
    measures = measured("panoptic", [])
    truth = Truth(np.full(SIZE, -1, np.int32), None, [])
    result, _ = sample(0, "panoptic")
    measures.update("a.jpg", SIZE, result, truth)
    assert measures.reduce_and_compute() == {}
    assert measures.reduce_and_compute() == {}
    said = [record.message for record in caplog.records]
    assert said[0] == "mIoU and pixel accuracy are left out: no image has a labelled pixel"
    assert any("PQ_th is left out: no such segment is annotated or predicted" in line for line in said)
    assert len(said) == len(set(said))
    assert measures.table() == "1 images, 0 of 4 classes occur; percent"
    assert measures.class_kpis() == {}


def test_a_truth_without_classes_still_counts_its_segments():
    measures = measured("panoptic", [])
    result, truth = sample(0, "panoptic")
    truth.class_map = None
    measures.update(1, SIZE, result, truth)
    assert set(measures.reduce_and_compute()) == QUALITY
