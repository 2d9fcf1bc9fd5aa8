"""What COCO's panoptic and instance files have in common: images, categories, ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillbank.errors import AnnotationError
from skillbank_models.data.categories import Category
from skillbank_models.data.label_map import is_id, read_json_file, read_named
from skillbank_models.data.problems import Problems

__all__ = ["CocoFile", "CocoImage", "check_category", "read_coco_categories", "read_coco_file"]


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of the file; height and width are 0 where they are not told."""

    id: int | str
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class CocoFile:
    """A COCO annotation file of either kind.

    Attributes:
        images: image id -> image, in the order of the file.
        annotations: as they are.
        categories: of the file itself.
    """

    path: Path
    images: Mapping[int | str, CocoImage]
    annotations: list[Any]
    categories: list[Category]


def read_coco_file(path: Path) -> CocoFile:
    """Read a file and check what both kinds share.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: everything that is wrong with it.
    """
    content = _content(path)
    problems = Problems(path)
    images: dict[int | str, CocoImage] = {}
    for place, item in enumerate(content["images"]):
        image = _image(item, place, problems)
        if image is None:
            continue
        if image.id in images:
            problems.add(
                f"images {images[image.id].file_name} and {image.file_name} share the id {image.id!r}"
            )
        images[image.id] = image
    problems.check()
    if not images:
        raise AnnotationError(
            f"{path}: the list of images is empty", hint="name a file with images", key=str(path)
        )
    categories = read_named(content.get("categories") or [], where=path)
    return CocoFile(path, images, content["annotations"], categories)


def read_coco_categories(path: Path) -> list[Category]:
    """Only the categories of a file.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: the file has none, or wrong ones.
    """
    found = read_named(_content(path).get("categories") or [], where=path)
    if not found:
        raise AnnotationError(
            f"{path}: no categories in this file, so the classes are not known",
            hint="name a label map: dataset.label_map=label_map.json",
            key=str(path),
        )
    return found


def check_category(value: Any, spot: str, known: Mapping[int, int], problems: Problems) -> int | None:
    """Class index of a category id; None, and a problem noted, when there is none."""
    if not is_id(value):
        problems.add(
            f"{spot} has category_id {value!r}; category ids are whole numbers above 0",
            hint="0 means unlabelled; number the categories from 1, here and in the label map",
        )
        return None
    if value not in known:
        problems.add(
            f"{spot} has category_id {value}, which the classes do not have (ids {_span(known)})",
            hint=f"add id {value} to dataset.label_map; without one, raise model.sem_seg_head.num_classes",
        )
        return None
    return known[value]


def _span(known: Mapping[int, int]) -> str:
    ids = sorted(known)
    return "none" if not ids else f"{ids[0]} to {ids[-1]}" if len(ids) > 8 else ", ".join(map(str, ids))


def _content(path: Path) -> dict[str, Any]:
    content = read_json_file(path, "annotation file")
    missing = [
        name
        for name in ("images", "annotations")
        if not isinstance(content, dict) or not isinstance(content.get(name), list)
    ]
    if missing:
        raise AnnotationError(
            f"{path}: no COCO file, it has no list {' and no list '.join(repr(name) for name in missing)}",
            hint="dataset.type must be the format of the file: ade, coco or coco_panoptic",
            key=str(path),
        )
    categories = content.get("categories")
    if categories is not None and not isinstance(categories, list):
        raise AnnotationError(f"{path}: categories is no list", key=str(path))
    found: dict[str, Any] = content
    return found


def _image(item: Any, place: int, problems: Problems) -> CocoImage | None:
    spot = f"image {place + 1}"
    if not isinstance(item, dict):
        problems.add(f"{spot} is {item!r}; each is an object with id and file_name")
        return None
    number, name = item.get("id"), item.get("file_name")
    if not isinstance(number, int | str) or isinstance(number, bool):
        problems.add(f"{spot} ({name!r}) has id {number!r}; it is a whole number")
        return None
    if not isinstance(name, str) or not name:
        problems.add(f"{spot} (id {number!r}) has file_name {name!r}; it is the name of a file")
        return None
    sides = [item.get("height") or 0, item.get("width") or 0]
    if any(not isinstance(side, int) or side < 0 for side in sides):
        problems.add(
            f"{spot} (id {number!r}) has height {sides[0]!r} and width {sides[1]!r}; they are pixels"
        )
        return None
    return CocoImage(number, name, sides[0], sides[1])
