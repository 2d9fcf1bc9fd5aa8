"""ADE-style annotations: JSON lines with an image and a mask of category ids each."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError, MissingFilesError, ShapeError
from skillbank_models.data.annotations import Record
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_panoptic import number_map
from skillbank_models.data.images import read_labels
from skillbank_models.data.problems import Problems, some
from skillbank_models.data.regions import MapRegions

__all__ = ["AdeReader", "ids_in_masks"]

log = logging.getLogger(__name__)

_IGNORED = 255  # in 8-bit masks always; in 16-bit masks unless a category has this id
_IGNORED_16 = 65535
_LINE = '{"img": "images/a.jpg", "segm": "masks/a.png"}'


class AdeReader:
    """Records of a JSON lines file, and the regions of one of them: one for each category that is present.

    Args:
        annotations: the JSON lines.
        mask_folder: what the paths of the masks are relative to.
        categories: whose ids the masks may have.
    """

    def __init__(self, *, annotations: Path, mask_folder: Path, categories: Categories) -> None:
        self.annotations = annotations
        self.mask_folder = mask_folder
        self._index_of = categories.index_of()

    def records(self) -> list[Record]:
        """Read and check the lines.

        Raises:
            MissingFilesError: no such file.
            AnnotationError: everything that is wrong with it.
        """
        return _records(self.annotations)

    def load(self, record: Record, size: tuple[int, int]) -> MapRegions:
        """Regions of an image; their ids are the category ids.

        Args:
            size: of the image, which the mask must have too.

        Raises:
            MissingFilesError: no mask.
            ShapeError: image and mask differ in size.
            AnnotationError: values that no category has.
            DataError: the mask is damaged.
        """
        path = self.mask_folder / record.mask
        pixels = read_labels(path)  # (H0, W0)
        if pixels.shape != size:
            raise ShapeError(
                f"{path}: {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), but its image "
                f"{record.image} has {size[0]} x {size[1]}",
                hint="a mask must have the size of its image, after EXIF rotation",
                key=str(path),
            )
        present = _present(pixels, self._index_of)
        unknown = [value for value in present if value not in self._index_of]
        if unknown:
            raise AnnotationError(
                f"{path}: the values {some(unknown)} are no category ids; 0 and 255 mean unlabelled",
                hint="add them to dataset.label_map; without one, raise model.sem_seg_head.num_classes",
                key=str(path),
            )
        numbers, _ = number_map(pixels, present)
        labels = np.asarray([self._index_of[value] for value in present], np.int64)
        return MapRegions(numbers, present, labels, np.zeros(len(present), np.bool_))


def ids_in_masks(annotations: Path, mask_folder: Path) -> list[int]:
    """Category ids that occur in the masks, ascending; reads every mask.

    255 means unlabelled in 8-bit masks only, so it is a category where a 16-bit mask has it.

    Raises:
        DataError: a mask is missing or damaged.
    """
    records = _records(annotations)
    log.info("looking for the categories in %d masks; dataset.label_map saves this", len(records))

    def values(record: Record) -> set[int]:
        return set(_present(read_labels(mask_folder / record.mask), {_IGNORED: 0}))

    with ThreadPoolExecutor() as pool:
        found = set().union(*pool.map(values, records))
    return sorted(found)


def _present(pixels: NDArray[Any], known: dict[int, int]) -> list[int]:
    """Values that stand for a category, ascending."""
    counts = np.bincount(pixels.ravel())
    present = np.flatnonzero(counts).tolist()
    ignored = {0, _IGNORED, _IGNORED_16}
    if pixels.dtype == np.uint16:
        ignored -= known.keys() & {_IGNORED, _IGNORED_16}
    return [value for value in present if value not in ignored]


def _records(path: Path) -> list[Record]:
    problems = Problems(path)
    found = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = _record(line, f"line {number}", problems)
                    if record is not None:
                        found.append(record)
    except FileNotFoundError as error:
        raise MissingFilesError(
            f"{path}: no such annotation file", hint=f"ls {path.parent}", key=str(path)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"{path}: cannot be read as JSON lines ({error})", hint=f"file {path}", key=str(path)
        ) from error
    if problems and not found:
        raise AnnotationError(
            f"{path}: no line of it is {_LINE}",
            hint="a COCO file needs dataset.type=coco or dataset.type=coco_panoptic",
            key=str(path),
        )
    problems.check()
    if not found:
        raise AnnotationError(f"{path}: no line with an image", hint=f"each line is {_LINE}", key=str(path))
    return found


def _record(line: str, spot: str, problems: Problems) -> Record | None:
    hint = f"each line is {_LINE}"
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        problems.add(f"{spot}, column {error.colno}: no valid JSON ({error.msg})", hint=hint)
        return None
    image, mask = (item.get("img"), item.get("segm")) if isinstance(item, dict) else (None, None)
    if not isinstance(image, str) or not isinstance(mask, str) or not image or not mask:
        problems.add(f"{spot}: img and segm must be names of files, not {image!r} and {mask!r}", hint=hint)
        return None
    return Record(image, image, 0, 0, mask, [])
