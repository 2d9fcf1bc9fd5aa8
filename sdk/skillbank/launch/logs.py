"""The log of a job: opened for writing, and read line by line while it may still grow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from skillbank.errors import StorageError

__all__ = ["opened", "read_lines"]

_BLOCK = 64 * 1024
_POLL_S = 0.2


def opened(path: Path) -> int:
    """Descriptor of a log to append to, created with mode 0600.

    Raises:
        StorageError: the folder is gone or not writable, or the disk is full.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"{path}: the log cannot be written ({error.strerror})",
            hint=f"df -h {path.parent}",
            key=str(path),
        ) from error


def read_lines(
    path: Path,
    *,
    tail: int | None = None,
    is_over: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Lines without their ends; bytes that are no UTF-8 are replaced.

    Args:
        path: the file; while it does not exist there are no lines.
        tail: start with the last that many lines.
        is_over: whether nothing will be appended any more; asked before each look, so nothing is missed.
        sleep: waits between two looks.
    """
    rest = b""
    file: BinaryIO | None = None
    try:
        while True:
            ended = is_over()
            if file is None and path.is_file():
                file = path.open("rb")
                if tail is not None:
                    file.seek(_start_of_tail(file, tail))
            while file is not None and (block := file.read(_BLOCK)):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    yield _text(line)
            if ended:
                break
            sleep(_POLL_S)
    finally:
        if file is not None:
            file.close()
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").removesuffix("\r")


def _start_of_tail(file: BinaryIO, count: int) -> int:
    """Position of the last `count` lines, read from the end."""
    end = file.seek(0, os.SEEK_END)
    position = end
    found = 0
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        # The line end that closes the file does not begin another line.
        upto = len(block) - 1 if position + size == end and block.endswith(b"\n") else len(block)
        while (at := block.rfind(b"\n", 0, upto)) >= 0:
            found += 1
            if found >= count:
                return position + at + 1 if count > 0 else end
            upto = at
    return 0 if count > 0 else end
