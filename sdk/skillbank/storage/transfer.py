"""Brings one object, or one range of it, into an open file, going on where a connection broke."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skillbank.errors import StorageError
from skillbank.storage.disk import human
from skillbank.storage.entry import Entry, Progress, Remote
from skillbank.storage.locks import Stopped
from skillbank.storage.retry import Interrupted, Retry

__all__ = ["Meter", "Stop", "Transfer", "wrong_digest"]

_HASHES: dict[str, Callable[[], Any]] = {
    "sha256": hashlib.sha256,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}


class Stop(threading.Event):
    """Tells the workers to give up, and whether what they have so far is to be removed."""

    remove_parts = False


class Meter:
    """Adds up what has arrived and tells it; safe for threads."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._lock = threading.Lock()
        self._bytes = 0
        self._objects = 0

    def add(self, count: int, *, finished: int = 0) -> None:
        """Count bytes (negative when a transfer starts again) and finished files."""
        with self._lock:
            self._bytes += count
            self._objects += finished
            if self._progress is not None:
                self._progress(self._bytes, max(self._total, self._bytes), self._objects)


class Transfer:
    """Reads from one store into files that others may be writing to at other places."""

    def __init__(self, store: Remote, *, retry: Retry, meter: Meter, stop: Stop) -> None:
        self._store = store
        self._retry = retry
        self._meter = meter
        self._stop = stop

    def whole(self, entry: Entry, handle: int) -> Mapping[str, str]:
        """Append to the file until it is whole; returns the digests the store tells.

        Raises:
            StorageError: the store or the network fails for good, or sends more than it announced.
            Stopped: another transfer failed.
            OSError: the disk refuses.
        """
        at = os.lseek(handle, 0, os.SEEK_END)
        # A complete part has no bytes left to ask for, and its digest is not known: it is read again.
        if entry.size is not None and at >= entry.size:
            at = 0
            os.ftruncate(handle, 0)
        self._meter.add(at)
        failed, furthest = 0, at
        while True:
            try:
                with self._store.open(entry, at) as body:
                    if body.start != at:
                        self._meter.add(body.start - at)
                        at = body.start
                        os.ftruncate(handle, at)
                    for chunk in body.chunks:
                        self._write(handle, chunk, at)
                        at += len(chunk)
                        _refuse_excess(entry, at, entry.size)
                    if entry.size is not None and at < entry.size:
                        raise Interrupted(_cut_off(entry, at))
                    return body.digests
            except Interrupted as broken:
                failed = 1 if at > furthest else failed + 1
                furthest = max(furthest, at)
                self._retry.pause(failed, broken, self._stop)
                if at == entry.size:
                    self._meter.add(-at)
                    at = 0
                    os.ftruncate(handle, 0)

    def part(self, entry: Entry, handle: int, start: int, end: int) -> Mapping[str, str]:
        """Fill bytes `start` to `end` (exclusive) of the file; otherwise as `whole`."""
        failed, at, furthest = 0, start, start
        digests: dict[str, str] = {}
        while at < end:
            try:
                with self._store.open(entry, at, end) as body:
                    digests.update(body.digests)
                    for chunk in body.chunks:
                        _refuse_excess(entry, at + len(chunk), end)
                        self._write(handle, chunk, at)
                        at += len(chunk)
                    if at < end:
                        raise Interrupted(_cut_off(entry, at))
            except Interrupted as broken:
                failed = 1 if at > furthest else failed + 1
                furthest = at
                self._retry.pause(failed, broken, self._stop)
        return digests

    def _write(self, handle: int, chunk: bytes, at: int) -> None:
        if self._stop.is_set():
            raise Stopped
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(handle, rest, at)
            at += written
            rest = rest[written:]
        self._meter.add(len(chunk))


def wrong_digest(path: Path, digests: Mapping[str, str]) -> str | None:
    """What is wrong with the content, told by the strongest digest there is; None when it is right."""
    for algorithm, make in _HASHES.items():
        if algorithm in digests:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, make).hexdigest()
            if found != digests[algorithm]:
                return f"its {algorithm.upper()} is {found}, the store says {digests[algorithm]}"
            return None
    return None


def _cut_off(entry: Entry, at: int) -> StorageError:
    return StorageError(
        f"{entry}: the transfer ended after {at} of {entry.size} bytes ({human(entry.size or 0)})",
        hint="try again; what arrived is kept",
        key=str(entry),
    )


def _refuse_excess(entry: Entry, at: int, end: int | None) -> None:
    if end is not None and at > end:
        raise StorageError(
            f"{entry}: the server sent more than the {entry.size} bytes it announced",
            hint="try again",
            key=str(entry),
        )
