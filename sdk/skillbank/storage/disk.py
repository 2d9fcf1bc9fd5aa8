"""Writing to the local disk: a temporary name first, and one clear error when the disk refuses."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from skillbank.errors import StorageError

__all__ = ["disk_error", "free_bytes", "human", "replacing", "require_room", "temporary_name"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def human(count: int) -> str:
    """A number of bytes for people, decimal units.

    Examples:
        >>> human(1_500_000)
        '1.5 MB'
    """
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))


def free_bytes(folder: Path) -> int:
    """Bytes an ordinary user can still write below the folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _full(folder: Path, needed: int | None) -> StorageError:
    free = free_bytes(folder)
    need = f"{needed} bytes ({human(needed)}) are needed" if needed is not None else "more is needed"
    return StorageError(
        f"{folder}: the disk is full: {need}, {free} bytes ({human(free)}) are free",
        hint="free some space, or point SKILLBANK_HOME at a larger disk",
        key=str(folder),
    )


def require_room(folder: Path, needed: int) -> None:
    """Refuse before anything is written.

    Raises:
        StorageError: less than `needed` bytes are free.
    """
    try:
        free = free_bytes(folder)
    except OSError as err:
        raise disk_error(err, folder) from err
    if needed > free:
        raise _full(folder, needed)


def disk_error(err: OSError, path: Path, needed: int | None = None) -> StorageError:
    """What the user is told of an `OSError` on a local file.

    Args:
        err: what the system said.
        path: the file or folder that was written or read.
        needed: bytes that were to be written, for a full disk.
    """
    if err.errno in _FULL:
        return _full(path.parent, needed)
    if err.errno in (errno.EEXIST, errno.ENOTDIR):
        reason = "a file is where a folder is needed"
    else:
        reason = os.strerror(err.errno).lower() if err.errno else str(err)
    hints = {
        errno.EACCES: f"check the rights: ls -ld {path.parent}",
        errno.EPERM: f"check the rights: ls -ld {path.parent}",
        errno.EROFS: "the file system is read-only; choose another folder, e.g. with SKILLBANK_HOME",
        errno.ENAMETOOLONG: "choose a shorter folder, e.g. with SKILLBANK_HOME",
        errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    }
    return StorageError(
        f"{path}: {reason}", hint=hints.get(err.errno or 0, f"check the file: ls -l {path}"), key=str(path)
    )


def temporary_name(path: Path) -> Path:
    """A name in the same folder that no other process uses; it starts with a dot and ends in ``.part``."""
    return path.with_name(f".{path.name[:180]}.{uuid.uuid4().hex[:12]}.part")


@contextmanager
def replacing(path: Path, *, needed: int | None = None) -> Iterator[BinaryIO]:
    """A file to write to that gets its name when the block ends well, and vanishes when it does not.

    Raises:
        StorageError: the disk is full or refuses; nothing is left behind.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        _remove(temporary)
        raise disk_error(err, path, needed) from err
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
