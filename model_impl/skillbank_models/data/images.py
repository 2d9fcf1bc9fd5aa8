"""Images and masks from files: every kind of pixel that PIL reads, turned upright, or one clear error."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from skillbank.errors import DataError, MissingFilesError

__all__ = ["image_endings", "image_size", "map_size", "read_ids", "read_image", "read_labels"]

_ORIENTATION = 0x0112  # EXIF tag
_SIDEWAYS = {5, 6, 7, 8}  # EXIF orientations that swap width and height
# What PIL's decoders raise on files that are cut off or damaged; they are not of one family.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error, zlib.error)
# Registered with PIL, but no pictures, or readable with further programs only.
_NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def image_endings() -> frozenset[str]:
    """Endings of files that can be read as images, lower case, with the dot."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(
        ending.lower() for ending, kind in known if kind in Image.OPEN and kind not in _NO_PICTURES
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """Pixels of an image, (H0, W0, 3), RGB, 0 to 255, with the EXIF orientation applied.

    Grey, palette, CMYK and 16-bit images are converted; transparency is dropped.

    Raises:
        MissingFilesError: no such file.
        DataError: the file is damaged, no image, or of a kind that has no colours.
    """
    with _opened(path, "image") as image:
        upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        return _rgb(upright, path)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width after EXIF orientation, from the header alone.

    Raises:
        MissingFilesError: no such file.
        DataError: no image.
    """
    with _opened(path, "image") as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def map_size(path: Path) -> tuple[int, int]:
    """Height and width of a label or segment map, from the header alone.

    Raises:
        MissingFilesError: no such file.
        DataError: no image.
    """
    with _opened(path, "mask") as image:
        return image.height, image.width


def read_ids(path: Path) -> NDArray[np.int32]:
    """Segment ids of a COCO panoptic PNG, (H0, W0): R + 256 G + 65536 B.

    Palette files are read through their palette. In 8-bit and 16-bit grey files the value is the id.

    Raises:
        MissingFilesError: no such file.
        DataError: damaged, or of another kind.
    """
    with _opened(path, "panoptic PNG") as image:
        if image.mode in {"L", "1", "I", "I;16", "I;16B", "I;16L"}:
            return np.asarray(image).astype(np.int32)  # (H0, W0)
        if image.mode not in {"RGB", "RGBA", "P"}:
            raise _wrong_mode(path, image, "panoptic PNG", "RGB")
        # four bytes in a row read as one little-endian number; the last of them, alpha, is masked out
        pixels: NDArray[np.uint32] = np.asarray(image.convert("RGBA")).view("<u4")[..., 0]  # (H0, W0)
        return (pixels & 0xFFFFFF).astype(np.int32)


def read_labels(path: Path) -> NDArray[Any]:
    """Category ids of a label mask, (H0, W0), uint8 or uint16; of palette files the indices.

    Raises:
        MissingFilesError: no such file.
        DataError: damaged, or of several channels that differ.
    """
    with _opened(path, "mask") as image:
        if image.mode in {"L", "P"}:
            return np.asarray(image)  # (H0, W0) uint8
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode in {"I", "I;16", "I;16B", "I;16L"}:
            values = np.asarray(image)
            if values.size and (values.min() < 0 or values.max() > 65535):
                raise DataError(
                    f"{path}: mask values reach from {values.min()} to {values.max()}, beyond 0 to 65535",
                    hint="store category ids in an 8-bit or 16-bit PNG",
                    key=str(path),
                )
            return values.astype(np.uint16)
        channels = np.asarray(image)
        if image.mode in {"RGB", "RGBA", "LA"}:
            colours = channels[..., : 1 if image.mode == "LA" else 3]
            if (colours == colours[..., :1]).all():  # grey, saved with three channels
                return np.ascontiguousarray(colours[..., 0])
        raise _wrong_mode(path, image, "mask", "one channel (mode L, P or I;16) with category ids")


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise MissingFilesError(f"{path}: no such {what}", hint=f"ls {path.parent}", key=str(path)) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: the {what} has too many pixels ({error})",
            hint="cut it into smaller images",
            key=str(path),
        ) from error
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(
            f"{path}: this {what} cannot be read, the file is damaged or no image ({error})",
            hint="copy the file again, or take it out of the data",
            key=str(path),
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        return 1  # damaged EXIF data says nothing about the pixels


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode in {"I", "I;16", "I;16B", "I;16L"}:
        values = np.asarray(image).astype(np.int64)
        if values.size and values.max() > 255:
            values //= 257  # 65535 becomes 255
        grey = values.clip(0, 255).astype(np.uint8)  # (H0, W0)
        return np.repeat(grey[..., None], 3, axis=2)  # (H0, W0, 3)
    if image.mode == "F":
        raise _wrong_mode(path, image, "image", "8 or 16 bits for each channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _wrong_mode(path: Path, image: Image.Image, what: str, allowed: str) -> DataError:
    return DataError(
        f"{path}: this {what} has pixels of mode {image.mode!r}; it takes {allowed}",
        hint="convert the file, for example with Pillow",
        key=str(path),
    )
