"""What can be known of a split before training: missing files, wrong sizes, and a sample of the pixels.

Names are compared with folder listings, which takes seconds for a hundred thousand files. Headers are read in
threads. Pixels are looked at for a few images, which shows a wrong folder or a wrong encoding; each image is
checked again when it is loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from skillbank.errors import DataError, MissingFilesError, ShapeError
from skillbank_models.data.annotations import Record
from skillbank_models.data.images import image_size, map_size
from skillbank_models.data.problems import Problems, some
from skillbank_models.data.regions import Regions

__all__ = ["Reader", "absent", "check_headers", "check_split", "spread"]

log = logging.getLogger(__name__)

_MOST_HEADERS = 20_000  # some seconds on a local disk
_MOST_PIXELS = 32
_FEW = 64  # below this a folder is not listed, its files are asked for one by one
_THREADS = 16

Item = TypeVar("Item")


class Reader(Protocol):
    """What reads one annotation format.

    Attributes:
        annotations: the annotation file.
        mask_folder: where the maps are; None where the format has none.
    """

    annotations: Path

    @property
    def mask_folder(self) -> Path | None:
        """Folder of the maps; None where the format has none."""

    def records(self) -> list[Record]:
        """Read and check the annotation file."""

    def load(self, record: Record, size: tuple[int, int]) -> Regions:
        """Regions of an image of that size."""


def check_split(name: str, records: Sequence[Record], reader: Reader, image_folder: Path) -> None:
    """Refuse a split whose files cannot be used.

    Args:
        name: of the split, for messages.

    Raises:
        DataError: everything that was found.
    """
    problems = Problems(f"the {name} split")
    _note_missing(problems, image_folder, (record.image for record in records), "images", reader)
    if reader.mask_folder is not None:
        _note_missing(problems, reader.mask_folder, (record.mask for record in records), "masks", reader)
    problems.check()
    checked = spread(records, _MOST_HEADERS)
    if len(checked) < len(records):
        log.info("%s split: sizes of %d of %d images are checked now", name, len(checked), len(records))
    with ThreadPoolExecutor(_THREADS) as pool:
        for error in pool.map(lambda record: _header_fault(record, reader, image_folder), checked):
            if error is not None:
                problems.note(error)
        problems.check()
        for error in pool.map(
            lambda record: _pixel_fault(record, reader, image_folder), spread(records, _MOST_PIXELS)
        ):
            if error is not None:
                problems.note(error)
    problems.check()


def check_headers(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder with files that have the name of an image and are none.

    Raises:
        DataError: names all of them.
    """
    problems = Problems(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        for error in pool.map(lambda name: _unreadable(folder / name), spread(names, _MOST_HEADERS)):
            if error is not None:
                problems.note(error)
    problems.check()


def _note_missing(problems: Problems, folder: Path, names: Iterable[str], what: str, reader: Reader) -> None:
    if not folder.is_dir():
        problems.note(
            MissingFilesError(
                f"{folder}: no such folder, where the {what} of {reader.annotations.name} are expected",
                hint=f"ls {folder.parent}",
                key=str(folder),
            )
        )
        return
    by_parent: dict[Path, list[str]] = {}
    count = 0
    for name in names:
        path = folder / name
        by_parent.setdefault(path.parent, []).append(path.name)
        count += 1
    missing = [
        str(parent / name) if parent != folder else name
        for parent, wanted in by_parent.items()
        for name in absent(parent, wanted)
    ]
    if missing:
        problems.note(
            MissingFilesError(
                f"{folder}: {len(missing)} of the {count} {what} that {reader.annotations} names are not "
                f"there: {some(missing, most=10)}",
                hint=f"ls {folder} | head",
                key=str(folder),
            )
        )


def absent(parent: Path, wanted: Sequence[str]) -> list[str]:
    """Names that a folder does not have; a folder is listed once instead of asked many times."""
    if len(wanted) < _FEW:
        return [name for name in wanted if not (parent / name).is_file()]
    try:
        with os.scandir(parent) as entries:
            there = {entry.name for entry in entries}
    except OSError:
        return list(wanted)
    return [name for name in wanted if name not in there]


def _header_fault(record: Record, reader: Reader, image_folder: Path) -> DataError | None:
    path = image_folder / record.image
    try:
        size = image_size(path)
        masked = map_size(reader.mask_folder / record.mask) if reader.mask_folder is not None else size
    except DataError as error:
        return error
    told = (record.height, record.width) if record.height and record.width else size
    for other, whose in ((told, reader.annotations), (masked, record.mask)):
        if other != size:
            return ShapeError(
                f"{path}: {size[0]} x {size[1]} pixels (height x width), but {other[0]} x {other[1]} in "
                f"{whose}",
                hint="annotations and masks have the size of the upright picture, after its EXIF rotation",
                key=str(path),
            )
    return None


def _pixel_fault(record: Record, reader: Reader, image_folder: Path) -> DataError | None:
    try:
        reader.load(record, image_size(image_folder / record.image))
    except DataError as error:
        return error
    return None


def _unreadable(path: Path) -> DataError | None:
    try:
        image_size(path)
    except DataError as error:
        return error
    return None


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly taken."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]
