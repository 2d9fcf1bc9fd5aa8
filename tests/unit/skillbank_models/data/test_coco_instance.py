"""COCO instance files, with the COCO library as the measure of polygons and run lengths."""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO

from skillbank.errors import AnnotationError, ShapeError
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_instance import InstanceReader
from skillbank_models.data.label_map import arrange, numbered
from skillbank_models.data.regions import Window
from skillbank_models.data.run_lengths import encode_mask, runs_of
from skillbank_models.data.targets import build_targets, build_truth

CLASSES = arrange(numbered([1, 2, 3]), where="test", contiguous=True, num_classes=3)
SIZE = (20, 30)
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]


def item(number: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 9, "category_id": 2, "iscrowd": 0, "segmentation": [SQUARE], **more}


def reader(folder: Path, annotations: list[Any], **image: Any) -> InstanceReader:
    path = folder / "instances.json"
    images = [{"id": 9, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1], **image}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return InstanceReader(annotations=path, categories=CLASSES)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of the library, with numpy 2
def test_every_encoding_equals_the_library(shapes: Path, classes: Categories) -> None:
    """Polygons, run lengths and compressed run lengths of the made-up data."""
    found = InstanceReader(annotations=shapes / "annotations.json", categories=classes)
    library = COCO(shapes / "annotations.json")
    kinds = set()
    for record in found.records():
        regions = found.load(record, (64, 96))
        assert len(regions.planes) == len(library.getAnnIds(imgIds=record.image_id))
        for place, number in enumerate(regions.ids):
            annotation = library.anns[number]
            found_as = annotation["segmentation"]
            kinds.add("polygon" if isinstance(found_as, list) else type(found_as["counts"]).__name__)
            assert np.array_equal(regions.planes[place], library.annToMask(annotation))
            assert (
                coco.area(encode_mask(regions.planes[place]))
                == annotation["area"]
                == regions.planes[place].sum()
            )
    assert kinds == {"polygon", "list", "str"}


def test_polygons_of_one_annotation_are_united(tmp_path: Path) -> None:
    two = [SQUARE, [10, 3, 20, 3, 20, 13, 10, 13]]
    found = reader(tmp_path, [item(segmentation=two)])
    regions = found.load(found.records()[0], SIZE)
    assert regions.planes.shape == (1, *SIZE)
    assert regions.planes[0, 3:13, 2:20].all()
    assert regions.planes.sum() == 10 * 18


def test_overlapping_instances_keep_their_masks(tmp_path: Path) -> None:
    inner = [4, 5, 8, 5, 8, 9, 4, 9]
    found = reader(tmp_path, [item(1), item(2, segmentation=[inner], category_id=3)])
    regions = found.load(found.records()[0], SIZE)
    labels, masks = build_targets(regions, task="instance", categories=CLASSES)
    assert labels.tolist() == [1, 2]
    assert masks.sum(axis=(1, 2)).tolist() == [100, 16]
    truth = build_truth(regions, task="panoptic", categories=CLASSES)
    assert (truth.segment_map == 2).sum() == 16  # the smaller one is on top
    assert {segment.id: segment.area for segment in truth.segments} == {1: 84, 2: 16}
    assert truth.class_map is not None
    assert truth.class_map[6, 6] == 2
    assert truth.class_map[12, 11] == 1


def test_crowds_are_kept_for_measures_only(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, bool)
    mask[15:, 15:] = True
    counts = {"size": list(SIZE), "counts": [15 * 20 + 15] + [5, 15] * 14 + [5]}
    large = 900100000009  # ids of COCO's crowds need more than 32 bits
    found = reader(tmp_path, [item(1), item(large, iscrowd=1, segmentation=counts)])
    regions = found.load(found.records()[0], SIZE)
    assert np.array_equal(regions.planes[1].astype(bool), mask)
    for task in ("instance", "panoptic"):
        assert build_targets(regions, task=task, categories=CLASSES)[0].tolist() == [1]
    truth = build_truth(regions, task="instance", categories=CLASSES)
    assert [(segment.id, segment.is_crowd, segment.area) for segment in truth.segments] == [
        (1, False, 100), (large, True, 75),
    ]  # fmt: skip
    assert truth.segments[1].rle == encode_mask(mask)
    assert [s.id for s in build_truth(regions, task="panoptic", categories=CLASSES).segments] == [1, 2]
    _, masks = build_targets(regions, task="semantic", categories=CLASSES)
    assert masks.sum() == 175  # their pixels do have a class


def test_images_without_annotations_stay(tmp_path: Path) -> None:
    found = reader(tmp_path, [])
    regions = found.load(found.records()[0], SIZE)
    labels, masks = build_targets(regions, task="instance", categories=CLASSES)
    assert labels.shape == (0,)
    assert masks.shape == (0, *SIZE)


