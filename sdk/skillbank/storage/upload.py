"""Sends what a job writes while it runs, and the rest when it ends, however it ends."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from skillbank.errors import ConflictError, SkillBankError, collect
from skillbank.storage.ignore import Ignore
from skillbank.storage.outgoing import Item, collect_items
from skillbank.storage.storage import Storage
from skillbank.storage.uri import parse, show

__all__ = ["LIVE", "TEMPORARY", "Uploader"]

log = logging.getLogger(__name__)

TEMPORARY = ("*.part", "*.partial", "*.tmp", "*.swp", "*~", ".nfs*")
"""Names of files that are not finished, or not meant to stay."""

LIVE = ("*.log", "log.txt", "status.json", "*.jsonl", "*.csv", "events.out.tfevents.*")
"""Names of files that only grow: any state of them is worth sending."""

_LIVE_BYTES = 16 << 20


class Uploader:
    """Keeps a remote copy of a folder up to date while the block runs.

    A file is sent when it is new or changed and was the same in two looks, one interval apart; files that
    only grow are sent as they are. When the block ends, also by an exception or SIGTERM, everything is sent
    that has not been.

    Args:
        folder: what the job writes to; made when missing.
        uri: where it goes.
        excludes: patterns as in ``.gitignore``, on top of `TEMPORARY`.
        interval_s: pause between two looks.
        storage: connections to use; default a new `Storage`.
        live: name patterns of files that only grow.

    Raises:
        StorageError, NotFoundError: on entering, when nothing can be written there; on leaving, when files
            could not be sent and the block itself did not fail.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        *,
        excludes: Sequence[str] = (),
        interval_s: float = 30.0,
        storage: Storage | None = None,
        live: Sequence[str] = LIVE,
    ) -> None:
        self._folder = folder
        self._uri = uri
        self._excludes = Ignore([*TEMPORARY, *excludes])
        self._interval_s = interval_s
        self._own = storage is None
        self._storage = storage or Storage()
        self._live = tuple(live)
        self._sent: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        self._busy = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._old_handler: Any = None

    def __enter__(self) -> Uploader:
        place = parse(self._uri)
        if not place.is_remote and self._folder.resolve().is_relative_to(place.local.resolve()):
            raise ConflictError(
                f"upload of {self._folder}: the target {place} is the folder itself or above it",
                hint="choose another target, or no upload",
                key="uri",
                value=str(place),
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._storage.check_target(self._uri)
        self._catch_sigterm()
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end.set()
        try:
            if self._thread is not None:
                self._thread.join()
            self._finish(failed=err is not None)
        finally:
            if self._old_handler is not None:
                signal.signal(signal.SIGTERM, self._old_handler)
                self._old_handler = None
            if self._own:
                self._storage.close()

    def sync(self, *, final: bool = False) -> int:
        """Look once and send what is due; returns the number of files sent.

        Args:
            final: nobody writes any more, so everything that changed is due.

        Raises:
            StorageError, NotFoundError: all files that could not be sent; the others were.
        """
        with self._busy:
            items = collect_items(self._folder, self._excludes)
            changed = [item for item in items if self._sent.get(item.name) != item.stamp]
            due = [item for item in changed if final or self._is_due(item)]
            self._seen = {item.name: item.stamp for item in items}
            sent, problems = self._storage.send(due, self._uri, keep_going=True)
            self._sent.update((item.name, item.stamp) for item in sent)
        # A file that was removed meanwhile is no loss.
        gone = {str(item.path) for item in due if not item.path.exists()}
        problems = [problem for problem in problems if problem.key not in gone]
        if problems:
            raise collect(problems[:20], f"upload of {self._folder} to {show(self._uri)}")
        return len(sent)

    def _is_due(self, item: Item) -> bool:
        name = item.path.name
        if item.target is not None:
            return True
        grows = item.size <= _LIVE_BYTES and any(fnmatch(name, pattern) for pattern in self._live)
        return grows or self._seen.get(item.name) == item.stamp

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            try:
                self.sync()
            except SkillBankError as err:
                log.warning("%s; tried again in %g s", err.message, self._interval_s)
            except OSError as err:
                log.warning("%s: %s; tried again in %g s", self._folder, err, self._interval_s)

    def _finish(self, *, failed: bool) -> None:
        """Send the rest. The job's own failure is the one to be seen, so a second one is only logged."""
        try:
            count = self.sync(final=True)
        except SkillBankError as err:
            if not failed:
                raise
            log.error("%s", err.message)
        else:
            log.info("%s: %d files sent to %s at the end", self._folder, count, show(self._uri))

    def _catch_sigterm(self) -> None:
        """Let SIGTERM end the block instead of the process, unless the program handles it in its own way."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._old_handler = signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
