"""JSON lines with masks of category ids."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skillbank.errors import AnnotationError, MissingFilesError, ShapeError
from skillbank_models.data.ade import AdeReader, ids_in_masks
from skillbank_models.data.categories import Categories
from skillbank_models.data.label_map import arrange, numbered
from skillbank_models.data.targets import build_targets, build_truth

CLASSES = arrange(numbered([1, 2, 3]), where="test", contiguous=True, num_classes=3)


def reader(
    folder: Path, mask: np.ndarray, *, text: str | None = None, classes: Categories = CLASSES
) -> AdeReader:
    Image.fromarray(mask).save(folder / "a.png")
    path = folder / "lines.jsonl"
    path.write_text(json.dumps({"img": "a.jpg", "segm": "a.png"}) if text is None else text)
    return AdeReader(annotations=path, mask_folder=folder, categories=classes)


def test_values_are_classes_and_0_and_255_are_not(tmp_path: Path) -> None:
    found = reader(tmp_path, np.array([[0, 1, 3], [255, 3, 3]], np.uint8))
    (record,) = found.records()
    assert (record.image, record.image_id, record.mask) == ("a.jpg", "a.jpg", "a.png")
    regions = found.load(record, (2, 3))
    labels, masks = build_targets(regions, task="semantic", categories=CLASSES)
    assert labels.tolist() == [0, 2]
    assert masks.sum(axis=(1, 2)).tolist() == [1, 3]
    truth = build_truth(regions, task="semantic", categories=CLASSES)
    assert truth.class_map is not None
    assert truth.class_map.tolist() == [[-1, 0, 2], [-1, 2, 2]]


def test_a_mask_without_background_loses_no_class(tmp_path: Path) -> None:
    found = reader(tmp_path, np.array([[1, 1], [2, 2]], np.uint8))
    labels, _ = build_targets(found.load(found.records()[0], (2, 2)), task="semantic", categories=CLASSES)
    assert labels.tolist() == [0, 1]


def test_sixteen_bit_masks_hold_many_classes(tmp_path: Path) -> None:
    many = arrange(numbered(range(1, 401)), where="test", contiguous=False, num_classes=400)
    found = reader(tmp_path, np.array([[0, 255, 256], [400, 65535, 1]], np.uint16), classes=many)
    regions = found.load(found.records()[0], (2, 3))
    assert regions.labels.tolist() == [0, 254, 255, 399]  # 255 is a class here, 65535 is none
    few = reader(tmp_path, np.array([[0, 255, 3]], np.uint16))
    assert few.load(few.records()[0], (1, 3)).labels.tolist() == [2]


def test_blank_lines_and_byte_order_marks_are_fine(tmp_path: Path) -> None:
    line = json.dumps({"img": "a.jpg", "segm": "a.png"})
    found = reader(tmp_path, np.ones((1, 1), np.uint8), text=f"\ufeff{line}\n\n  \n{line}\n\n")
    assert len(found.records()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"img": "a"}\n{"img": "a.jpg", "segm": "a.png"}',
            "line 1: img and segm must be names of files, not 'a' and None",
        ),
        ('{"img": "a.jpg", "segm": "a.png"}\n{"img": 3', "line 2, column 10: no valid JSON"),
        ('{"img": "a.jpg", "segm": "a.png"}\n[]', "line 2: img and segm must be names of files"),
        ("\n", "no line with an image"),
        ('{"images": [], "annotations": []}', "no line of it is"),
    ],
)
def test_faults_are_told_with_their_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, np.ones((1, 1), np.uint8), text=text).records()
    assert said in str(caught.value)
    assert "lines.jsonl" in str(caught.value)


def test_a_coco_file_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        reader(tmp_path, np.ones((1, 1), np.uint8), text='{\n"images": [],\n"annotations": []}').records()
    assert "dataset.type=coco_panoptic" in caught.value.hint


def test_unknown_values_and_other_sizes(tmp_path: Path) -> None:
    found = reader(tmp_path, np.array([[1, 7, 9]], np.uint8))
    record = found.records()[0]
    with pytest.raises(AnnotationError, match=r"a\.png: the values 7, 9 are no category ids"):
        found.load(record, (1, 3))
    with pytest.raises(
        ShapeError, match=r"a\.png: 1 x 3 pixels \(height x width\), but its image a\.jpg has 3 x 1"
    ):
        found.load(record, (3, 1))


def test_missing_files(tmp_path: Path) -> None:
    found = reader(tmp_path, np.ones((1, 1), np.uint8))
    record = found.records()[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(MissingFilesError, match=r"a\.png: no such mask"):
        found.load(record, (1, 1))
    found.annotations.unlink()
    with pytest.raises(MissingFilesError, match="no such annotation file"):
        found.records()


def test_255_is_a_category_of_16_bit_masks_only(tmp_path: Path) -> None:
    for kind, found in ((np.uint16, [1, 255, 300]), (np.uint8, [1, 44])):
        wide = reader(tmp_path, np.array([[0, 1, 255], [300, 65535, 1]]).astype(kind))
        assert ids_in_masks(wide.annotations, tmp_path) == found
    wide = reader(tmp_path, np.array([[255, 300]], np.uint16))
    ids = ids_in_masks(wide.annotations, tmp_path)
    classes = arrange(numbered(ids), where="test", contiguous=True, num_classes=2)
    again = reader(tmp_path, np.array([[255, 300]], np.uint16), classes=classes)
    assert again.load(again.records()[0], (1, 2)).labels.tolist() == [0, 1]


def test_categories_from_masks(shapes: Path) -> None:
    from skillbank_models.data.images import read_labels

    slow = {int(value) for path in (shapes / "masks").iterdir() for value in np.unique(read_labels(path))}
    assert ids_in_masks(shapes / "annotations.jsonl", shapes) == sorted(slow - {0})
