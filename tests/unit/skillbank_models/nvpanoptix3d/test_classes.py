"""The classes of rooms: built in, from label maps of others, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from skillbank.errors import AnnotationError, MissingFilesError
from skillbank_models.data.categories import Categories
from skillbank_models.nvpanoptix3d.classes import ROOM_CLASSES, load_classes

NAMES = [
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "desk",
    "dresser",
    "lamp",
    "other",
    "wall",
    "floor",
    "ceiling",
]


def loaded(label_map: Any = None, **changes: Any) -> Categories:
    settings = {"num_classes": 13, "num_things": 9, "contiguous": True, "ignore_label": 255, **changes}
    return load_classes(None if label_map is None else str(label_map), **settings)


def entry(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "trainId": number, "name": f"n{number}", "isthing": int(number <= 9), **more}


def written(path: Path, items: Any) -> Path:
    path.write_text(json.dumps(items))
    return path


def test_the_built_in_classes_are_those_of_the_data_sets() -> None:
    found = loaded()
    assert len(found) == 13
    assert found.by_index[0] is None
    assert [found.name(index) for index in found.used] == NAMES
    assert [found.is_thing(index) for index in found.used] == [True] * 9 + [False] * 3
    assert [found.category_id(index) for index in found.used] == list(range(1, 13))
    assert found.color(10) == (102, 102, 156)
    assert len(ROOM_CLASSES) == 12


def test_fewer_and_more_classes_are_possible() -> None:
    assert [loaded(num_classes=3).name(index) for index in (1, 2)] == ["cabinet", "bed"]
    assert loaded(num_classes=15).name(14) == "class 14"
    assert not loaded(num_things=2).is_thing(3)


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_label_map_names_classes(contiguous: bool, tmp_path: Path) -> None:
    items = [entry(0, name="void"), entry(2, color=[1, 2, 3]), entry(11), {"id": 5, "name": "five"}]
    found = loaded(written(tmp_path / "m.json", items), contiguous=contiguous)
    assert found.name(2) == "n2"
    assert found.color(2) == (1, 2, 3)
    assert found.name(5) == "five"
    assert found.name(4) == "class 4"
    assert found.by_index[0] is None


def test_train_ids_count_where_the_map_is_contiguous(tmp_path: Path) -> None:
    path = written(tmp_path / "m.json", [entry(7, trainId=3), entry(40, trainId=255)])
    assert loaded(path).name(3) == "n7"
    assert loaded(path, contiguous=False, num_classes=41).name(7) == "n7"


def test_things_that_differ_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "m.json", [entry(1), entry(12, isthing=1)])
    with caplog.at_level(logging.WARNING):
        assert not loaded(path).is_thing(12)
    assert "dataset.num_thing_classes = 9, which differs from isthing of n12" in caplog.text


def test_a_missing_map_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"dataset\.label_map: there is no label map"):
        loaded(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "a label map is a JSON list of categories, this is a dict"),
        ([], "this is an empty list"),
        ([entry(13)], r"1 classes are above 12, the largest is 13; model.sem_seg_head.num_classes is 13"),
        ([entry(1), entry(1)], "id 1 is used by category 1 and 2"),
        ([{"name": "x"}], "has id None"),
    ],
)
def test_wrong_maps_are_refused(items: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=message):
        loaded(written(tmp_path / "m.json", items))
