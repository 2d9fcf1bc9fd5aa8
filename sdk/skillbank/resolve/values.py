"""Questions that the resolvers ask of a spec that is not built yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skillbank.specs.base import ActionSpec, walk

__all__ = ["flatten", "is_set"]


def is_set(value: Any) -> bool:
    """Whether a value says something: None, an empty string or list and the marker ``???`` do not."""
    return value not in (None, "", "???") and value != [] and value != ()


def flatten(nested: Mapping[str, Any], spec: type[ActionSpec]) -> dict[str, Any]:
    """Dotted value keys of a nested map; maps that are values of a key (`ATTRIBUTE_DICT`) stay whole."""
    sections = {key for key, _, section in walk(spec) if section is not None}
    flat: dict[str, Any] = {}

    def visit(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            if key in sections and isinstance(value, Mapping):
                visit(value, f"{key}.")
            else:
                flat[key] = value

    visit(nested, "")
    return flat
