"""AP equals pycocotools run on JSON files."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from skillbank_models.data.batch import SegmentTruth
from skillbank_models.data.coco_instance import InstanceReader
from skillbank_models.data.label_map import arrange, numbered
from skillbank_models.data.run_lengths import runs_of, unpacked
from skillbank_models.data.targets import build_truth
from skillbank_models.metrics.mask_ap import evaluate_instances, image_instances
from skillbank_models.ops.image_result import InstanceResult
from skillbank_models.ops.instance_runs import encode_masks

SIZE = (120, 160)
LABELS = [0, 1, 3, 4]  # 2 is unused, 4 never annotated
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"]


def box(rng, low, high):
    """A filled box of random size, as a mask."""
    height, width = rng.integers(low, high, 2)
    top, left = rng.integers(0, SIZE[0] - height + 1), rng.integers(0, SIZE[1] - width + 1)
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def images(seed, count=6):
    """Truth and predictions of some images: shifted boxes, wrong labels, misses, crowds, one image empty."""
    rng = np.random.default_rng(seed)
    out = []
    for place in range(count):
        truth, masks, labels = [], [], []
        for number in range(0 if place == 3 else 8):
            mask = box(rng, *((5, 30), (30, 90), (97, 119))[number % 3])
            label = int(rng.choice([0, 1, 3]))
            rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode()
            truth.append(SegmentTruth(number + 1, label, number == 7, int(mask.sum()), rle))
            if rng.random() < 0.85:
                shift = rng.integers(-4, 5, 2)
                masks.append(np.roll(mask, shift, (0, 1)))
                labels.append(label if rng.random() < 0.8 else int(rng.choice([0, 1, 2, 3])))
        for _ in range(3):
            masks.append(box(rng, 10, 60))
            labels.append(int(rng.choice([0, 1, 3, 4])))
        scores = torch.from_numpy(rng.random(len(masks)).round(1).astype(np.float32))  # with ties
        result = InstanceResult(
            torch.tensor(labels), scores, torch.from_numpy(np.stack(masks)), torch.arange(len(masks))
        )
        out.append((truth, result))
    return out


def on_files(folder, data):
    """Statistics of pycocotools, and AP of each category, from JSON files."""
    annotations, results = [], []
    for image, (truth, result) in enumerate(data, start=1):
        for item in truth:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": item.label + 10,
                    "iscrowd": int(item.is_crowd), "area": item.area, "segmentation": item.rle,
                }
            )  # fmt: skip
        for label, score, rle in zip(
            result.labels.tolist(), result.scores.tolist(), encode_masks(result), strict=True
        ):
            row = {"image_id": image, "category_id": label + 10, "score": score, "segmentation": rle}
            results.append(row)
    truth_file, result_file = folder / "truth.json", folder / "results.json"
    listed = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(data) + 1)]
    categories = [{"id": label + 10, "name": str(label)} for label in LABELS]
    truth_file.write_text(
        json.dumps({"images": listed, "annotations": annotations, "categories": categories})
    )
    result_file.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        run = COCOeval(truth, truth.loadRes(str(result_file)), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    of_class = [p[p > -1].mean() for p in np.moveaxis(run.eval["precision"][:, :, :, 0, -1], 2, 0)[:3]]
    return run.stats[:9].tolist(), of_class


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pycocotools_on_files(seed, tmp_path, capsys):
    data = images(seed)
    records = [image_instances(SIZE, truth, result) for truth, result in data]
    scores = evaluate_instances(records, LABELS)
    assert capsys.readouterr().out == ""
    stats, of_class = on_files(tmp_path, data)
    assert list(scores.values) == NAMES
    assert list(scores.values.values()) == stats
    assert 0.05 < scores.values["AP"] < 0.95
    assert [scores.per_class[label][0] for label in (0, 1, 3)] == of_class
    assert 4 not in scores.per_class
    assert sum(scores.annotated.values()) == sum(not item.is_crowd for truth, _ in data for item in truth)


def test_what_is_not_annotated_has_no_number():
    data = images(0, 1)
    small = [item for item in data[0][0] if item.area < 32 * 32]
    assert small
    scores = evaluate_instances([image_instances(SIZE, small, data[0][1])], LABELS)
    assert "APs" in scores.values
    assert "APl" not in scores.values
    nothing = evaluate_instances([image_instances(SIZE, [], data[0][1])], LABELS)
    assert (nothing.values, nothing.per_class) == ({}, {})
    assert evaluate_instances([], LABELS).values == {}


def test_nothing_found_is_zero_not_missing():
    truth, result = images(0, 1)[0]
    empty = InstanceResult(result.labels[:0], result.scores[:0], result.masks[:0], result.queries[:0])
    scores = evaluate_instances([image_instances(SIZE, truth, empty)], LABELS)
    assert scores.values["AP"] == 0


def test_a_mask_of_several_instances_is_encoded_once():
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[:, 1:3, 2] = True
    three = InstanceResult(torch.arange(3), torch.rand(3), mask.expand(3, 4, 5), torch.tensor([7, 7, 2]))
    first, second, third = encode_masks(three)
    assert first is second
    assert third is not first
    assert unpacked(runs_of(third["counts"]), (4, 5)).tolist() == mask[0].int().tolist()
    assert isinstance(first["counts"], str)


def test_more_instances_than_fit_a_byte():
    """The COCO library cannot take more than 255 masks in some of its calls."""
    size = (8, 8)
    mask = np.zeros(size, dtype=bool)
    mask[2:5, 2:5] = True
    found = InstanceResult(
        labels=torch.zeros(300, dtype=torch.int64),
        scores=torch.linspace(1, 0.1, 300),
        masks=torch.from_numpy(mask).expand(300, *size),
        queries=torch.zeros(300, dtype=torch.int64),
    )
    truth = [SegmentTruth(id=1, label=0, is_crowd=False, area=9, rle=encode_masks(found)[0])]
    scores = evaluate_instances([image_instances(size, truth, found)], [0])
    assert scores.values["AP50"] == pytest.approx(1.0)


def from_pycocotools(path, results):
    """Statistics of pycocotools on an annotation file as it is."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        run = COCOeval(truth, truth.loadRes(results), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {name: value for name, value in zip(NAMES, run.stats[:9].tolist(), strict=True) if value > -1}


