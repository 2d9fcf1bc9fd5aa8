"""Plain paths and ``file://``: a store like the others, so that everything works without a cloud."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from skillbank.errors import NotFoundError
from skillbank.storage.disk import disk_error, replacing
from skillbank.storage.entry import Entry
from skillbank.storage.uri import Uri

__all__ = ["LocalStore", "missing_local"]


def missing_local(path: Path) -> NotFoundError:
    """The error for a file or folder that is not there; the hint names the nearest one that is."""
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    try:
        names = os.listdir(parent) if parent == path.absolute().parent else []
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.with_name(near[0])}?" if near else f"see what is there: ls {parent}"
    return NotFoundError(f"{path}: no such file or folder", hint=hint, key=str(path), value=str(path))


class LocalStore:
    """Files of this machine; uris are paths."""

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
        if not uri.local.exists():
            raise missing_local(uri.local)
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


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(err: OSError) -> None:
        raise disk_error(err, Path(err.filename)) from err

    for root, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            yield Path(root, name)
