"""Single values: what a field's annotation takes, and the way from a given value to the canonical one."""

from __future__ import annotations

import json
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from skillbank.specs._yaml import MAX_DEPTH, load_yaml, scalar_from_text
from skillbank.specs.base import FieldNote, StrictModel

__all__ = [
    "Spelling",
    "converter",
    "fooled_by_bool",
    "from_override",
    "has_reference",
    "is_placeholder",
    "is_secret",
    "kinds",
    "plain",
    "shown",
    "text_of",
]

NOT_SET = "???"

_PLACEHOLDER = re.compile(r"\s*<[^<>]*>\s*")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SECRET = re.compile(r"(^|_)(key|token|password|secret)$")
_LARGEST = 10**308
_SHOWN = 80

_SIMPLE = {NoneType: "null", bool: "boolean", int: "integer", float: "number", str: "string", Any: "any"}


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, with `Annotated` taken off."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def kinds(annotation: Any) -> frozenset[str]:
    """JSON types an annotation takes: null, boolean, integer, number, string, array, object or any."""
    found: set[str] = set()
    for member in _members(annotation):
        if get_origin(member) is Literal:
            found.update(_SIMPLE[type(option)] for option in get_args(member))
        elif member in _SIMPLE:
            found.add(_SIMPLE[member])
        elif (get_origin(member) or member) is list:
            found.add("array")
        else:
            found.add("object")
    return frozenset(found)


def _options(annotation: Any) -> list[str]:
    """Text options of an annotation, those of list items included."""
    found: list[str] = []
    for member in _members(annotation):
        if get_origin(member) is Literal:
            found += [option for option in get_args(member) if isinstance(option, str)]
        elif get_origin(member) is list:
            found += _options(get_args(member)[0])
    return found


def _loosely(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "")


@dataclass(frozen=True, slots=True)
class Spelling:
    """The spellings of one field's options."""

    exact: Mapping[str, Any]
    loose: Mapping[str, Any]
    options: frozenset[str]

    @classmethod
    def of(cls, annotation: Any, note: FieldNote) -> Spelling | None:
        """The spellings of a field, or None when there is but one."""
        exact = {str(key): value for key, value in note.spellings.items()}
        loose: dict[str, Any] = {}
        options = _options(annotation)
        if note.any_case:
            for text, value in [*((option, option) for option in options), *exact.items()]:
                loose.setdefault(_loosely(text), value)
        return cls(exact, loose, frozenset(options)) if exact or loose else None

    def __call__(self, value: Any) -> Any:
        """The canonical value; what is no known spelling comes back as it is."""
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, str) and value not in self.options:
            found = self.exact.get(value, value)
            return self.loose.get(_loosely(value), value) if found is value else found
        if isinstance(value, int | float):
            return self.exact.get(str(value), value)
        return value


def converter(annotation: Any) -> Callable[[Any], Any] | None:
    """Turns whole floats into integers where only an integer fits, as JSON Schema does; None = not needed."""
    whole = {"integer"} <= kinds(annotation) and not {"number", "any"} & kinds(annotation)
    items: Callable[[Any], Any] | None = None
    values: Callable[[Any], Any] | None = None
    fields: dict[str, Callable[[Any], Any]] = {}
    for member in _members(annotation):
        if get_origin(member) is list:
            items = converter(get_args(member)[0])
        elif get_origin(member) is dict:
            values = converter(get_args(member)[1])
        elif isinstance(member, type) and issubclass(member, StrictModel):
            for name, info in member.model_fields.items():
                inner = converter(info.annotation)
                if inner is not None:
                    fields[name] = inner
    if not (whole or items or values or fields):
        return None

    def convert(value: Any) -> Any:
        if whole and isinstance(value, float) and value.is_integer():
            return int(value)
        if items and isinstance(value, list):
            return [items(item) for item in value]
        if isinstance(value, dict) and (values or fields):
            keep = values or _same
            return {key: fields.get(key, keep)(item) for key, item in value.items()}
        return value

    return convert


def _same(value: Any) -> Any:
    return value


def fooled_by_bool(annotation: Any) -> Callable[[Any], bool] | None:
    """Finds a bool among numeric options, or 0 or 1 among bool options: equal in Python, not in JSON.

    Returns:
        A predicate on the canonical value, or None where no option can be mistaken.
    """
    for member in _members(annotation):
        if get_origin(member) is Literal:
            options = [option for option in get_args(member) if isinstance(option, bool | int)]
            typed = {(type(option), option) for option in options}
            if options:
                return lambda value: value in options and (type(value), value) not in typed
        elif get_origin(member) is list:
            inner = fooled_by_bool(get_args(member)[0])
            if inner is not None:
                return lambda value: isinstance(value, list) and any(inner(item) for item in value)
    return None


def plain(value: Any, depth: int = 0) -> Any:
    """The value as JSON has it: tuples become lists, paths text, numbers of other libraries Python's own.

    Raises:
        ValueError: says what has no place in a spec: NaN, infinity, line breaks, keys that are not text, ...
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = str.__str__(value)
        if _UNPRINTABLE.search(text):
            raise ValueError("holds a line break or another control character")
        return text
    if isinstance(value, numbers.Real):
        number = int(value) if isinstance(value, numbers.Integral) else float(value)
        if not math.isfinite(number) if isinstance(number, float) else abs(number) > _LARGEST:
            raise ValueError("is not a finite number")
        return number
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            raise ValueError(f"has the key {odd!r}, which is not text")
        return {str.__str__(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, os.PathLike):
        return plain(os.fsdecode(value), depth)
    raise ValueError(f"is of type {type(value).__name__}, which has no place in a spec")


def has_reference(value: Any) -> bool:
    """Whether a value refers to another key: holds ``${``."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, dict):
        return any(has_reference(item) for item in value.values())
    return isinstance(value, list) and any(has_reference(item) for item in value)


def is_placeholder(value: Any) -> bool:
    """Whether a value is a blank from documentation, such as ``<model to be evaluated>``."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def is_secret(key: str) -> bool:
    """Whether the value of a dotted key must not be shown."""
    return _SECRET.search(key.rpartition(".")[2].lower()) is not None


def shown(key: str, value: Any) -> str:
    """A value for a message: short, on one line, and hidden where the key names a secret."""
    if is_secret(key):
        return "the value"
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def text_of(value: float | bool) -> str:
    """A number or bool as the text somebody would write for it."""
    return json.dumps(value)


def from_override(text: str, wanted: frozenset[str], name: str) -> Any:
    """Value of the right side of ``key=value``.

    Args:
        text: as typed; quotes around the whole are taken off.
        wanted: `kinds` of the field, or empty when the key is not known.
        name: what to call the text in errors.

    Raises:
        SpecError: a list or map in brackets that is not closed, and the like.
    """
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if wanted and wanted <= {"string", "null"}:
        if quoted:
            return text[1:-1]
        return None if text == "null" and "null" in wanted else text
    if quoted:
        return text[1:-1]
    if text.startswith(("[", "{")):
        return load_yaml(text, name)
    if text == "":
        return "" if not wanted or wanted & {"string", "any"} else None
    return scalar_from_text(text)