def test_sizes_of_polygons_are_those_of_the_annotation_file(tmp_path):
    """Polygons around 32 x 32 pixels, whose area is not the number of pixels they are drawn with."""
    rng = np.random.default_rng(3)
    annotations, crossing = [], 0
    for number in range(1, 41):
        side = 32 + rng.uniform(-0.6, 0.6)
        top, left = rng.uniform(0, SIZE[0] - 34), rng.uniform(0, SIZE[1] - 34)
        polygon = [left, top, left + side, top, left + side, top + side, left, top + side]
        annotations.append(
            {
                "id": number, "image_id": 1 + number % 4, "category_id": 1 + number % 2, "iscrowd": 0,
                "area": side * side, "segmentation": [polygon], "bbox": [left, top, side, side],
            }
        )  # fmt: skip
    flat = {"segmentation": [[5.0] * 6], "area": 2.0, "bbox": [5, 5, 0, 0]}  # nothing is drawn: a miss
    annotations.append({**annotations[0], "id": 41, **flat})
    listed = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(1, 5)]
    categories = [{"id": i, "name": str(i)} for i in (1, 2)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    classes = arrange(numbered([1, 2]), where="test", contiguous=True, num_classes=2)
    reader = InstanceReader(annotations=path, categories=classes)
    kept, counted, results = [], [], []
    for record in reader.records():
        regions = reader.load(record, SIZE)
        truth = build_truth(regions, task="instance", categories=classes).segments
        pixels = regions.planes.sum((1, 2)).tolist()
        crossing += sum((a.area < 1024) != (n < 1024) for a, n in zip(truth, pixels, strict=True))
        shifted = np.roll(regions.planes, 2, axis=2).astype(bool)
        scores = torch.from_numpy(rng.random(len(truth)).astype(np.float32))
        labels = torch.tensor([item.label for item in truth])
        found = InstanceResult(labels, scores, torch.from_numpy(shifted), torch.arange(len(truth)))
        kept.append(image_instances(SIZE, truth, found))
        by_pixels = [
            SegmentTruth(a.id, a.label, a.is_crowd, n, a.rle) for a, n in zip(truth, pixels, strict=True)
        ]
        counted.append(image_instances(SIZE, by_pixels, found))
        for label, score, rle in zip(labels.tolist(), scores.tolist(), encode_masks(found), strict=True):
            row = {"category_id": label + 1, "score": score, "segmentation": rle}
            results.append({"image_id": record.image_id, **row})
    expected = from_pycocotools(path, results)
    assert crossing > 3
    assert evaluate_instances(kept, [0, 1]).values == expected
    assert evaluate_instances(counted, [0, 1]).values != expected  # the test can tell
    assert sum(evaluate_instances(kept, [0, 1]).annotated.values()) == 41
