"""One file of a store as its listing tells it, and what may be asked of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

from skillbank.errors import StorageError
from skillbank.storage.uri import Uri, parse, show

__all__ = ["Body", "Entry", "Progress", "Remote", "Store", "relative_names"]

Progress = Callable[[int, int, int], None]
"""Called with bytes done, bytes in all, and files finished; calls never overlap."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, an object, or a folder that exists.

    Attributes:
        uri: as it can be fetched; of a signed link this holds the signature, so `repr` leaves it out.
        size: bytes; None when a web server does not tell, 0 for a folder.
        etag: the store's own mark of this content, without quotes.
        modified: time of the last change, with zone.
    """

    uri: str = field(repr=False)
    size: int | None
    etag: str | None = None
    modified: datetime | None = None
    is_folder: bool = False

    def __str__(self) -> str:
        return show(self.uri)

    @property
    def place(self) -> Uri:
        """The address taken apart."""
        return parse(self.uri)

    @property
    def version(self) -> str:
        """What changes with the content: the ETag, else the time; empty when the store tells neither."""
        return self.etag or (self.modified.isoformat() if self.modified else "")


@dataclass(slots=True)
class Body:
    """Content on its way.

    Attributes:
        start: offset of the first byte; 0 although a later one was asked for when the server starts again.
        chunks: the bytes, in order.
        digests: hex digests of the *whole* object by algorithm, as far as the store tells.
    """

    start: int
    chunks: Iterator[bytes]
    digests: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    """What every kind of place can do."""

    one_request: int
    """Files up to this size are sent whole; larger ones take all workers for their parts."""

    def stat(self, uri: Uri) -> Entry | None:
        """The file or folder, None when it is not there. StorageError: cannot tell."""

    def list(self, uri: Uri) -> list[Entry]:
        """All files below a folder, sorted by name. NotFoundError: no such folder."""

    def put(self, path: Path, uri: Uri) -> None:
        """Copy a local file there; it appears whole or not at all."""

    def put_link(self, target: str, uri: Uri) -> None:
        """Leave a link to `target`, which is relative to the link's own folder."""

    def check_target(self, uri: Uri) -> None:
        """Raise when files cannot be put there, as far as that can be told without writing."""

    def close(self) -> None:
        """Close all connections."""


class Remote(Store, Protocol):
    """A place whose content has to be brought here."""

    parallel: bool
    """One object may be read in several ranges at a time."""

    def open(self, entry: Entry, start: int = 0, stop: int | None = None) -> AbstractContextManager[Body]:
        """Read bytes `start` to `stop` (exclusive). `Interrupted` when trying again may help."""


def relative_names(entries: Sequence[Entry], root: Uri) -> list[str]:
    """Names of the entries below `root`, checked to be safe as local paths.

    Raises:
        StorageError: a name leaves the folder, or is a file and a folder at once; lists the first ten.
    """
    prefix = root.path.rstrip("/") + "/" if root.path.rstrip("/") else ""
    names = [entry.place.path.removeprefix(prefix) for entry in entries]
    direct = {name.rpartition("/")[0] for name in names}
    folders = direct | {str(parent) for folder in direct for parent in PurePosixPath(folder).parents}
    wrong = []
    for name in names:
        parts = name.split("/")
        if not all(parts) or ".." in parts or "." in parts or "\0" in name:
            wrong.append(f"'{name}' is not a safe name of a local file")
        elif name in folders:
            wrong.append(f"'{name}' is a file and a folder at once")
    if wrong:
        raise StorageError(
            f"{root}: {len(wrong)} of {len(names)} objects cannot be local files: {'; '.join(wrong[:10])}",
            hint="rename these objects in the store",
            key=str(root),
        )
    return names
