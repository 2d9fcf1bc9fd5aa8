"""Brings the values of one layer under their canonical keys and into their canonical spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skillbank.errors import ConflictError, InvalidValueError, SkillBankError
from skillbank.nested import put
from skillbank.specs._keys import KeyTable, Leaf
from skillbank.specs._values import NOT_SET, is_placeholder, plain, shown, text_of

__all__ = ["Placed", "merged", "place"]


@dataclass(slots=True)
class Placed:
    """One layer after placing.

    Attributes:
        values: canonical leaf key -> canonical value; a section key only with a value no section can have.
        unknown: keys as written that the spec does not have, with what stands there.
        foreign: blocks of other actions, untouched.
        notes: what was rewritten or left out, for people.
        problems: conflicts, blanks and values that no file format could hold.
    """

    table: KeyTable
    origin: str = ""
    typed_text: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    unknown: dict[str, Any] = field(default_factory=dict)
    foreign: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[SkillBankError] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)

    def nested(self) -> dict[str, Any]:
        """Values and unknown keys as one nested map."""
        tree: dict[str, Any] = {}
        for key, value in [*self.values.items(), *self.unknown.items()]:
            put(tree, key, value)
        return tree

    def where(self, key: str) -> str:
        """The key for a message, with the file it comes from."""
        return f"{key} ({self.origin})" if self.origin else key


def place(
    table: KeyTable, values: Mapping[str, Any], *, origin: str = "", typed_text: bool = False
) -> Placed:
    """Place the values of a layer; nothing is raised, problems are collected in the result.

    Args:
        table: keys of the network and action.
        values: nested maps, dotted keys, or both mixed.
        origin: file name or the like, for messages.
        typed_text: values were typed on a command line, where 123 may mean a text.
    """
    placed = Placed(table, origin, typed_text)
    for name, value in values.items():
        _visit(placed, str(name), value)
    if placed.foreign:
        placed.notes.append(f"blocks of other actions are not read: {', '.join(sorted(placed.foreign))}")
    placed.notes = list(dict.fromkeys(placed.notes))
    return placed


def _visit(placed: Placed, path: str, value: Any) -> None:
    table = placed.table
    key, replaced = table.rewritten(path)
    leaf = table.find(key)
    if leaf is None and value == NOT_SET:
        return
    if leaf is not None:
        if replaced:
            placed.notes.append(f"{replaced} is read as {table.rewritten(replaced)[0]}")
        _set(placed, leaf, key, path, value)
    elif key in table.sections:
        if isinstance(value, Mapping):
            for name, item in value.items():
                _visit(placed, f"{path}.{name}", item)
        elif value is not None or table.sections[key]:
            placed.values[key] = value
            placed.written.setdefault(key, path)
    elif isinstance(value, Mapping) and not replaced and table.leads_to_alias(path):
        for name, item in value.items():
            _visit(placed, f"{path}.{name}", item)
    elif key.partition(".")[0] in table.foreign:
        if "." in key or isinstance(value, Mapping):
            _keep_foreign(placed.foreign, key, value)
        elif value is not None:
            placed.unknown[path] = value
    else:
        placed.unknown[path] = value


def _keep_foreign(tree: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        tree.setdefault(key.partition(".")[0], {})
        for name, item in value.items():
            _keep_foreign(tree, f"{key}.{name}", item)
    else:
        put(tree, key, value)


def _set(placed: Placed, leaf: Leaf, key: str, path: str, given: Any) -> None:
    if given == NOT_SET:
        return
    try:
        value = plain(given)
    except ValueError as err:
        placed.problems.append(
            InvalidValueError(f"{placed.where(path)}: {shown(path, given)} {err}", hint=f"{key}=...", key=key)
        )
        return
    if is_placeholder(value):
        what = f"{placed.where(path)}: {shown(path, value)} is a blank to fill in, not a value"
        placed.problems.append(InvalidValueError(what, hint=f"write the real value: {path}=...", key=key))
        return
    if not leaf.has_reference(value) and key == leaf.key:
        if placed.typed_text and leaf.is_text and isinstance(value, bool | int | float):
            value = text_of(value)
        settled = leaf.settled(value)
        if settled != value and leaf.spelling is not None:
            placed.notes.append(f"{key}: {shown(key, value)} is read as {shown(key, settled)}")
        value = settled
    if key != leaf.key:
        inner = value
        value = {}
        put(value, key.removeprefix(f"{leaf.key}."), inner)
    _merge_in(placed, leaf, path, value)


def _merge_in(placed: Placed, leaf: Leaf, path: str, value: Any) -> None:
    key = leaf.key
    if key not in placed.values:
        placed.values[key] = value
        placed.written[key] = path
        return
    before = placed.values[key]
    if isinstance(before, dict) and isinstance(value, dict):
        placed.values[key] = merged(before, value)
    elif before != value or isinstance(before, bool) != isinstance(value, bool):
        first = placed.written[key]
        what = f"{first} is {shown(key, before)} and {path} is {shown(key, value)}"
        both = "" if first == path else f"; both mean {key}"
        placed.problems.append(
            ConflictError(f"{placed.where(key)}: {what}{both}", hint=f"keep only {key}", key=key)
        )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two maps as one; where both have a key, maps are merged and any other value of `above` wins."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out
