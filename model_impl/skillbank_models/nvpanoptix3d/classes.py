"""The classes of room data: built in, or of a label map."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skillbank.errors import AnnotationError, MissingFilesError
from skillbank_models.data.categories import Categories, Category
from skillbank_models.data.label_map import color_of, read_json_file, read_named

__all__ = ["ROOM_CLASSES", "load_classes"]

log = logging.getLogger(__name__)

_KEY = "dataset.label_map"
_CLASSES_KEY = "model.sem_seg_head.num_classes"
_THINGS_KEY = "dataset.num_thing_classes"

# 3D-Front and Matterport3D; the number is the class, 0 is void
ROOM_CLASSES: tuple[Category, ...] = tuple(
    Category(number, name, color, is_thing=number <= 9)
    for number, (name, color) in enumerate(
        (
            ("cabinet", (220, 20, 60)),
            ("bed", (255, 0, 0)),
            ("chair", (0, 0, 142)),
            ("sofa", (0, 0, 70)),
            ("table", (0, 60, 100)),
            ("desk", (0, 80, 100)),
            ("dresser", (0, 0, 230)),
            ("lamp", (119, 11, 32)),
            ("other", (190, 50, 60)),
            ("wall", (102, 102, 156)),
            ("floor", (128, 64, 128)),
            ("ceiling", (70, 70, 70)),
        ),
        start=1,
    )
)


def load_classes(
    label_map: str | None, *, num_classes: int, num_things: int, contiguous: bool, ignore_label: int
) -> Categories:
    """Classes by their number; class 0 is void and has no category.

    A label map is a JSON list of ``{"id": 1, "trainId": 1, "name": "cabinet", "isthing": 1, "color": [220,
    20, 60]}``. Pixels and voxels hold the number of the class: the `trainId` where it is given and the map is
    contiguous, else the id. Which classes are things, `num_things` says.

    Args:
        label_map: file; empty = the built-in classes, and numbers where there are more.
        num_classes: of the network, void included.
        num_things: classes 1 to this are things.
        contiguous: whether to read `trainId`.
        ignore_label: classes of this number are void too.

    Raises:
        DataError: the file is missing, or everything that is wrong with it.
    """
    if not label_map:
        named = {category.id: category for category in ROOM_CLASSES}
        return _filled(named, num_classes, num_things)
    path = Path(label_map)
    if not path.is_file():
        raise MissingFilesError(
            f"{_KEY}: there is no label map {label_map}",
            hint=f"ls {path.parent}; or empty, for the classes 0 to 12 of 3D-Front and Matterport3D",
            key=_KEY,
            value=label_map,
        )
    items = read_json_file(path, "label map")
    if not isinstance(items, list) or not items:
        raise AnnotationError(
            f"{path}: a label map is a JSON list of categories, this is "
            + ("an empty list" if isinstance(items, list) else f"a {type(items).__name__}"),
            hint='[{"id": 1, "trainId": 1, "name": "cabinet", "isthing": 1, "color": [220, 20, 60]}]',
            key=str(path),
        )
    void = {0, ignore_label}
    numbered = [_numbered(item, contiguous) for item in items]
    found = read_named([item for item in numbered if not _is_void(item, void)], where=path)
    _check_range(found, path, num_classes)
    named = {category.id: category for category in found}
    _tell_things(found, num_things, path)
    return _filled(named, num_classes, num_things)


def _numbered(item: Any, contiguous: bool) -> Any:
    """A category with the number of its class as id."""
    if contiguous and isinstance(item, dict) and item.get("trainId") is not None:
        return {**item, "id": item["trainId"]}
    return item


def _is_void(item: Any, void: set[int]) -> bool:
    number = item.get("id") if isinstance(item, dict) else None
    return type(number) is int and number in void


def _check_range(found: Sequence[Category], path: Path, num_classes: int) -> None:
    outside = [category.id for category in found if category.id >= num_classes]
    if outside:
        raise AnnotationError(
            f"{path}: {len(outside)} classes are above {num_classes - 1}, the largest is {max(outside)}; "
            f"{_CLASSES_KEY} is {num_classes}, void (0) included",
            hint=f"{_CLASSES_KEY}={max(outside) + 1}",
            key=_CLASSES_KEY,
            value=num_classes,
        )


def _tell_things(found: Sequence[Category], num_things: int, path: Path) -> None:
    differ = [category.name for category in found if category.is_thing != (category.id <= num_things)]
    if differ:
        log.warning(
            "%s: things and stuff are told apart by %s = %d, which differs from isthing of %s",
            path, _THINGS_KEY, num_things, ", ".join(differ),
        )  # fmt: skip


def _filled(named: dict[int, Category], num_classes: int, num_things: int) -> Categories:
    classes: list[Category | None] = [None]
    for number in range(1, num_classes):
        known = named.get(number)
        name, color = (known.name, known.color) if known else (f"class {number}", color_of(number))
        classes.append(Category(number, name, color, is_thing=number <= num_things))
    return Categories(tuple(classes))
