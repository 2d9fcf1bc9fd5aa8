"""Nested maps of plain values, and the dotted keys that lead into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["alike", "copied", "nest", "put", "value_at"]


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where a part of the way is missing."""
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; whatever is in the way and no map gives way to one."""
    *way, last = key.split(".")
    for name in way:
        below = tree.get(name)
        if not isinstance(below, dict):
            below = tree[name] = {}
        tree = below
    tree[last] = value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested map of dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        put(tree, key, value)
    return tree


def alike(first: Any, second: Any) -> bool:
    """Whether two values are the same in a spec: 1 and 1.0 are, 1 and true are not."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def copied(value: Any) -> Any:
    """A copy that shares no list or map with the original."""
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return value
