"""Writing to a pipe whose reader may have gone."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["BROKEN_PIPE", "drop_stdout", "write_through"]

BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell sees of any program whose reader has gone


def drop_stdout() -> None:
    """Nobody reads any more: later writes, also those at exit, go nowhere instead of raising again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())


def write_through(text: str) -> int:
    """Write the text to stdout and return the exit code."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE
    return 0
