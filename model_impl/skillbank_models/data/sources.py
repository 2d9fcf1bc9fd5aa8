"""From the files of a split to a data set: readers by annotation format, and the classes files give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from skillbank_models.data.ade import AdeReader, ids_in_masks
from skillbank_models.data.annotations import stored
from skillbank_models.data.augment import EvalSize
from skillbank_models.data.categories import Categories, Category
from skillbank_models.data.checks import Reader, check_headers, check_split
from skillbank_models.data.coco_files import read_coco_categories
from skillbank_models.data.coco_instance import InstanceReader
from skillbank_models.data.coco_panoptic import PanopticReader
from skillbank_models.data.folder import find_images
from skillbank_models.data.label_map import arrange, numbered
from skillbank_models.data.segmentation import ImageFolder, SegmentationSet, Transform
from skillbank_models.data.targets import Task

__all__ = ["Format", "SplitFiles", "annotated_set", "categories_from", "folder_set", "reader_of"]

log = logging.getLogger(__name__)

Format = Literal["coco_panoptic", "coco", "ade"]


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Where a split is.

    Attributes:
        kind: annotation format.
        masks: folder that the names of the maps are relative to; not looked at for instances.
    """

    kind: Format
    annotations: Path
    images: Path
    masks: Path


def reader_of(files: SplitFiles, categories: Categories) -> Reader:
    """The reader of a format."""
    build: dict[str, Callable[[], Reader]] = {
        "coco_panoptic": lambda: PanopticReader(
            annotations=files.annotations, mask_folder=files.masks, categories=categories
        ),
        "coco": lambda: InstanceReader(annotations=files.annotations, categories=categories),
        "ade": lambda: AdeReader(
            annotations=files.annotations, mask_folder=files.masks, categories=categories
        ),
    }
    return build[files.kind]()


def annotated_set(
    name: str,
    files: SplitFiles,
    *,
    categories: Categories,
    task: Task,
    storage: Literal["default", "serialized"],
    transform: Transform,
    with_truth: bool,
) -> SegmentationSet:
    """Read and check a split.

    Args:
        name: of the split, for messages.

    Raises:
        DataError: its files cannot be used; tells all that was found.
    """
    reader = reader_of(files, categories)
    records = reader.records()
    check_split(name, records, reader, files.images)
    log.info("%s split: %d images of %s", name, len(records), files.annotations)
    return SegmentationSet(
        records=stored(records, storage),
        reader=reader,
        image_folder=files.images,
        transform=transform,
        task=task,
        categories=categories,
        with_truth=with_truth,
    )


def folder_set(folder: Path, *, key: str, size: EvalSize) -> ImageFolder:
    """Images of a folder, without annotations.

    Args:
        key: the setting that names the folder, for messages.

    Raises:
        DataError: no folder, no images, or files that are none.
    """
    names = find_images(folder, key=key)
    check_headers(folder, names)
    return ImageFolder(folder=folder, names=names, size=size)


def categories_from(files: SplitFiles, *, contiguous: bool, num_classes: int) -> Categories:
    """The classes that annotations give where there is no label map.

    Raises:
        DataError: the files are missing, wrong, or do not fit `num_classes`.
    """
    changed = files.annotations.stat().st_mtime_ns if files.annotations.is_file() else 0
    found: Sequence[Category]
    if files.kind != "ade":
        found = _coco_categories(files.annotations, changed)
    elif contiguous:  # only then does it matter which ids there are; it takes reading every mask
        found = numbered(_mask_ids(files.annotations, files.masks, changed))
    else:
        found = numbered(range(1, num_classes + 1))
    return arrange(found, where=files.annotations, contiguous=contiguous, num_classes=num_classes)


# The module and the data of a run ask for the same; a large file takes seconds to read.
@lru_cache(maxsize=4)
def _coco_categories(path: Path, changed: int) -> tuple[Category, ...]:
    return tuple(read_coco_categories(path))


@lru_cache(maxsize=4)
def _mask_ids(path: Path, masks: Path, changed: int) -> tuple[int, ...]:
    return tuple(ids_in_masks(path, masks))
