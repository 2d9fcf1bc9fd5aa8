"""A lock between processes and threads that dies with its holder."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skillbank.errors import StorageError
from skillbank.storage.disk import disk_error

__all__ = ["Stopped", "file_lock", "wait_for_lock"]

log = logging.getLogger(__name__)

_TALK_AFTER_S = 5.0


class Stopped(Exception):  # noqa: N818 - a state on the way, never seen by users
    """Another part of the same transfer failed; this one gives up."""


def wait_for_lock(
    handle: int, path: Path, what: str, *, stop: threading.Event | None = None, poll_s: float = 0.05
) -> None:
    """Take the lock of an open file, waiting while somebody else has it; it ends when the file is closed.

    Args:
        handle: number of the open file.
        path: its name, for errors.
        what: the thing that is locked, for the log when waiting takes long.
        stop: ends the waiting with `Stopped`.
        poll_s: pause between two looks.

    Raises:
        StorageError: the file system has no locks.
    """
    since = time.monotonic()
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as err:
            raise StorageError(
                f"{path}: this file system has no locks ({os.strerror(err.errno or 0).lower()})",
                hint="point SKILLBANK_HOME at a local disk",
                key=str(path),
            ) from err
        if stop is not None and stop.is_set():
            raise Stopped
        if not told and time.monotonic() - since > _TALK_AFTER_S:
            log.info("%s: waiting for another process that works on it", what)
            told = True
        time.sleep(poll_s)


@contextmanager
def file_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of this file, which is made when missing and stays: removing it would let two holders in.

    Raises:
        StorageError: the file system has no locks, or refuses the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise disk_error(err, path) from err
    try:
        wait_for_lock(handle, path, what)
        yield
    finally:
        os.close(handle)
