"""Label maps: the JSON list of categories, and what stands in for it when there is none."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from skillbank.errors import AnnotationError, MissingFilesError
from skillbank_models.data.categories import Categories, Category
from skillbank_models.data.problems import Problems

__all__ = [
    "GOLDEN",
    "arrange",
    "color_of",
    "is_id",
    "load_categories",
    "numbered",
    "read_json_file",
    "read_label_map",
    "read_named",
    "warn_text",
]

GOLDEN = 0.61803398875  # steps of the golden ratio spread any number of hues evenly
_CLASSES_KEY = "model.sem_seg_head.num_classes"


def load_categories(path: Path, *, contiguous: bool, num_classes: int) -> Categories:
    """The classes that a label map gives.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: everything that is wrong with it.
    """
    return arrange(read_label_map(path), where=path, contiguous=contiguous, num_classes=num_classes)


def read_label_map(path: Path) -> list[Category]:
    """Categories of a label map, in the order of the file.

    The file is a JSON list of ``{"id": 1, "name": "chair", "isthing": 1, "color": [220, 20, 60]}``; colour
    and thing flag may be left out.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: everything that is wrong with it.
    """
    items = read_json_file(path, "label map")
    if not isinstance(items, list) or not items:
        raise AnnotationError(
            f"{path}: a label map is a JSON list of categories, this is "
            + ("an empty list" if isinstance(items, list) else f"a {type(items).__name__}"),
            hint='[{"id": 1, "name": "chair", "isthing": 1, "color": [220, 20, 60]}]',
            key=str(path),
        )
    return read_named(items, where=path)


def read_named(items: Sequence[Any], *, where: object) -> list[Category]:
    """Categories from JSON objects, of a label map or of the block ``categories`` of a COCO file.

    Raises:
        AnnotationError: everything that is wrong with them.
    """
    problems = Problems(where)
    found: list[Category] = []
    seen: dict[int, int] = {}
    for place, item in enumerate(items):
        spot = f"category {place + 1}"
        if not isinstance(item, dict):
            problems.add(f"{spot} is {item!r}; each is an object with id and name")
            continue
        number = item.get("id")
        if not is_id(number):
            problems.add(
                f"{spot} ({item.get('name', 'no name')!r}) has id {number!r}; ids are whole numbers above 0, "
                "0 means unlabelled",
                hint="number the categories from 1, here and in the annotations",
            )
            continue
        if number in seen:
            problems.add(
                f"id {number} is used by category {seen[number] + 1} and {place + 1}",
                hint="give every category an id of its own",
            )
            continue
        seen[number] = place
        name = item.get("name", f"class {number}")
        if not isinstance(name, str) or not name.strip():
            problems.add(f"id {number} has the name {name!r}; it must be a text")
            continue
        color = item.get("color")
        if color is not None and not _is_color(color):
            problems.add(f"id {number} has the color {color!r}; it is [red, green, blue], 0 to 255")
            continue
        thing = item.get("isthing", 1)
        if thing not in (0, 1):
            problems.add(f"id {number} has isthing {thing!r}; it is 1 for things and 0 for stuff")
            continue
        red, green, blue = color if color is not None else color_of(place)
        found.append(Category(id=number, name=name, color=(red, green, blue), is_thing=bool(thing)))
    problems.check()
    return found


def arrange(
    categories: Sequence[Category], *, where: object, contiguous: bool, num_classes: int
) -> Categories:
    """Class indices of categories.

    Args:
        contiguous: number them in their order; otherwise a class is its category id minus 1.
        num_classes: of the network.

    Raises:
        AnnotationError: the classes do not fit the network.
    """
    if contiguous:
        if len(categories) != num_classes:
            raise AnnotationError(
                f"{where}: {len(categories)} categories, but {_CLASSES_KEY} is {num_classes}; with "
                "dataset.contiguous_id they must be equal",
                hint=f"{_CLASSES_KEY}={len(categories)}",
                key=_CLASSES_KEY,
                value=num_classes,
            )
        return Categories(tuple(categories))
    largest = max((category.id for category in categories), default=0)
    if largest > num_classes:
        outside = [category.id for category in categories if category.id > num_classes]
        raise AnnotationError(
            f"{where}: {len(outside)} category ids are above {_CLASSES_KEY} {num_classes}, the largest is "
            f"{largest}; without dataset.contiguous_id a class is its id minus 1",
            hint=f"{_CLASSES_KEY}={largest}, or dataset.contiguous_id=true with "
            f"{_CLASSES_KEY}={len(categories)}",
            key=_CLASSES_KEY,
            value=num_classes,
        )
    by_id = {category.id: category for category in categories}
    return Categories(tuple(by_id.get(index + 1) for index in range(num_classes)))


def numbered(ids: Iterable[int]) -> list[Category]:
    """Categories that have nothing but a number."""
    return [
        Category(id=number, name=f"class {number}", color=color_of(place), is_thing=True)
        for place, number in enumerate(ids)
    ]


def color_of(place: int) -> tuple[int, int, int]:
    """A colour for the category at a place of the list, the same in every run."""
    hue = (place * GOLDEN) % 1.0
    light = (0.95, 0.75, 0.55)[place % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, light)
    return round(red * 255), round(green * 255), round(blue * 255)


def warn_text(own: Categories, others: Sequence[Category], *, where: object) -> str:
    """What to say when a file names ids otherwise than the label map does; empty when they agree."""
    names = {category.id: category.name for category in own.by_index if category is not None}
    differ = [
        f"{other.id} is {names[other.id]!r} in the label map and {other.name!r} here"
        for other in others
        if names.get(other.id, other.name).casefold() != other.name.casefold()
    ]
    return f"{where}: {len(differ)} categories have another name, such as {differ[0]}" if differ else ""


def read_json_file(path: Path, what: str) -> Any:
    """Content of a JSON file.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: not readable as JSON; the message has line and column.
    """
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise MissingFilesError(f"{path}: no such {what}", hint=f"ls {path.parent}", key=str(path)) from error
    except IsADirectoryError as error:
        raise AnnotationError(
            f"{path}: a folder, where the {what} is expected", hint=f"ls {path}", key=str(path)
        ) from error
    except OSError as error:
        raise AnnotationError(
            f"{path}: the {what} cannot be read ({error.strerror})", hint=f"ls -l {path}", key=str(path)
        ) from error
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: no valid JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            hint=f"python -m json.tool {path} > /dev/null",
            key=str(path),
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: the {what} is no JSON text ({error})", hint=f"file {path}", key=str(path)
        ) from error


def is_id(value: Any) -> TypeGuard[int]:
    """Whether a value is an id: a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )
