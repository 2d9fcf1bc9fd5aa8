"""Images and masks of every kind that files come in, and what is said of those that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skillbank.errors import DataError, MissingFilesError
from skillbank_models.data.images import (
    image_endings,
    image_size,
    map_size,
    read_ids,
    read_image,
    read_labels,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    assert np.array_equal(read_image(path), RGB)
    assert image_size(path) == (6, 9)


def test_transparency_is_dropped_and_grey_repeated(tmp_path: Path) -> None:
    rgba = np.concatenate([RGB, np.full((6, 9, 1), 7, np.uint8)], axis=2)
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", rgba)), RGB)
    grey = read_image(save(tmp_path / "grey.png", RGB[..., 0]))
    assert np.array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))


def test_palette_images_show_their_colours(tmp_path: Path) -> None:
    few = RGB // 128 * 200
    path = tmp_path / "palette.png"
    Image.fromarray(few).quantize(colors=16).save(path)
    assert mode_of(path) == "P"
    assert np.abs(read_image(path).astype(int) - few).max() <= 1
    clear = tmp_path / "clear.png"
    Image.fromarray(few).quantize(colors=16).save(clear, transparency=b"\x00" * 4)
    assert read_image(clear).shape == (6, 9, 3)  # without a warning, too


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    assert read_image(save(tmp_path / "deep.png", values))[0, :, 0].tolist() == [0, 1, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path)
    red, green, blue = read_image(path)[0, 0]
    assert red > 200
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_comes_first(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", RGB, exif=exif)
    upright = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1],
        5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB, -1), 7: np.rot90(RGB.transpose(1, 0, 2), 2),
        8: np.rot90(RGB),
    }[orientation]  # fmt: skip
    assert np.array_equal(read_image(path), upright)
    assert image_size(path) == upright.shape[:2]


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.jpg", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"cut\.jpg: this image cannot be read, .*damaged") as caught:
        read_image(path)
    assert "copy the file again" in caught.value.hint
    assert image_size(path) == (64, 64)  # its header is whole
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"text\.png"):
            read(text)
    with pytest.raises(MissingFilesError, match=r"gone\.png: no such image"):
        read_image(tmp_path / "gone.png")


def test_png_cut_off_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.png", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for share in (0.1, 0.5, 0.9):
        data = path.read_bytes()
        (tmp_path / "part.png").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match=r"part\.png"):
            read_image(tmp_path / "part.png")


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "float.tif", np.ones((4, 4), np.float32))
    with pytest.raises(DataError, match="mode 'F'; it takes 8 or 16 bits"):
        read_image(path)


def test_segment_ids_of_rgb_palette_and_grey(tmp_path: Path) -> None:
    ids = np.array([[0, 5, 300], [70000, 16777215, 5]], np.int32)
    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    path = save(tmp_path / "rgb.png", colors)
    assert np.array_equal(read_ids(path), ids)
    assert map_size(path) == (2, 3)
    palette = Image.fromarray(np.array([[0, 1, 2], [3, 4, 1]], np.uint8)).convert("P")
    table = [0, 0, 0, 5, 0, 0, 44, 1, 0, 112, 17, 1, 255, 255, 255]
    palette.putpalette(table)
    palette.putdata([0, 1, 2, 3, 4, 1])
    palette.save(tmp_path / "palette.png")
    assert mode_of(tmp_path / "palette.png") == "P"
    assert np.array_equal(read_ids(tmp_path / "palette.png"), ids)
    deep = np.array([[0, 5, 300]], np.uint16)
    assert read_ids(save(tmp_path / "deep.png", deep)).tolist() == [[0, 5, 300]]
    rgba = np.concatenate([colors, np.full((2, 3, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(read_ids(save(tmp_path / "rgba.png", rgba)), ids)


def test_labels_of_grey_deep_and_palette_masks(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255]], np.uint8)
    assert np.array_equal(read_labels(save(tmp_path / "grey.png", labels)), labels)
    deep = np.array([[0, 300, 65535]], np.uint16)
    assert np.array_equal(read_labels(save(tmp_path / "deep.png", deep)), deep)
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([9, 9, 9] * 256)  # colours say nothing, indices do
    palette.putdata([0, 1, 2])
    palette.save(tmp_path / "palette.png")
    assert read_labels(tmp_path / "palette.png").tolist() == [[0, 1, 2]]
    assert read_labels(save(tmp_path / "rgb.png", np.repeat(labels[..., None], 3, 2))).tolist() == [
        [0, 1, 255]
    ]


def test_coloured_masks_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "colour.png", RGB)
    with pytest.raises(
        DataError, match=r"colour\.png: this mask has pixels of mode 'RGB'; it takes one channel"
    ):
        read_labels(path)
    with pytest.raises(MissingFilesError, match="no such mask"):
        read_labels(tmp_path / "gone.png")


def test_endings_are_those_of_pictures() -> None:
    endings = image_endings()
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"} <= endings
    assert not endings & {".pdf", ".mpg", ".hdf", ".h5", ".txt", ".npz"}
