"""References between keys: ``${results_dir}/train`` inside a text, ``${model.embed_dims}`` with its type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, SpecError, UnknownKeyError
from skillbank.nested import put, value_at
from skillbank.specs._keys import KeyTable
from skillbank.specs._values import NOT_SET, has_reference, text_of
from skillbank.specs.base import Derived

__all__ = ["References", "UnsetError", "unset_error"]

_INNERMOST = re.compile(r"\$\{([^${}]*)\}")


class UnsetError(Exception):
    """A text refers to a key that has no value; `target` is that key."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


class References:
    """Resolves the references of one spec.

    Args:
        table: keys of the spec.
        tree: the merged spec; read only.
        foreign: blocks of other actions, which may be referred to.
        derived: key -> how its default follows other keys; only keys that nobody has set.
    """

    def __init__(
        self,
        table: KeyTable,
        tree: Mapping[str, Any],
        foreign: Mapping[str, Any],
        derived: Mapping[str, Derived],
    ) -> None:
        self.table = table
        self.derived = derived
        self.tree = tree
        self.foreign = foreign
        self.done: dict[str, Any] = {}
        self.way: list[str] = []

    def value(self, key: str) -> Any:
        """The value of a leaf with all references in it resolved.

        Raises:
            SpecError: a reference to an unknown key, a circle, or a value that cannot stand in a text.
            UnsetError: a text needs a value that is not there.
        """
        if key not in self.done:
            if key in self.way:
                circle = " -> ".join([*self.way[self.way.index(key) :], key])
                raise ConflictError(
                    f"{key}: refers to itself: {circle}", hint="give one of them a value", key=key
                )
            self.way.append(key)
            try:
                found = self._derived(key) if key in self.derived else None
                if found is None:
                    found = value_at(self.tree, key)
                    found = (
                        self._resolved(found, key) if self.table.leaves[key].has_reference(found) else found
                    )
                self.done[key] = self.table.leaves[key].settled(found)
            finally:
                self.way.pop()
        return self.done[key]

    def _derived(self, key: str) -> Any:
        """The default that follows other keys; None when one of those is wrong and the declared one holds."""
        rule = self.derived[key]
        if any(source not in self.table.leaves for source in rule.sources):
            return None
        values = [self.value(source) for source in rule.sources]
        right = (
            self.table.is_right(source, value) for source, value in zip(rule.sources, values, strict=True)
        )
        return rule.value(*values) if all(right) else None

    def _resolved(self, value: Any, key: str) -> Any:
        if not has_reference(value):
            return value
        if isinstance(value, dict):
            return {name: self._resolved(item, key) for name, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, key) for item in value]
        text = value
        while match := _INNERMOST.search(text):
            target = match.group(1).strip()
            found = self._target(target, key)
            if match.span() == (0, len(text)):
                return found
            text = f"{text[: match.start()]}{self._inside(found, target, key)}{text[match.end() :]}"
        if "${" in text:
            raise InvalidValueError(f"{key}: {value!r} holds a ${{ that is not closed", key=key, value=value)
        return text

    def _inside(self, found: Any, target: str, key: str) -> str:
        if found is None or found == "":
            raise UnsetError(target)
        if isinstance(found, dict | list):
            kind = "a list" if isinstance(found, list) else "a map"
            raise InvalidValueError(
                f"{key}: ${{{target}}} is {kind} and cannot stand inside a text",
                hint=f"use ${{{target}}} alone",
                key=key,
            )
        return found if isinstance(found, str) else text_of(found)

    def _target(self, target: str, key: str) -> Any:
        name, _ = self.table.rewritten(target)
        if name in self.table.sections:
            return self._section(name)
        leaf = self.table.find(name)
        if leaf is not None:
            value = self.value(leaf.key)
            if leaf.key == name:
                return value
            inside = value_at({"": value}, f".{name.removeprefix(leaf.key + '.')}")
            if inside is not None:
                return inside
        elif name.partition(".")[0] in self.foreign:
            value = value_at(self.foreign, name)
            if value == NOT_SET:
                raise UnsetError(target)
            if value is not None:
                return self._foreign(name, value)
        raise self._unknown(target, key)

    def _foreign(self, name: str, value: Any) -> Any:
        if name in self.way:
            circle = " -> ".join([*self.way[self.way.index(name) :], name])
            raise ConflictError(f"{name}: refers to itself: {circle}", key=name)
        self.way.append(name)
        try:
            return self._resolved(value, name)
        finally:
            self.way.pop()

    def _section(self, name: str) -> dict[str, Any] | None:
        if value_at(self.tree, name) is None:
            return None
        out: dict[str, Any] = {}
        for key in self.table.leaves:
            if key.startswith(f"{name}."):
                put(out, key.removeprefix(f"{name}."), self.value(key))
        return out

    def _unknown(self, target: str, key: str) -> SpecError:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", target):
            return InvalidValueError(
                f"{key}: ${{{target}}} is no reference; the full dotted name of a key stands in the braces",
                hint="environment variables are set by the shell, not in a spec",
                key=key,
            )
        near = self.table.nearest(target)
        advice = f"; did you mean ${{{near[0]}}}?" if near else ""
        return UnknownKeyError(
            f"{key}: ${{{target}}} refers to a key that {self.table.title} does not have{advice}",
            hint=f"write ${{{near[0]}}}" if near else "refer to a key of this spec",
            key=key,
            allowed=near or None,
        )


def unset_error(key: str, target: str) -> MissingValueError:
    """The error for a text that needs a value which is not there."""
    return MissingValueError(f"{key}: refers to {target}, which is not set", hint=f"set {target}", key=target)
