"""COCO panoptic files: what is read, and what is said of files that break the format."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shapes_data import coco_sample

from skillbank.errors import AnnotationError, MissingFilesError, ShapeError
from skillbank_models.data.coco_files import read_coco_categories
from skillbank_models.data.coco_panoptic import PanopticReader, number_map
from skillbank_models.data.images import read_ids, read_image
from skillbank_models.data.label_map import arrange, numbered
from skillbank_models.data.targets import build_targets, build_truth

CLASSES = arrange(numbered([1, 2, 3]), where="test", contiguous=True, num_classes=3)


def good() -> dict[str, Any]:
    return {
        "images": [{"id": 9, "file_name": "a.jpg", "height": 2, "width": 3}],
        "annotations": [
            {
                "image_id": 9,
                "file_name": "a.png",
                "segments_info": [
                    {"id": 300, "category_id": 2, "iscrowd": 0, "area": 2},
                    {"id": 5, "category_id": 3, "iscrowd": 1, "area": 1},
                ],
            }
        ],
        "categories": [{"id": 2, "name": "class 2"}],
    }


def reader(folder: Path, content: Any, ids: list[list[int]] | None = None) -> PanopticReader:
    path = folder / "panoptic.json"
    path.write_text(json.dumps(content))
    if ids is not None:
        values = np.array(ids)
        colors = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(colors).save(folder / "a.png")
    return PanopticReader(annotations=path, mask_folder=folder, categories=CLASSES)


def test_segments_become_regions(tmp_path: Path) -> None:
    found = reader(tmp_path, good(), [[0, 300, 300], [5, 0, 0]])
    (record,) = found.records()
    assert (record.image, record.image_id, record.height, record.width) == ("a.jpg", 9, 2, 3)
    regions = found.load(record, (2, 3))
    assert regions.numbers.tolist() == [[0, 1, 1], [2, 0, 0]]
    assert regions.labels.tolist() == [1, 2]
    assert regions.is_crowd.tolist() == [False, True]
    assert regions.areas().tolist() == [2, 1]


def test_number_map_equals_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    ids = [70000, 3, 255, 16777215]
    pixels = rng.choice([0, 9, *ids], (40, 50))
    numbers, unknown = number_map(pixels, ids)
    slow = np.zeros(pixels.shape, int)
    for place, number in enumerate(ids):
        slow[pixels == number] = place + 1
    assert np.array_equal(numbers, slow)
    assert unknown == [9]
    assert number_map(np.zeros((2, 2), int), [])[0].tolist() == [[0, 0], [0, 0]]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        node: Any = content
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            node = node[key]
        node[last] = value

    return apply


SEGMENT = "annotations.0.segments_info.0"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            f"{SEGMENT}.category_id",
            0,
            "segment 300 has category_id 0; category ids are whole numbers above 0",
        ),
        (f"{SEGMENT}.category_id", 8, "has category_id 8, which the classes do not have (ids 1, 2, 3)"),
        (f"{SEGMENT}.category_id", None, "has category_id None"),
        (f"{SEGMENT}.id", 0, "segment 0: ids are whole numbers from 1 to 16777215"),
        (f"{SEGMENT}.id", -4, "segment -4"),
        (f"{SEGMENT}.id", 5, "segment 5 is listed twice"),
        (f"{SEGMENT}.area", 0, "image 9, segment 300 has area 0"),
        ("annotations.0.image_id", 10, "image_id 10, which is not in the list of images"),
        ("annotations.0.file_name", None, "needs file_name and the list segments_info"),
        ("annotations.0.segments_info", {}, "needs file_name and the list segments_info"),
        ("annotations.0", 4, "annotation 1 is 4"),
        ("images.0.file_name", "", "has file_name ''"),
        ("images.0.id", None, "has id None"),
        ("images.0.height", -1, "has height -1"),
        ("images", [], "the list of images is empty"),
        ("images", {}, "no COCO file, it has no list 'images'"),
        ("categories", [{"id": 0, "name": "x"}], "category 1 ('x') has id 0"),
    ],
)
def test_faults_of_the_json_are_told_with_their_place(
    path: str, value: Any, said: str, tmp_path: Path
) -> None:
    content = good()
    change(path, value)(content)
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, content).records()
    assert said in str(caught.value)
    assert "panoptic.json" in str(caught.value)


def test_several_faults_come_together(tmp_path: Path) -> None:
    content = good()
    change(f"{SEGMENT}.category_id", 8)(content)
    change("annotations.0.segments_info.1.category_id", 0)(content)
    content["annotations"].append({**good()["annotations"][0], "image_id": 77})
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, content).records()
    assert len(caught.value.problems) == 3
    assert "add id 8 to dataset.label_map" in str(caught.value)


def test_long_lists_of_faults_are_cut_and_counted(tmp_path: Path) -> None:
    content = good()
    content["annotations"] = [{**good()["annotations"][0], "image_id": number} for number in range(100, 150)]
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, content).records()
    assert len(caught.value.problems) == 21
    assert "30 more problems" in str(caught.value)


def test_two_annotations_of_one_image_and_two_images_of_one_id(tmp_path: Path) -> None:
    content = good()
    content["annotations"] *= 2
    with pytest.raises(AnnotationError, match="image 9 has two annotations"):
        reader(tmp_path, content).records()
    content = good()
    content["images"].append({"id": 9, "file_name": "b.jpg"})
    with pytest.raises(AnnotationError, match=r"images a\.jpg and b\.jpg share the id 9"):
        reader(tmp_path, content).records()


def test_images_without_annotation_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = good()
    content["images"].append({"id": 10, "file_name": "b.jpg"})
    with caplog.at_level(logging.WARNING):
        assert len(reader(tmp_path, content).records()) == 1
    assert "1 of 2 images have no annotation and are left out: 10" in caplog.text
    content["annotations"] = []
    with pytest.raises(AnnotationError, match="no image has an annotation"):
        reader(tmp_path, content).records()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([[0, 300, 300], [0, 0, 0]], "image 9: segments 5 of panoptic.json have no pixel in the PNG"),
        ([[300, 5, 77], [78, 0, 0]], "image 9: ids 77, 78 of the PNG are not in panoptic.json"),
        ([[0, 77, 0], [0, 0, 0]], "segments 300, 5 of panoptic.json have no pixel in the PNG; ids 77 of"),
    ],
)
def test_json_and_png_that_differ(ids: list[list[int]], said: str, tmp_path: Path) -> None:
    found = reader(tmp_path, good(), ids)
    with pytest.raises(AnnotationError) as caught:
        found.load(found.records()[0], (2, 3))
    assert said in str(caught.value)


def test_a_png_of_another_size(tmp_path: Path) -> None:
    found = reader(tmp_path, good(), [[300, 5]])
    with pytest.raises(ShapeError, match=r"a\.png: 1 x 2 pixels \(height x width\), but image 9 has 2 x 3"):
        found.load(found.records()[0], (2, 3))


def test_an_image_with_nothing_in_it(tmp_path: Path) -> None:
    content = good()
    content["annotations"][0]["segments_info"] = []
    found = reader(tmp_path, content, [[0, 0, 0], [0, 0, 0]])
    regions = found.load(found.records()[0], (2, 3))
    for task in ("panoptic", "semantic", "instance"):
        labels, masks = build_targets(regions, task=task, categories=CLASSES)
        assert labels.shape == (0,)
        assert masks.shape == (0, 2, 3)
        truth = build_truth(regions, task=task, categories=CLASSES)
        assert truth.segments == []
        assert (truth.class_map == -1).all()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    with pytest.raises(MissingFilesError, match="no such annotation file"):
        PanopticReader(annotations=path, mask_folder=tmp_path, categories=CLASSES).records()
    content = good()
    content["annotations"] = [{"id": 1, "image_id": 9, "category_id": 1, "segmentation": []}]
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, content).records()
    assert caught.value.hint == "set dataset.type to coco for a file of instances"


def test_coco_images_have_the_areas_of_their_json() -> None:
    root = coco_sample()
    path = root / "panoptic_examples.json"
    content = json.loads(path.read_text())
    classes = arrange(read_coco_categories(path), where=path, contiguous=True, num_classes=133)
    found = PanopticReader(annotations=path, mask_folder=root / "panoptic_examples", categories=classes)
    told = {item["image_id"]: item["segments_info"] for item in content["annotations"]}
    records = found.records()
    assert len(records) == 2
    for record in records:
        image = read_image(root / "input_images" / record.image)
        regions = found.load(record, image.shape[:2])
        segments = told[record.image_id]
        areas = {segment["id"]: segment["area"] for segment in segments}
        assert dict(zip(regions.ids, regions.areas().tolist(), strict=True)) == areas
        labels, masks = build_targets(regions, task="panoptic", categories=classes)
        crowds = [segment for segment in segments if segment["iscrowd"]]
        assert crowds
        assert len(labels) == len(segments) - len(crowds)
        labelled = read_ids(root / "panoptic_examples" / record.mask) != 0
        assert masks.sum() == labelled.sum() - sum(segment["area"] for segment in crowds)
        assert masks.sum(axis=0).max() == 1
        truth = build_truth(regions, task="panoptic", categories=classes)
        assert [segment.id for segment in truth.segments if segment.is_crowd] == [
            segment["id"] for segment in crowds
        ]
        assert {segment.id: segment.area for segment in truth.segments} == areas
        assert ((truth.class_map >= 0) == labelled).all()
        semantic, per_class = build_targets(regions, task="semantic", categories=classes)
        assert semantic.tolist() == sorted({classes.index_of()[s["category_id"]] for s in segments})
        assert per_class.sum() == labelled.sum()
