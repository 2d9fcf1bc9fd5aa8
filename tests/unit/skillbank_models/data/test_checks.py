"""Faults of a split that are told before training, all at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skillbank.errors import AnnotationError, DataError, MissingFilesError, ShapeError
from skillbank_models.data import checks
from skillbank_models.data.ade import AdeReader
from skillbank_models.data.categories import Categories
from skillbank_models.data.checks import check_headers, check_split
from skillbank_models.data.coco_panoptic import PanopticReader


@pytest.fixture
def copy(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the shapes, to break."""
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


def panoptic(root: Path, classes: Categories) -> PanopticReader:
    return PanopticReader(
        annotations=root / "annotations_panoptic.json",
        mask_folder=root / "images_panoptic",
        categories=classes,
    )


def check(root: Path, classes: Categories) -> None:
    reader = panoptic(root, classes)
    check_split("train", reader.records(), reader, root / "images")


def test_good_data_passes(shapes: Path, classes: Categories) -> None:
    check(shapes, classes)
    reader = AdeReader(annotations=shapes / "annotations.jsonl", mask_folder=shapes, categories=classes)
    check_split("train", reader.records(), reader, shapes)


@pytest.mark.parametrize("few", [1, 64])
def test_missing_images_and_masks_are_listed_together(
    few: int, copy: Path, classes: Categories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By asking for each file, and by listing the folder."""
    monkeypatch.setattr(checks, "_FEW", few)
    for name in ("images/000001.jpg", "images/000003.jpg", "images_panoptic/000002.png"):
        (copy / name).unlink()
    with pytest.raises(MissingFilesError) as caught:
        check(copy, classes)
    text = str(caught.value)
    assert "2 of the 8 images" in text
    assert "are not there: 000001.jpg, 000003.jpg" in text
    assert "1 of the 8 masks" in text
    assert "are not there: 000002.png" in text


def test_a_wrong_folder_is_named(copy: Path, classes: Categories) -> None:
    shutil.move(copy / "images", copy / "pictures")
    with pytest.raises(
        MissingFilesError, match=r"images: no such folder, where the images of annotations_panoptic"
    ):
        check(copy, classes)


def test_sizes_that_differ(copy: Path, classes: Categories) -> None:
    Image.new("RGB", (96, 60)).save(copy / "images/000002.jpg")
    Image.new("RGB", (40, 64)).save(copy / "images_panoptic/000004.png")
    with pytest.raises(ShapeError) as caught:
        check(copy, classes)
    text = str(caught.value)
    assert "000002.jpg: 60 x 96 pixels (height x width), but 64 x 96 in" in text
    assert "000004.jpg: 64 x 96 pixels (height x width), but 64 x 40 in 000004.png" in text


def test_files_that_are_no_images(copy: Path, classes: Categories) -> None:
    (copy / "images/000005.jpg").write_text("text")
    (copy / "images_panoptic/000006.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        check(copy, classes)
    assert "000005.jpg: this image cannot be read" in str(caught.value)
    assert "000006.png: this mask cannot be read" in str(caught.value)


def test_segments_without_pixels(copy: Path, classes: Categories) -> None:
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(copy / "images_panoptic/000001.png")
    with pytest.raises(AnnotationError, match=r"image 1: segments .* have no pixel in the PNG"):
        check(copy, classes)


def test_values_that_no_category_has(copy: Path, classes: Categories) -> None:
    Image.fromarray(np.full((64, 96), 77, np.uint8)).save(copy / "masks/000001.png")
    reader = AdeReader(annotations=copy / "annotations.jsonl", mask_folder=copy, categories=classes)
    with pytest.raises(AnnotationError, match=r"masks/000001\.png: the values 77 are no category ids"):
        check_split("train", reader.records(), reader, copy)


def test_only_some_headers_and_pixels_of_a_large_split_are_read(
    shapes: Path, classes: Categories, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    reader = panoptic(shapes, classes)
    records = reader.records() * 20
    size = checks.image_size
    monkeypatch.setattr(checks, "image_size", lambda path: read.append(path) or size(path))
    monkeypatch.setattr(checks, "_MOST_HEADERS", 12)
    monkeypatch.setattr(checks, "_MOST_PIXELS", 5)
    check_split("train", records, reader, shapes / "images")
    assert len(read) == 17


def test_folders_of_images_are_looked_through(shapes: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (shapes / "images").iterdir())
    check_headers(shapes / "images", names)
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_text("no picture")
    with pytest.raises(DataError) as caught:
        check_headers(tmp_path, ["a.jpg", "b.png"])
    assert "a.jpg" in str(caught.value)
    assert "b.png" in str(caught.value)