def test_instances_without_a_pixel_teach_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    found = reader(tmp_path, [item(1), item(2, segmentation=[flat])])
    record = found.records()[0]
    with caplog.at_level(logging.WARNING):
        regions = found.load(record, SIZE)
        found.load(record, SIZE)
    said = "annotations without a pixel teach nothing and count as missed (image 9): 2"
    assert caplog.text.count(said) == 1
    for task in ("instance", "panoptic", "semantic"):
        assert len(build_targets(regions, task=task, categories=CLASSES)[0]) == 1
    assert [s.id for s in build_truth(regions, task="panoptic", categories=CLASSES).segments] == [1]
    assert [s.area for s in build_truth(regions, task="instance", categories=CLASSES).segments] == [100, 0]


def test_areas_are_those_of_the_file(tmp_path: Path) -> None:
    found = reader(tmp_path, [item(1, area=98.5), item(2), item(3, area=None), item(4, area=0)])
    regions = found.load(found.records()[0], SIZE)
    truth = build_truth(regions, task="instance", categories=CLASSES)
    assert [segment.area for segment in truth.segments] == [98.5, 100, 100, 0]
    assert build_truth(regions.flipped(), task="instance", categories=CLASSES).segments[0].area == 98.5
    half = regions.resized(Window((10, 15), 0, 0, (10, 15)))
    assert build_truth(half, task="instance", categories=CLASSES).segments[0].area == 25


RLE = {"size": [20, 30], "counts": [600]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"id": 0}, "annotation 1 has id 0; ids are whole numbers above 0"),
        ({"id": -1}, "annotation 1 has id -1"),
        ({"image_id": 4}, "annotation 1 has image_id 4, which is not in the list of images"),
        ({"category_id": 0}, "annotation 1 has category_id 0"),
        ({"category_id": 77}, "annotation 1 has category_id 77, which the classes do not have"),
        ({"area": "9"}, "annotation 1 (image 9) has the area '9'; it is a number of pixels from 0"),
        ({"area": -1}, "has the area -1"),
        ({"segmentation": None}, "annotation 1 (image 9) has the segmentation 'None'"),
        ({"segmentation": []}, "has no polygon"),
        (
            {"segmentation": [[1, 2, 3, 4]]},
            "has a polygon of 4 numbers; x and y of at least 3 points are needed",
        ),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "has a polygon of 7 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "has a polygon with something that is no number"),
        ({"segmentation": [3]}, "has the polygon '3'"),
        (
            {"segmentation": {**RLE, "size": [30, 20]}},
            "run lengths of size [30, 20], the image is listed with [20, 30]",
        ),
        ({"segmentation": {**RLE, "size": 600}}, "has run lengths of size 600"),
        ({"segmentation": {**RLE, "counts": [599]}}, "add up to 599, not to 20 x 30"),
        ({"segmentation": {**RLE, "counts": [700, -100]}}, "no whole numbers from 0"),
    ],
)
def test_faults_of_the_json(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, [item(**changed), item(5)]).records()
    assert said in str(caught.value)
    assert "instances.json" in str(caught.value)


def test_annotation_ids_are_unique(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="the annotation id 1 is used twice"):
        reader(tmp_path, [item(1), item(1)]).records()


def test_run_lengths_beyond_the_picture_are_refused(tmp_path: Path) -> None:
    other = encode_mask(np.ones((25, 30), bool))["counts"]
    found = reader(tmp_path, [item(segmentation={"size": [20, 30], "counts": other})])
    with pytest.raises(
        AnnotationError, match=r"annotation 1 \(image 9\) add up to 750 pixels, 20 x 30 has 600"
    ):
        found.load(found.records()[0], SIZE)


@pytest.mark.parametrize("seed", range(3))
def test_compressed_run_lengths_are_counted_as_the_library_writes_them(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(SIZE) < 0.3
    mask[:, : 10 * seed] = True
    text = encode_mask(mask)
    found = reader(tmp_path, [item(segmentation=text)])
    flat = mask.T.ravel()
    slow = [len(list(run)) for _, run in itertools.groupby(flat.tolist())]
    assert runs_of(text["counts"]).tolist() == ([0] if flat[0] else []) + slow
    assert np.array_equal(found.load(found.records()[0], SIZE).planes[0].astype(bool), mask)


def test_an_image_of_another_size(tmp_path: Path) -> None:
    found = reader(tmp_path, [item()])
    with pytest.raises(
        ShapeError, match=r"image 9 \(a\.jpg\) has 30 x 20 pixels .*, but 20 x 30 are annotated"
    ):
        found.load(found.records()[0], (30, 20))
    untold = reader(tmp_path, [item(segmentation=RLE)], height=None, width=None)
    with pytest.raises(ShapeError, match=r"annotation 1 has run lengths of size \[20, 30\]"):
        untold.load(untold.records()[0], (30, 20))
