"""Files of predictions, put in place whole, under names that do not collide."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skillbank.errors import StorageError
from skillbank_models.data.categories import Categories
from skillbank_models.data.images import image_endings

__all__ = [
    "OutputNames",
    "categories_json",
    "label_image",
    "save_image",
    "segment_image_file",
    "whole_file",
    "write_json",
    "write_rows",
]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when its content is complete.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"{path}: the file cannot be written ({error.strerror or error})",
            hint=f"df -h {path.parent}",
            key=str(path),
        ) from error


def save_image(path: Path, image: Image.Image, **options: Any) -> None:
    """Write a picture in the format that its ending says."""
    with whole_file(path) as file:
        image.save(file, format={".jpg": "JPEG", ".png": "PNG"}[path.suffix], **options)


def label_image(class_map: NDArray[np.int32], categories: Categories) -> Image.Image:
    """Category ids (H0, W0), 0 = no class, with a palette of the class colours.

    Where an id is above 255 the picture has 16 bits and no palette.
    """
    ids = np.array([0, *(categories.category_id(index) for index in range(len(categories)))])
    labels = ids[class_map + 1]  # (H0, W0)
    if ids.max() > 255:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.frombytes("P", (labels.shape[1], labels.shape[0]), labels.astype(np.uint8).tobytes())
    palette = np.zeros((256, 3), dtype=np.uint8)
    for index in range(len(categories)):
        palette[categories.category_id(index)] = categories.color(index)
    image.putpalette(palette.tobytes())
    return image


def segment_image_file(segment_map: NDArray[np.int32]) -> Image.Image:
    """Segment ids (H0, W0) in COCO's encoding: id = R + 256 G + 65536 B."""
    channels = [(segment_map >> shift).astype(np.uint8) for shift in (0, 8, 16)]
    return Image.fromarray(np.stack(channels, axis=-1))  # (H0, W0, 3)


def categories_json(categories: Categories) -> list[dict[str, Any]]:
    """The categories in COCO's form, by class index."""
    return [
        {
            "id": categories.category_id(index),
            "name": categories.name(index),
            "isthing": int(categories.is_thing(index)),
            "color": list(categories.color(index)),
        }
        for index in categories.used
    ]


def write_json(path: Path, content: Any) -> None:
    """Write one value, to be read by people too."""
    with whole_file(path) as file:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2)
        file.write(text.encode() + b"\n")


def write_rows(path: Path, lists: Mapping[str, Iterable[Any]] | Iterable[Any]) -> None:
    """Write an object of lists, or one list, row by row, so that it never is in memory as a whole."""
    with whole_file(path) as file:
        if not isinstance(lists, Mapping):
            _write_list(file, lists)
        else:
            file.write(b"{")
            for place, (name, rows) in enumerate(lists.items()):
                file.write(b",\n" if place else b"\n")
                file.write(json.dumps(name).encode() + b": ")
                _write_list(file, rows)
            file.write(b"\n}")
        file.write(b"\n")


def _write_list(file: IO[bytes], rows: Iterable[Any]) -> None:
    file.write(b"[")
    for place, row in enumerate(rows):
        file.write(b",\n" if place else b"\n")
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode())
    file.write(b"]")


class OutputNames:
    """Names of result files without their ending, from names of images.

    ``street/a.jpg`` gives ``street/a``. Where the folder of the image holds another image of that stem, such
    as ``a.png``, the ending stays: ``street/a.jpg``. This needs no agreement between processes, and the same
    image has the same name in every run.
    """

    def __init__(self) -> None:
        self._stems: dict[Path, Counter[str]] = {}
        self._given: dict[str, str] = {}

    def of(self, file_name: str, relative_name: str) -> str:
        """Name relative to the folder of results, without an ending of its own.

        Args:
            file_name: path of the image.
            relative_name: the image relative to its folder; what would lead out of it is dropped.
        """
        parts = [part for part in PurePosixPath(relative_name).parts if part not in {"..", "/", "."}]
        inner = PurePosixPath(*parts) if parts else PurePosixPath("image")
        crowded = self._siblings(Path(file_name).parent)[inner.stem.casefold()] > 1
        name = str(inner if crowded else inner.with_name(inner.stem))
        count = 1
        unique = name
        while self._given.setdefault(unique.casefold(), relative_name) != relative_name:
            count += 1
            unique = f"{name}_{count}"
        return unique

    def _siblings(self, folder: Path) -> Counter[str]:
        if folder not in self._stems:
            endings = image_endings()
            try:
                names = list(folder.iterdir())
            except OSError:
                names = []
            self._stems[folder] = Counter(
                name.stem.casefold() for name in names if name.suffix.lower() in endings
            )
        return self._stems[folder]
