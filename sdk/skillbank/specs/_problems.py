"""Errors of specs in the words of people: which key, which value, what is allowed, what to write."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from skillbank.errors import InvalidValueError, MissingValueError, SpecError, UnknownKeyError
from skillbank.nested import value_at
from skillbank.specs._keys import KeyTable
from skillbank.specs._nodes import described, field_nodes
from skillbank.specs._values import is_secret, shown
from skillbank.specs._yaml import scalar_from_text

__all__ = ["from_validation", "missing_value", "unknown_key", "wrong_value"]


def unknown_key(table: KeyTable, path: str, value: Any, origin: str = "") -> SpecError:
    """The error for a key that the spec does not have: misspelt, misplaced, or inside a list."""
    where = f"{path} ({origin})" if origin else path
    if path.partition(".")[0] in table.foreign:
        return not_a_map(path, value, origin)
    key, _ = table.rewritten(path)
    parent = key
    while "." in parent:
        parent = parent.rpartition(".")[0]
        if parent in table.leaves:
            kind = (
                "a list, which is set as a whole"
                if "array" in table.leaves[parent].kinds
                else "a single value"
            )
            return UnknownKeyError(
                f"{where}: unknown key of {table.title}; {parent} is {kind}",
                hint=f"{parent}={_as_argument(parent, value_at(table.defaults, parent))}",
                key=path,
                allowed=[parent],
            )
    near = table.nearest(path)
    if not near:
        return UnknownKeyError(
            f"{where}: unknown key of {table.title}; {_beside(table, path)}",
            hint=_schema_hint(table),
            key=path,
        )
    if near[0].rpartition(".")[2] == path.rpartition(".")[2]:
        advice = f"the key is misplaced; it belongs to {' or '.join(near)}"
    else:
        advice = f"did you mean {near[0]}?"
    return UnknownKeyError(
        f"{where}: unknown key of {table.title}; {advice}", hint=f"write {near[0]}", key=path, allowed=near
    )


def _beside(table: KeyTable, path: str) -> str:
    parent = path.rpartition(".")[0]
    while parent and parent not in table.sections:
        parent = parent.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    names = [key.removeprefix(prefix) for key in [*table.sections, *table.leaves] if key.startswith(prefix)]
    direct = sorted(name for name in names if "." not in name)
    return f"{parent or 'the spec'} has {', '.join(direct[:12])}{', ...' if len(direct) > 12 else ''}"


def not_a_map(path: str, value: Any, origin: str = "") -> SpecError:
    """The error for a single value where a block of settings belongs."""
    where = f"{path} ({origin})" if origin else path
    return InvalidValueError(
        f"{where}: {shown(path, value)} is not allowed; use a map of settings",
        hint=f"{path}.<key>=<value>",
        key=path,
    )


def wrong_value(
    table: KeyTable, key: str, value: Any, *, origin: str = "", inside: Sequence[int | str] = ()
) -> SpecError:
    """The error for a value of the wrong type, outside its bounds, or not among the options.

    Args:
        table: keys of the spec.
        key: leaf or section.
        value: what stands there.
        origin: file name or the like.
        inside: place of `value` inside the list or map at `key`: indices and names.
    """
    if key in table.sections:
        return not_a_map(key, value, origin)
    node = _node_inside(field_nodes(table.cls)[key], inside)
    where = _where(key, inside, origin)
    return InvalidValueError(
        f"{where}: {shown(key, value)} is not allowed; use {described(node)}",
        hint=_schema_hint(table) if inside else _hint(table, key, value, node),
        key=key,
        allowed=node.get("enum"),
        **({} if is_secret(key) else {"value": value}),
    )


def _where(key: str, inside: Sequence[int | str], origin: str) -> str:
    item = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside)
    return f"{key}{item} ({origin})" if origin else f"{key}{item}"


def _node_inside(node: Mapping[str, Any], inside: Sequence[int | str]) -> Mapping[str, Any]:
    """The node of an item; where the way is not clear, the last one that is."""
    for part in inside:
        extra = node.get("additionalProperties")
        if isinstance(part, int) and "items" in node:
            node = node["items"]
        elif isinstance(part, str) and part in node.get("properties", {}):
            node = node["properties"][part]
        elif isinstance(part, str) and isinstance(extra, Mapping):
            node = extra
        else:
            break
    return node


def _schema_hint(table: KeyTable) -> str:
    return f"tao {table.network.name} get-job-schema --action {table.action}"


def _hint(table: KeyTable, key: str, value: Any, node: Mapping[str, Any]) -> str:
    options = [str(option) for option in node.get("enum", []) if option is not None]
    if options and isinstance(value, str):
        close = difflib.get_close_matches(
            value.lower(), [option.lower() for option in options], n=1, cutoff=0.3
        )
        best = next((option for option in options if [option.lower()] == close), options[0])
        return f"{key}={best}"
    kinds = table.leaves[key].kinds
    if isinstance(value, str) and kinds & {"integer", "number", "boolean"}:
        meant = scalar_from_text(value.strip().lower())
        if isinstance(meant, bool | int | float):
            return f"write it without quotes: {key}: {value.strip()}"
        if "boolean" in kinds and value.strip().lower() in ("yes", "no", "on", "off"):
            return f"{key}={'true' if value.strip().lower() in ('yes', 'on') else 'false'}"
    if "array" in kinds and not isinstance(value, list):
        inside = value if isinstance(value, str) else shown(key, value)
        return f"{key}='[{inside}]'"
    return f"{key}={_as_argument(key, value_at(table.defaults, key))} (the default)"


def _as_argument(key: str, value: Any) -> str:
    return shlex.quote(value if isinstance(value, str) else shown(key, value))


def missing_value(table: KeyTable, key: str) -> SpecError:
    """The error for a mandatory key that nothing supplies."""
    return MissingValueError(f"{key}: {table.title} needs a value", hint=f"{key}=...", key=key)


def from_validation(
    table: KeyTable, err: ValidationError, tree: Mapping[str, Any], origins: Mapping[str, str]
) -> dict[str, SpecError]:
    """The faults a spec class found, one error for each key.

    Args:
        table: keys of the spec.
        err: what pydantic raised.
        tree: the values that were checked.
        origins: key -> file name or the like, for keys that have one.
    """
    found: dict[str, list[tuple[tuple[int | str, ...], Any, str]]] = {}
    for fault in err.errors(include_url=False, include_context=False):
        key, rest = _split(table, fault["loc"])
        found.setdefault(key, []).append((rest, fault["input"], fault["type"]))
    return {key: _one(table, key, faults, tree, origins.get(key, "")) for key, faults in found.items()}


def _split(table: KeyTable, loc: Sequence[int | str]) -> tuple[str, tuple[int | str, ...]]:
    key = ""
    for number, part in enumerate(loc):
        longer = f"{key}.{part}" if key else str(part)
        if longer not in table.sections and longer not in table.leaves:
            return key, tuple(loc[number:])
        key = longer
    return key, ()


def _one(
    table: KeyTable,
    key: str,
    faults: list[tuple[tuple[int | str, ...], Any, str]],
    tree: Mapping[str, Any],
    origin: str,
) -> SpecError:
    rest, value, kind = faults[0]
    if len(faults) > 1 or not rest or key in table.sections:
        return wrong_value(table, key, value_at(tree, key), origin=origin)
    where = _where(key, rest, origin)
    if kind == "extra_forbidden":
        names = list(_node_inside(field_nodes(table.cls)[key], rest[:-1]).get("properties", {}))
        close = difflib.get_close_matches(str(rest[-1]), names, n=1)
        advice = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}"
        what = f"{where}: unknown key; {advice}"
        return UnknownKeyError(what, hint=_schema_hint(table), key=key, allowed=names)
    if kind == "missing":
        return MissingValueError(f"{where}: needs a value", hint=_schema_hint(table), key=key)
    return wrong_value(table, key, value, origin=origin, inside=rest)
