"""Plain paths and ``file://``: a store like the others, so that everything works without a cloud."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage.disk import disk_error, replacing, temporary_name
from skillbank.storage.entry import Entry
from skillbank.storage.pointers import pointer_content
from skillbank.storage.uri import Uri

__all__ = ["LocalStore", "missing_local", "require_ordinary"]


def missing_local(path: Path) -> NotFoundError:
    """The error for a file or folder that is not there; the hint names the nearest one that is."""
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    try:
        near_by = parent if parent == path.absolute().parent else None
        names = [each.name for each in near_by.iterdir()] if near_by else []
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.with_name(near[0])}?" if near else f"see what is there: ls {parent}"
    return NotFoundError(f"{path}: no such file or folder", hint=hint, key=str(path), value=str(path))


def require_ordinary(path: Path) -> None:
    """Refuse what is neither a regular file nor a folder: reading a device or a pipe may never end.

    Raises:
        NotFoundError: there is nothing of that name.
        StorageError: it is a device, a pipe or a socket.
    """
    if not path.exists():
        raise missing_local(path)
    if not (path.is_file() or path.is_dir()):
        raise StorageError(
            f"{path}: is a device, a pipe or a socket; allowed: a regular file or a folder",
            hint=f"copy what it gives to a file and name that: ls -l {path}",
            key=str(path),
        )


class LocalStore:
    """Files of this machine; uris are paths."""

    one_request = 1 << 62

    def stat(self, uri: Uri) -> Entry | None:
        """The file or folder; None when it is not there."""
        try:
            found = uri.local.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            raise disk_error(err, uri.local) from err
        is_folder = uri.local.is_dir()
        return Entry(
            str(uri),
            0 if is_folder else found.st_size,
            modified=datetime.fromtimestamp(found.st_mtime, UTC),
            is_folder=is_folder,
        )

    def list(self, uri: Uri) -> list[Entry]:
        """All files below a folder, sorted by name; links to folders are not followed.

        Raises:
            NotFoundError: the folder is not there.
        """
        require_ordinary(uri.local)
        if uri.local.is_file():
            return [entry for entry in [self.stat(uri)] if entry]
        base = uri.path.rstrip("/") or "/"
        names = sorted(path.relative_to(uri.local).as_posix() for path in _walk(uri.local))
        entries = [self.stat(Uri("file", "", f"{base.rstrip('/')}/{name}")) for name in names]
        return [entry for entry in entries if entry and not entry.is_folder]

    def put(self, path: Path, uri: Uri) -> None:
        """Copy a file; it appears under its name when it is whole."""
        target = uri.local
        try:
            size = path.stat().st_size
            source = path.open("rb")
        except FileNotFoundError as err:
            raise missing_local(path) from err
        except OSError as err:
            raise disk_error(err, path) from err
        with source:
            if target.exists() and target.samefile(path):
                return
            with replacing(target, needed=size) as file:
                shutil.copyfileobj(source, file, 1 << 20)

    def put_link(self, target: str, uri: Uri) -> None:
        """Make a relative link; a pointer file where the file system has no links."""
        path = uri.local
        temporary = temporary_name(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.symlink_to(target)
            temporary.replace(path)
        except OSError as err:
            if err.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise disk_error(err, path) from err
            with replacing(path) as file:
                file.write(pointer_content(target))

    def check_target(self, uri: Uri) -> None:
        """Make the folder and see whether it can be written to.

        Raises:
            StorageError: it cannot be made or written.
        """
        folder = uri.local
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "permission denied")
        except OSError as err:
            raise disk_error(err, folder) from err

    def close(self) -> None:
        """Nothing to close."""


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(err: OSError) -> None:
        raise disk_error(err, Path(err.filename)) from err

    for root, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            yield Path(root, name)
