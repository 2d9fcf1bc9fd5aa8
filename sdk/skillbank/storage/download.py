"""Brings many objects into the cache at once: whole ones side by side, large ones in ranges."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from typing import TextIO

from skillbank.errors import StorageError
from skillbank.storage.cache import Slot
from skillbank.storage.disk import disk_error, require_room
from skillbank.storage.entry import Entry, Progress, Remote
from skillbank.storage.locks import Stopped
from skillbank.storage.retry import Retry
from skillbank.storage.transfer import Meter, Stop, Transfer, wrong_digest

__all__ = ["Downloader", "Job"]

log = logging.getLogger(__name__)

Job = tuple[Entry, Slot]

_AT_ONCE = 4096  # each waiting job takes about a kilobyte


class Downloader:
    """Fetches from one store; made anew for each call.

    Args:
        store: where from.
        workers: threads, and objects or ranges under way at the same time.
        retry: how often a transfer that stands still is tried.
        part_bytes: length of a range; objects of at least two ranges are read in ranges.
        progress: told while bytes arrive.
    """

    def __init__(
        self, store: Remote, *, workers: int, retry: Retry, part_bytes: int, progress: Progress | None
    ) -> None:
        self._store = store
        self._workers = workers
        self._retry = retry
        self._part_bytes = part_bytes
        self._progress = progress
        self._stop = Stop()

    def fetch_all(self, jobs: Sequence[Job]) -> None:
        """Bring all of them here, or raise the first error after every worker has stopped.

        Raises:
            StorageError: the disk is too small, a digest is wrong, or the store or the network fails.
            NotFoundError: an object vanished after it was listed.
        """
        self._meter = Meter(self._progress, sum(entry.size or 0 for entry, _ in jobs))
        self._transfer = Transfer(self._store, retry=self._retry, meter=self._meter, stop=self._stop)
        waiting: list[Job] = []
        for entry, slot in jobs:
            if slot.is_ready():
                self._meter.add(entry.size or 0, finished=1)
            else:
                waiting.append((entry, slot))
        if not waiting:
            return
        _check_room(waiting)
        small = [job for job in waiting if not self._in_ranges(job[0])]
        large = [job for job in waiting if self._in_ranges(job[0])]
        with ThreadPoolExecutor(self._workers, thread_name_prefix="fetch") as pool:
            try:
                for start in range(0, len(small), _AT_ONCE):
                    batch = small[start : start + _AT_ONCE]
                    _first_error([pool.submit(self._fetch_whole, *job) for job in batch])
                # Ranges are handed out from here: a worker that waits for other workers could wait forever.
                for job in large:
                    self._fetch_ranges(*job, pool)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _in_ranges(self, entry: Entry) -> bool:
        return self._store.parallel and (entry.size or 0) >= 2 * self._part_bytes

    def _fetch_whole(self, entry: Entry, slot: Slot) -> None:
        """One object in one stream."""
        with slot.claim(str(entry), self._stop) as handle:
            if handle is None:
                self._meter.add(entry.size or 0, finished=1)
                return
            self._complete(entry, slot, lambda: self._transfer.whole(entry, handle))

    def _fetch_ranges(self, entry: Entry, slot: Slot, pool: Executor) -> None:
        """One object in ranges of equal length that arrive in any order."""
        with slot.claim(str(entry), self._stop) as handle:
            if handle is None:
                self._meter.add(entry.size or 0, finished=1)
                return
            self._complete(entry, slot, lambda: self._ranges(entry, slot, handle, pool))

    def _ranges(self, entry: Entry, slot: Slot, handle: int, pool: Executor) -> Mapping[str, str]:
        size = entry.size or 0
        have = self._arrived(slot, handle, size)
        os.ftruncate(handle, size)
        digests: dict[str, str] = {}
        with slot.done.open("a" if have else "w") as record:
            if not have:
                _note(record, self._part_bytes)
            lock = threading.Lock()

            def one(number: int) -> None:
                start = number * self._part_bytes
                found = self._transfer.part(entry, handle, start, min(size, start + self._part_bytes))
                with lock:
                    digests.update(found)
                    _note(record, number)

            missing = sorted(set(range(-(-size // self._part_bytes))) - have)
            futures = [pool.submit(one, number) for number in missing]
            try:
                _first_error(futures)
            except BaseException:
                # Both files are closed when this block ends; no worker may write to them afterwards.
                self._stop.set()
                for future in futures:
                    future.cancel()
                wait(futures)
                raise
        return digests

    def _arrived(self, slot: Slot, handle: int, size: int) -> set[int]:
        """Ranges that an interrupted transfer left; none when it used another length."""
        try:
            first, *numbers = [int(line) for line in slot.done.read_text().splitlines()]
        except (OSError, ValueError):
            return set()
        if first != self._part_bytes or os.fstat(handle).st_size != size:
            return set()
        have = set(numbers)
        self._meter.add(sum(min(self._part_bytes, size - number * self._part_bytes) for number in have))
        return have

    def _complete(self, entry: Entry, slot: Slot, read: Callable[[], Mapping[str, str]]) -> None:
        """Read, verify, and give the copy its name; a wrong digest is read once more from the start."""
        for is_last in (False, True):
            try:
                wrong = wrong_digest(slot.part, read())
                if wrong is None:
                    slot.commit()
                    slot.done.unlink(missing_ok=True)
                    self._meter.add(0, finished=1)
                    return
                slot.done.unlink(missing_ok=True)
            except OSError as err:
                # The room is needed: nothing is kept to be continued, neither here nor by other workers.
                self._stop.remove_parts = True
                self._stop.set()
                slot.discard()
                raise disk_error(err, slot.path, entry.size) from err
            except Stopped:
                if self._stop.remove_parts:
                    slot.discard()
                raise
            if not is_last:
                log.warning("%s: %s; reading it again", entry, wrong)
                self._meter.add(-(entry.size or 0))
        slot.discard()
        raise StorageError(
            f"{entry}: {wrong}, twice",
            hint="the file is damaged in the store: upload it again"
            " (SKILLBANK_ETAG_CHECK=0 where a store's ETags are no MD5 sums)",
            key=str(entry),
        )


def _note(record: TextIO, number: int) -> None:
    record.write(f"{number}\n")
    record.flush()


def _check_room(jobs: Sequence[Job]) -> None:
    needed = 0
    for entry, slot in jobs:
        try:
            here = slot.part.stat().st_blocks * 512
        except OSError:
            here = 0
        needed += max(0, (entry.size or 0) - here)
    require_room(jobs[0][1].root, needed)


def _first_error(futures: Sequence[Future[None]]) -> None:
    """Wait for all; raise as soon as one has failed."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    failures = [err for future in done if not future.cancelled() and (err := future.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, Stopped):
            raise failure
    if failures:
        raise failures[0]
