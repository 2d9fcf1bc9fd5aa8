"""The made-up data: reproducible, exact, the same in all formats, nothing left behind on failure."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from shapes_data import make_shapes

from skillbank.errors import DataError
from skillbank.skill_info import load_skill_info
from skillbank.specs import network
from skillbank_models.data.ade import AdeReader
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_instance import InstanceReader
from skillbank_models.data.coco_panoptic import PanopticReader
from skillbank_models.data.label_map import load_categories
from skillbank_models.data.synthetic import Order
from skillbank_models.data.synthetic_shapes import FORMATS, write_shapes
from skillbank_models.data.targets import build_targets


def digest(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_that_of_a_dataset_root(shapes: Path) -> None:
    assert {path.name for path in shapes.iterdir()} == {
        "images", "images_panoptic", "masks", "annotations.json", "annotations.jsonl",
        "annotations_panoptic.json", "label_map.json", "label_map_panoptic.json",
    }  # fmt: skip
    assert len(list((shapes / "images").iterdir())) == 8


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = digest(make_shapes(tmp_path / "a", images=3, seed=4))
    assert first == digest(make_shapes(tmp_path / "b", images=3, seed=4))
    other = digest(make_shapes(tmp_path / "c", images=3, seed=5))
    assert other["images/000001.jpg"] != first["images/000001.jpg"]
    more = digest(make_shapes(tmp_path / "d", images=4, seed=4))
    assert more["images/000003.jpg"] == first["images/000003.jpg"]


def test_formats_agree_to_the_pixel(shapes: Path, classes: Categories) -> None:
    panoptic = PanopticReader(
        annotations=shapes / "annotations_panoptic.json",
        mask_folder=shapes / "images_panoptic",
        categories=classes,
    )
    instance = InstanceReader(annotations=shapes / "annotations.json", categories=classes)
    ade = AdeReader(annotations=shapes / "annotations.jsonl", mask_folder=shapes, categories=classes)
    told = json.loads((shapes / "annotations_panoptic.json").read_text())
    crowds, stuff, unlabelled = 0, set(), 0
    records = list(
        zip(panoptic.records(), instance.records(), ade.records(), told["annotations"], strict=True)
    )
    assert len(records) == 8
    for one, two, three, annotation in records:
        parts = panoptic.load(one, (64, 96))
        assert parts.areas().tolist() == [segment["area"] for segment in annotation["segments_info"]]
        things = build_targets(parts, task="instance", categories=classes)
        instances = build_targets(instance.load(two, (64, 96)), task="instance", categories=classes)
        assert np.array_equal(things[0], instances[0])
        assert np.array_equal(things[1], instances[1])
        semantic = build_targets(parts, task="semantic", categories=classes)
        classes_map = build_targets(ade.load(three, (64, 96)), task="semantic", categories=classes)
        assert np.array_equal(semantic[0], classes_map[0])
        assert np.array_equal(semantic[1], classes_map[1])
        crowds += int(parts.is_crowd.sum())
        stuff |= set(parts.labels[parts.labels > 4].tolist())
        unlabelled += int((parts.numbers == 0).sum())
    assert crowds > 0
    assert stuff == {5, 6, 7}
    assert unlabelled > 64 * 96  # more than the one image with nothing in it


def test_label_maps_fit_both_ways_of_counting(shapes: Path) -> None:
    for name in ("label_map.json", "label_map_panoptic.json"):
        for contiguous in (True, False):
            found = load_categories(shapes / name, contiguous=contiguous, num_classes=8)
            assert found.used == list(range(8))
            assert [found.is_thing(index) for index in range(8)] == [True] * 5 + [False] * 3


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "ade", images=1, formats=["ade"])
    assert {path.name for path in root.iterdir()} == {
        "images",
        "masks",
        "annotations.jsonl",
        "label_map.json",
    }


def test_formats_are_those_of_the_skill() -> None:
    assert list(FORMATS) == load_skill_info(network("mask2former")).data_formats


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "data", images=1)
    before = digest(root)
    with pytest.raises(DataError, match="is there already; nothing is overwritten"):
        make_shapes(root, images=2)
    assert digest(root) == before
    (tmp_path / "free").mkdir()
    make_shapes(tmp_path / "free", images=1)


def test_nothing_is_left_of_an_attempt_that_failed(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(
            Order(
                folder=tmp_path / "data",
                formats=FORMATS,
                count=3,
                size=(64, 64),
                seed=0,
                empty=0,
                progress=stop,
            )
        )
    assert list(tmp_path.iterdir()) == []
