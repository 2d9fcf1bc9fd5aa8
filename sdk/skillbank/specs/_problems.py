"""Errors of specs in the words of people: which key, which value, what is allowed, what to write."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from skillbank.errors import InvalidValueError, MissingValueError, SpecError, UnknownKeyError
from skillbank.specs._keys import KeyTable, get
from skillbank.specs._nodes import described, field_nodes
from skillbank.specs._values import is_secret, scalar_from_text, shown

__all__ = ["from_validation", "missing_value", "not_a_map", "unknown_key", "wrong_value"]


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
                hint=f"-o {parent}={shown(parent, get(table.defaults, parent))}",
                key=path,
                allowed=[parent],
            )
    near = table.nearest(path)
    if not near:
        return UnknownKeyError(
            f"{where}: unknown key of {table.title}; {_beside(table, path)}",
            hint=f"tao {table.network.name} get-job-schema --action {table.action}",
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
        hint=f"-o {path}.<key>=<value>",
        key=path,
    )


def wrong_value(table: KeyTable, key: str, value: Any, *, origin: str = "", item: str = "") -> SpecError:
    """The error for a value of the wrong type, outside its bounds, or not among the options.

    Args:
        table: keys of the spec.
        key: leaf or section.
        value: what stands there.
        origin: file name or the like.
        item: place inside the value, such as ``[2]``.
    """
    if key in table.sections:
        return not_a_map(key, value, origin)
    node: Mapping[str, Any] = field_nodes(table.cls)[key]
    if item and "items" in node and item.count("[") == 1 and "." not in item:
        node = node["items"]
    where = f"{key}{item}"
    return InvalidValueError(
        f"{where} ({origin}): {shown(key, value)} is not allowed; use {described(node)}"
        if origin
        else f"{where}: {shown(key, value)} is not allowed; use {described(node)}",
        hint=_hint(table, key, value, node),
        key=key,
        allowed=node.get("enum"),
        **({} if is_secret(key) else {"value": value}),
    )


def _hint(table: KeyTable, key: str, value: Any, node: Mapping[str, Any]) -> str:
    options = [str(option) for option in node.get("enum", []) if option is not None]
    if options and isinstance(value, str):
        close = difflib.get_close_matches(
            value.lower(), [option.lower() for option in options], n=1, cutoff=0.3
        )
        best = next((option for option in options if [option.lower()] == close), options[0])
        return f"-o {key}={best}"
    kinds = table.leaves[key].kinds
    if isinstance(value, str) and kinds & {"integer", "number", "boolean"}:
        meant = scalar_from_text(value.strip().lower())
        if isinstance(meant, bool | int | float):
            return f"write it without quotes: {key}: {value.strip()}"
        if "boolean" in kinds and value.strip().lower() in ("yes", "no", "on", "off"):
            return f"-o {key}={'true' if value.strip().lower() in ('yes', 'on') else 'false'}"
    if "array" in kinds and not isinstance(value, list):
        inside = value if isinstance(value, str) else shown(key, value)
        return f"-o {key}='[{inside}]'"
    return f"-o {key}={shown(key, get(table.defaults, key))} (the default)"


def missing_value(table: KeyTable, key: str) -> SpecError:
    """The error for a mandatory key that nothing supplies."""
    return MissingValueError(f"{key}: {table.title} needs a value", hint=f"-o {key}=...", key=key)


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
        return wrong_value(table, key, get(tree, key), origin=origin)
    item = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    where = f"{key}{item} ({origin})" if origin else f"{key}{item}"
    if kind == "extra_forbidden":
        return UnknownKeyError(f"{where}: unknown key", hint=f"see the items of {key} in the schema", key=key)
    if kind == "missing":
        return MissingValueError(
            f"{where}: needs a value", hint=f"see the items of {key} in the schema", key=key
        )
    return wrong_value(table, key, value, origin=origin, item=item)
