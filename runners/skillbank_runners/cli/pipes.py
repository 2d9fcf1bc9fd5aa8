"""Standard streams that are closed, full, or read by somebody who has gone."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from skillbank.errors import BackendError

__all__ = [
    "BROKEN_PIPE",
    "drop_stdout",
    "open_standard_streams",
    "speak_utf8",
    "told_of_stdout",
    "write_through",
]

BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell sees of any program whose reader has gone


def open_standard_streams() -> None:
    """Let streams that the caller closed (``>&-``) lead nowhere.

    Otherwise the next file to be opened gets the number of stdout, and with it all that is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def speak_utf8() -> None:
    """JSON is UTF-8 whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(encoding="utf-8")


@contextlib.contextmanager
def told_of_stdout() -> Iterator[None]:
    """Name stdout as the place that cannot be written to; a reader who has gone is no error of that kind.

    Raises:
        BackendError: the disk behind it is full, or it failed otherwise.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as err:
        if err.filename is not None:
            raise
        drop_stdout()
        full = err.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BackendError(
            f"standard output: it cannot be written ({err.strerror or err})",
            hint="free some space where it is sent to: df -h" if full else "send it somewhere else",
        ) from err


def drop_stdout() -> None:
    """Nobody reads any more: later writes, also those at exit, go nowhere instead of raising again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())


def write_through(text: str) -> int:
    """Write the text to stdout and return the exit code."""
    open_standard_streams()
    speak_utf8()
    try:
        with told_of_stdout():
            sys.stdout.write(text)
            sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE
    except BackendError as err:
        from skillbank_runners.cli.faults import report

        return report(err, as_json=False)
    return 0
