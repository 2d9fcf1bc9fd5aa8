"""Stand-ins for what a pickle names, so that reading one computes nothing but what is written here.

A pickle is a program: it may call whatever it can name and set attributes of whatever it gets. So the readers
of this folder hand out nothing but these objects, and none of them lets itself be changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CONTAINERS", "Call", "Inert", "inert_class"]

CONTAINERS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, frozenset, list, set, tuple)
    },
}
"""Containers a pickle may make, by module and name."""


class Call:
    """A function that a pickle may call, and of which it can change nothing."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """What the function says."""
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        """Refuse to be changed."""
        raise TypeError("the state of a function is set")


class Inert:
    """An object of an unknown class: takes everything, keeps nothing, does nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Made from anything."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """Another one."""
        return Inert()

    def __setstate__(*_: Any) -> None:
        """Forget it; also when a pickle treats the class itself as an object."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget it."""

    def append(self, item: Any) -> None:
        """Forget it."""

    def extend(self, items: Any) -> None:
        """Forget it."""

    def add(self, item: Any) -> None:
        """Forget it."""


def inert_class(name: str) -> type[Inert]:
    """A new class of inert objects; a pickle needs classes in some places."""
    return type(name, (Inert,), {"__slots__": ()})
