"""Bringing together what several processes measured; with one process nothing is sent.

Samplers repeat images so that every process has equally many. Records therefore go by image, and an image
that several processes saw counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["from_first", "gather_on_all", "gather_on_first", "is_shared", "merge_images"]

T = TypeVar("T")
Key = int | str


def is_shared() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_on_all(value: T) -> list[T]:
    """The value of every process, in order of rank, on every process."""
    if not is_shared():
        return [value]
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def gather_on_first(value: T) -> list[T] | None:
    """The value of every process on the first one; None on the others."""
    if not is_shared():
        return [value]
    out: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, out, dst=0)
    return out


def from_first(value: T) -> T:
    """The value of the first process, on every process."""
    if not is_shared():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    received: T = box[0]
    return received


def merge_images(records: Sequence[Mapping[Key, T]]) -> dict[Key, T]:
    """The records of all processes by image, each image once, in an order that no process changes."""
    merged: dict[Key, T] = {}
    for part in records:
        for key, record in part.items():
            merged.setdefault(key, record)
    return {key: merged[key] for key in sorted(merged, key=_order)}


def _order(key: Key) -> tuple[str, Key]:
    return type(key).__name__, key
