"""Brings many objects into the cache at once: whole ones side by side, large ones in ranges."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO

from skillbank.errors import StorageError
from skillbank.storage.cache import Slot
from skillbank.storage.disk import disk_error, human, require_room
from skillbank.storage.entry import Entry, Progress, Remote
from skillbank.storage.locks import Stopped
from skillbank.storage.retry import Interrupted, Retry

__all__ = ["Downloader", "Job", "Meter"]

log = logging.getLogger(__name__)

Job = tuple[Entry, Slot]

_HASHES: dict[str, Callable[[], Any]] = {
    "sha256": hashlib.sha256,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}


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


class _Stop(threading.Event):
    """Tells the workers to give up, and whether what they have so far is to be removed."""

    remove_parts = False


class Downloader:
    """Fetches from one store.

    Args:
        store: where from.
        workers: threads, and objects or ranges under way at the same time.
        retry: how often a transfer that stands still is tried.
        part_bytes: length of a range; objects of at least two ranges are read in ranges.
    """

    def __init__(self, store: Remote, *, workers: int, retry: Retry, part_bytes: int = 16 << 20) -> None:
        self._store = store
        self._workers = workers
        self._retry = retry
        self._part_bytes = part_bytes

    def fetch_all(self, jobs: Sequence[Job], progress: Progress | None = None) -> None:
        """Bring all of them here, or raise the first error after every worker has stopped.

        Raises:
            StorageError: the disk is too small, a digest is wrong, or the store or the network fails.
            NotFoundError: an object vanished after it was listed.
        """
        meter = Meter(progress, sum(entry.size or 0 for entry, _ in jobs))
        waiting: list[Job] = []
        for entry, slot in jobs:
            if slot.is_trusted and slot.is_ready():
                meter.add(entry.size or 0, finished=1)
            else:
                waiting.append((entry, slot))
        if not waiting:
            return
        self._check_room(waiting)
        stop = _Stop()
        small = [job for job in waiting if not self._in_ranges(job[0])]
        large = [job for job in waiting if self._in_ranges(job[0])]
        with ThreadPoolExecutor(self._workers, thread_name_prefix="fetch") as pool:
            try:
                _first_error([pool.submit(self._fetch_whole, job, meter, stop) for job in small])
                # Ranges are handed out from here: a worker that waits for other workers could wait forever.
                for job in large:
                    self._fetch_ranges(job, meter, stop, pool)
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _in_ranges(self, entry: Entry) -> bool:
        return self._store.parallel and (entry.size or 0) >= 2 * self._part_bytes

    def _check_room(self, jobs: Sequence[Job]) -> None:
        needed = 0
        for entry, slot in jobs:
            try:
                here = slot.part.stat().st_blocks * 512 if slot.part.exists() else 0
            except OSError:
                here = 0
            needed += max(0, (entry.size or 0) - here)
        require_room(jobs[0][1].folder, needed)

    def _fetch_whole(self, job: Job, meter: Meter, stop: _Stop) -> None:
        """One object in one stream."""
        entry, slot = job
        with slot.locked(str(entry), stop):
            if slot.is_trusted and slot.is_ready():
                meter.add(entry.size or 0, finished=1)
                return
            if not slot.is_trusted:
                slot.discard()

            def read() -> Mapping[str, str]:
                with slot.part.open("r+b" if slot.part.exists() else "w+b") as file:
                    return self._stream(entry, file, meter, stop)

            self._complete(job, read, meter, stop)

    def _stream(self, entry: Entry, file: BinaryIO, meter: Meter, stop: _Stop) -> Mapping[str, str]:
        """Append to the file until it is whole; returns the digests the store tells."""
        at = file.seek(0, os.SEEK_END)
        if entry.size is not None and at > entry.size:
            at = file.seek(0)
            file.truncate()
        meter.add(at)
        failed, furthest = 0, at
        while True:
            try:
                with self._store.open(entry, at if at != entry.size else 0) as body:
                    if body.start != at:
                        meter.add(body.start - at)
                        at = file.seek(body.start)
                        file.truncate()
                    for chunk in body.chunks:
                        if stop.is_set():
                            raise Stopped
                        file.write(chunk)
                        at += len(chunk)
                        meter.add(len(chunk))
                        _refuse_excess(entry, at)
                    if entry.size is not None and at < entry.size:
                        raise Interrupted(_cut_off(entry, at))
                    return dict(body.digests)
            except Interrupted as broken:
                failed = 1 if at > furthest else failed + 1
                furthest = max(furthest, at)
                file.flush()
                self._retry.pause(failed, broken)

    def _fetch_ranges(self, job: Job, meter: Meter, stop: _Stop, pool: ThreadPoolExecutor) -> None:
        """One object in ranges of equal length that arrive in any order."""
        entry, slot = job
        with slot.locked(str(entry), stop):
            if slot.is_trusted and slot.is_ready():
                meter.add(entry.size or 0, finished=1)
                return

            def read() -> Mapping[str, str]:
                return self._ranges(job, meter, stop, pool)

            self._complete(job, read, meter, stop)

    def _ranges(self, job: Job, meter: Meter, stop: _Stop, pool: ThreadPoolExecutor) -> Mapping[str, str]:
        entry, slot = job
        size = entry.size or 0
        have = _arrived(slot, self._part_bytes)
        digests: dict[str, str] = {}
        with slot.part.open("r+b" if have else "w+b") as file, slot.done.open("a" if have else "w") as record:
            file.truncate(size)
            if not have:
                record.write(f"{self._part_bytes}\n")
            lock = threading.Lock()

            def one(number: int) -> None:
                start = number * self._part_bytes
                digests.update(
                    self._range(entry, file.fileno(), start, min(size, start + self._part_bytes), meter, stop)
                )
                with lock:
                    record.write(f"{number}\n")
                    record.flush()

            numbers = range(-(-size // self._part_bytes))
            meter.add(sum(min(self._part_bytes, size - n * self._part_bytes) for n in have))
            futures = [pool.submit(one, number) for number in numbers if number not in have]
            try:
                _first_error(futures)
            except BaseException:
                # The file is closed when this block ends; no worker may write to its number afterwards.
                stop.set()
                for future in futures:
                    future.cancel()
                wait(futures)
                raise
        return digests

    def _range(
        self, entry: Entry, handle: int, start: int, end: int, meter: Meter, stop: _Stop
    ) -> Mapping[str, str]:
        failed, at, before = 0, start, start
        digests: dict[str, str] = {}
        while at < end:
            try:
                with self._store.open(entry, at, end) as body:
                    digests.update(body.digests)
                    for chunk in body.chunks:
                        if stop.is_set():
                            raise Stopped
                        os.pwrite(handle, chunk, at)
                        at += len(chunk)
                        meter.add(len(chunk))
                        if at > end:
                            raise StorageError(
                                f"{entry}: the server sent more than the range asked for", key=str(entry)
                            )
                    if at < end:
                        raise Interrupted(_cut_off(entry, at))
            except Interrupted as broken:
                failed = 1 if at > before else failed + 1
                before = at
                self._retry.pause(failed, broken)
        return digests

    def _complete(self, job: Job, read: Callable[[], Mapping[str, str]], meter: Meter, stop: _Stop) -> None:
        """Read, verify, and give the copy its name; a wrong digest is read once more from the start."""
        entry, slot = job
        for is_last in (False, True):
            try:
                digests = read()
                wrong = _wrong_digest(slot.part, digests)
            except OSError as err:
                # The room is needed: nothing is kept to be continued, neither here nor by the other workers.
                stop.remove_parts = True
                stop.set()
                slot.discard()
                raise disk_error(err, slot.path, entry.size) from err
            except Stopped:
                if stop.remove_parts:
                    slot.discard()
                raise
            if wrong is None:
                slot.commit()
                meter.add(0, finished=1)
                return
            slot.discard()
            if not is_last:
                log.warning("%s: %s; reading it again", entry, wrong)
                meter.add(-(entry.size or 0))
        raise StorageError(
            f"{entry}: {wrong}, twice",
            hint="the file is damaged in the store: upload it again"
            " (SKILLBANK_ETAG_CHECK=0 where a store's ETags are no MD5 sums)",
            key=str(entry),
        )


def _first_error(futures: Sequence[Future[None]]) -> None:
    """Wait for all; raise as soon as one has failed."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    failures = [err for future in done if not future.cancelled() and (err := future.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, Stopped):
            raise failure
    if failures:
        raise failures[0]


def _arrived(slot: Slot, part_bytes: int) -> set[int]:
    """Ranges that an interrupted transfer left; none when it used another length."""
    try:
        first, *numbers = slot.done.read_text().splitlines()
        if int(first) != part_bytes or not slot.part.is_file():
            return set()
        return {int(number) for number in numbers}
    except (OSError, ValueError):
        return set()


def _wrong_digest(path: Path, digests: Mapping[str, str]) -> str | None:
    """What is wrong with the content, told by the strongest digest there is; None when it is right."""
    for algorithm in _HASHES:
        if algorithm in digests:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, _HASHES[algorithm]).hexdigest()
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


def _refuse_excess(entry: Entry, at: int) -> None:
    if entry.size is not None and at > entry.size:
        raise StorageError(
            f"{entry}: the server sent more than the {entry.size} bytes it announced",
            hint="try again",
            key=str(entry),
        )
