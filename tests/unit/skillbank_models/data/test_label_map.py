"""Label maps, the classes they give, and everything that is refused."""

import json
from pathlib import Path

import pytest

from skillbank.errors import AnnotationError, MissingFilesError
from skillbank_models.data.categories import Category
from skillbank_models.data.label_map import (
    arrange,
    color_of,
    load_categories,
    numbered,
    read_label_map,
    warn_text,
)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_order_ids_flags_and_colours(tmp_path: Path) -> None:
    path = write(
        tmp_path / "map.json",
        [{"id": 7, "name": "car", "color": [1, 2, 3]}, {"id": 2, "name": "road", "isthing": 0}],
    )
    found = read_label_map(path)
    assert found[0] == Category(id=7, name="car", color=(1, 2, 3), is_thing=True)
    assert (found[1].id, found[1].is_thing, found[1].color) == (2, False, color_of(1))

    contiguous = load_categories(path, contiguous=True, num_classes=2)
    assert contiguous.index_of() == {7: 0, 2: 1}
    assert [contiguous.is_thing(index) for index in range(2)] == [True, False]

    as_they_are = load_categories(path, contiguous=False, num_classes=9)
    assert as_they_are.index_of() == {7: 6, 2: 1}
    assert as_they_are.used == [1, 6]
    assert (as_they_are.name(6), as_they_are.is_thing(1), len(as_they_are)) == ("car", False, 9)


def test_colours_are_fixed_and_differ() -> None:
    colors = [color_of(place) for place in range(60)]
    assert colors == [color_of(place) for place in range(60)]
    assert len(set(colors)) == 60


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "map.json",
        [
            {"id": 0, "name": "background"},
            {"id": -3, "name": "below"},
            {"id": 4, "name": "four"},
            {"id": 4, "name": "four again"},
            {"id": 5, "name": " "},
            {"id": 6, "name": "six", "color": [0, 0, 256]},
            {"id": 7, "name": "seven", "isthing": 2},
            {"name": "no id"},
            "car",
        ],
    )
    with pytest.raises(AnnotationError) as caught:
        read_label_map(path)
    text = str(caught.value)
    assert len(caught.value.problems) == 8
    assert str(path) in text
    for said in (
        "category 1 ('background') has id 0; ids are whole numbers above 0, 0 means unlabelled",
        "has id -3",
        "id 4 is used by category 3 and 4",
        "id 5 has the name ' '",
        "id 6 has the color [0, 0, 256]",
        "id 7 has isthing 2",
        "category 8 ('no id') has id None",
        "category 9 is 'car'",
    ):
        assert said in text


def test_contiguous_classes_must_fill_the_network() -> None:
    with pytest.raises(
        AnnotationError, match=r"2 categories, but model.sem_seg_head.num_classes is 3"
    ) as caught:
        arrange(numbered([1, 5]), where="map.json", contiguous=True, num_classes=3)
    assert caught.value.hint == "model.sem_seg_head.num_classes=2"


def test_ids_must_fit_where_they_are_used_as_they_are() -> None:
    with pytest.raises(
        AnnotationError, match=r"1 category ids are above .*num_classes 4, the largest is 5"
    ) as caught:
        arrange(numbered([1, 5]), where="map.json", contiguous=False, num_classes=4)
    assert (
        "num_classes=5, or dataset.contiguous_id=true with model.sem_seg_head.num_classes=2"
        in caught.value.hint
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{]", "no valid JSON at line 1, column 3"),
        ({"1": {"name": "car"}}, "a label map is a JSON list of categories, this is a dict"),
        ([], "this is an empty list"),
    ],
)
def test_files_that_are_no_label_map(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_label_map(write(tmp_path / "map.json", content))
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"gone\.json: no such label map"):
        read_label_map(tmp_path / "gone.json")


def test_other_names_for_the_same_id_are_noticed() -> None:
    own = arrange(numbered([1, 2]), where="map", contiguous=True, num_classes=2)
    same = [Category(id=1, name="Class 1", color=(0, 0, 0), is_thing=True)]
    assert warn_text(own, same, where="a.json") == ""
    other = [Category(id=2, name="dog", color=(0, 0, 0), is_thing=True)]
    assert "2 is 'class 2' in the label map and 'dog' here" in warn_text(own, other, where="a.json")
