"""Data in and out: plain paths, ``file://``, ``s3://``, ``http(s)://``; cache, archives, uploads of jobs.

Only the names of places are loaded at once: many light commands need no more.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skillbank.storage.uri import Uri, is_remote, join, parse, show

if TYPE_CHECKING:
    from skillbank.storage.entry import Entry, Progress
    from skillbank.storage.storage import Storage

__all__ = ["Entry", "Progress", "Storage", "Uri", "is_remote", "join", "parse", "show"]

_LATER = {"Entry": "entry", "Progress": "entry", "Storage": "storage"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
