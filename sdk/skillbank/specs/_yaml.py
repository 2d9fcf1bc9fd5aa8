"""Reading of YAML and JSON spec texts: YAML 1.2 scalars, and every fault with file, line and column.

The text is read event by event, not recursively, so that neither deep nesting nor aliases that multiply
themselves can exhaust stack or memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from skillbank.errors import SpecError
from skillbank.nested import copied

__all__ = ["load_yaml", "parse_text", "scalar_from_text"]

MAX_DEPTH = 50
MAX_VALUES = 100_000
MAX_CHARACTERS = 10_000_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ODD = {
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_MAX_DIGITS = 400

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset({f"{_TAG}{name}" for name in ("int", "float", "bool", "null")})
_TEXT_TAGS = frozenset({f"{_TAG}str", "!"})
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def scalar_from_text(text: str) -> Any:
    """Value of a plain scalar as YAML 1.2 reads it; what is no null, bool or number stays text.

    Numbers with a leading zero or a colon stay text: YAML 1.1 makes octal and base-60 numbers of them.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text in _ODD:
        return _ODD[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def load_yaml(text: str, name: str) -> Any:
    """The value a YAML text holds; an empty text is None.

    Args:
        text: one YAML document.
        name: what to call the text in errors, such as its file name.

    Raises:
        SpecError: with line and column: broken syntax, a key given twice, merge keys, foreign tags, nesting
            deeper than 50 levels, aliases that expand beyond 100 000 values.
    """
    _check_text(text, name)
    try:
        return _Builder(name).build(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as err:
        raise _broken(err, text, name) from err


def parse_text(text: str, name: str) -> Any:
    """The value of a JSON or YAML text; JSON may hold ``//`` and ``/* */`` comments.

    Raises:
        SpecError: as `load_yaml`; for what looks like JSON, the fault the JSON reader found.
    """
    _check_text(text, name)
    if not text.lstrip().startswith(("{", "[")):
        return load_yaml(text, name)
    bare = _without_comments(text)
    try:
        return _load_json(bare, name)
    except json.JSONDecodeError as err:
        json_fault = SpecError(f"{name}, line {err.lineno}, column {err.colno}: {err.msg}", key=name)
    # YAML flow maps ({a: 1}), trailing commas and single quotes are welcome; its faults are not more telling.
    for candidate in dict.fromkeys((text, bare)):
        try:
            return load_yaml(candidate, name)
        except SpecError as err:
            yaml_fault = err
    raise json_fault if re.match(r'\s*[{[]\s*["{[]', bare) else yaml_fault


def _check_text(text: str, name: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise SpecError(
            f"{name}: holds {len(text)} characters; a spec is a short YAML or JSON text", key=name
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as err:
        line, column = _position(text, err.start)
        raise SpecError(f"{name}, line {line}, column {column}: not UTF-8 text", key=name) from err


def _position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, counted from 1, of a character offset."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _broken(err: yaml.YAMLError, text: str, name: str) -> SpecError:
    hint = ""
    odd = _UNPRINTABLE.search(text)
    mark = (err.problem_mark or err.context_mark) if isinstance(err, yaml.MarkedYAMLError) else None
    if isinstance(err, yaml.reader.ReaderError) and odd:
        # The place in the error counts bytes or characters, by the reader that is installed.
        line, column = _position(text, odd.start())
        what = f"character #x{ord(odd.group()):02x} is not allowed in a spec"
        hint = "is this a text file? write the spec as YAML or JSON"
    elif isinstance(err, yaml.MarkedYAMLError) and mark is not None:
        line, column = mark.line + 1, mark.column + 1
        what = ", ".join(part for part in (err.context, err.problem) if part)
        lines = text.split("\n")
        if "\t" in (lines[mark.line][: mark.column + 1] if mark.line < len(lines) else ""):
            what = "a tab stands where YAML wants spaces"
            hint = "indent with spaces"
        elif err.problem and "mapping values are not allowed" in err.problem:
            hint = "put a value that holds ': ' in quotes, and check the indentation of the line above"
    else:
        line, column, what = 1, 1, str(err)
    return SpecError(f"{name}, line {line}, column {column}: {what}", hint=hint, key=name)


def _without_comments(text: str) -> str:
    """`text` with comments outside of strings blanked; offsets stay as they are."""

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return _COMMENT.sub(blank, text)


class _TwiceError(Exception):
    """A key given twice; the JSON reader does not say where."""


def _load_json(text: str, name: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            names = [key for key, _ in pairs]
            raise _TwiceError(next(key for key in names if names.count(key) > 1))
        return out

    try:
        value = json.loads(text, object_pairs_hook=once)
    except _TwiceError as err:
        key = str(err.args[0])
        spots = [
            _position(text, found.start())[0]
            for found in re.finditer(rf"{re.escape(json.dumps(key))}\s*:", text)
        ]
        where = f"{name}, line {spots[-1]}" if len(spots) == 2 else name
        raise SpecError(f"{where}: key {key!r} is given twice", hint="keep one of them", key=name) from None
    except RecursionError:
        raise SpecError(f"{name}: is nested deeper than {MAX_DEPTH} levels", key=name) from None
    except json.JSONDecodeError:
        raise
    except ValueError as err:  # the interpreter's limit on digits
        raise SpecError(f"{name}: holds a number that is too long", key=name) from err
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
    if level:
        raise SpecError(f"{name}: is nested deeper than {MAX_DEPTH} levels", key=name)
    return value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


@dataclass(slots=True)
class _Frame:
    """A list or map that is still open."""

    value: list[Any] | dict[str, Any]
    anchor: str | None
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    size: int = 1
    depth: int = 1


class _Builder:
    """Builds plain values from YAML events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        self.result: Any = None
        self.documents = 0

    def build(self, events: Iterator[Any]) -> Any:
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._open(event)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                frame = self.stack.pop()
                self._add(frame.value, event, size=frame.size, depth=frame.depth, anchor=frame.anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self._fail(event, "a second document starts; a spec is one document")
        return self.result

    def _fail(self, event: Any, what: str, hint: str = "") -> NoReturn:
        mark = event.start_mark
        raise SpecError(
            f"{self.name}, line {mark.line + 1}, column {mark.column + 1}: {what}", hint=hint, key=self.name
        )

    def _alias(self, event: Any) -> None:
        if self._wants_key():
            self._fail(event, "a key must be a plain word, not an alias")
        if event.anchor not in self.anchors:
            inside = any(frame.anchor == event.anchor for frame in self.stack)
            self._fail(event, f"alias *{event.anchor} {'holds itself' if inside else 'is not defined'}")
        value, size, depth = self.anchors[event.anchor]
        self._check_room(event, size, depth)
        self._add(copied(value), event, size=size, depth=depth)

    def _check_room(self, event: Any, size: int, depth: int) -> None:
        if len(self.stack) + depth > MAX_DEPTH:
            self._fail(event, f"the text is nested deeper than {MAX_DEPTH} levels")
        if sum(frame.size for frame in self.stack) + size > MAX_VALUES:
            self._fail(event, f"the text expands to more than {MAX_VALUES} values")

    def _open(self, event: Any) -> None:
        if event.tag not in (None, "!", f"{_TAG}map", f"{_TAG}seq"):
            self._fail(event, f"tag {event.tag} is not supported", "write plain values")
        if self._wants_key():
            self._fail(event, "a key must be a plain word, not a list or a map")
        self._check_room(event, 1, 1)
        is_map = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Frame({} if is_map else [], event.anchor))

    def _wants_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None

    def _scalar(self, event: Any) -> None:
        if self._wants_key():
            self._key(event)
            return
        if event.tag in _TEXT_TAGS or (event.tag is None and not event.implicit[0]):
            value: Any = event.value
        elif event.tag is None or event.tag in _PLAIN_TAGS:
            value = scalar_from_text(event.value)
        else:
            self._fail(event, f"tag {event.tag} is not supported", "write plain values")
        self._add(value, event, anchor=event.anchor)

    def _key(self, event: Any) -> None:
        frame = self.stack[-1]
        if event.value == "<<" and event.implicit[0]:
            self._fail(event, "merge keys (<<) are not supported", "write the values out")
        if not event.value:
            self._fail(event, "a key is empty")
        if event.value in frame.lines:
            first = frame.lines[event.value]
            self._fail(
                event, f"key {event.value!r} is given twice; first in line {first}", "keep one of them"
            )
        frame.lines[event.value] = event.start_mark.line + 1
        frame.key = event.value

    def _add(
        self, value: Any, event: Any, *, size: int = 1, depth: int = 0, anchor: str | None = None
    ) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, size, depth)
        if not self.stack:
            self.result = value
            return
        self._check_room(event, size, 0)
        frame = self.stack[-1]
        frame.size += size
        frame.depth = max(frame.depth, depth + 1)
        if isinstance(frame.value, list):
            frame.value.append(value)
        else:
            assert frame.key is not None
            frame.value[frame.key] = value
            frame.key = None
