"""The storage that the rest of the bank uses: any place in, local paths out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from skillbank.bank import home
from skillbank.errors import NotFoundError, SkillBankError, StorageError, UsageError
from skillbank.storage.archive import Limits, content_folder, is_archive, parent_folder, unpack
from skillbank.storage.cache import Cache
from skillbank.storage.disk import disk_error
from skillbank.storage.download import Downloader, Job
from skillbank.storage.entry import Entry, Progress, Remote, Store, relative_names
from skillbank.storage.http import HttpStore
from skillbank.storage.ignore import Ignore
from skillbank.storage.local import LocalStore, require_ordinary
from skillbank.storage.outgoing import Item, collect_items, send_all
from skillbank.storage.pointers import read_pointer
from skillbank.storage.retry import Retry
from skillbank.storage.s3 import S3Store
from skillbank.storage.uri import Uri, join, parse

__all__ = ["Storage"]

_POINTERS_IN_A_ROW = 4


class Storage:
    """Reads from and writes to plain paths, ``file://``, ``s3://`` and, reading only, ``http(s)://``.

    S3 takes credentials and endpoint from the environment: ``AWS_*``, the files of the AWS tools, or the
    older names ``ACCESS_KEY``, ``SECRET_KEY``, ``S3_ENDPOINT_URL``, ``CLOUD_REGION``. All methods may be
    called from many threads.

    Args:
        cache_dir: where copies of remote files are kept; default ``cache`` in the home of the bank.
        workers: files, or parts of large files, under way at the same time.
        retry: how often a transfer that stands still is tried.
        timeout_s: longest silence of a server; of a web server, all tries together.
        part_bytes: length of the ranges that large objects are read in.
        limits: how much an archive may unpack to; default `Limits.from_env`.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        workers: int = 32,
        retry: Retry | None = None,
        timeout_s: float = 30.0,
        part_bytes: int = 16 << 20,
        limits: Limits | None = None,
    ) -> None:
        if workers < 1:
            raise UsageError(
                f"storage workers: {workers} is not allowed; at least 1", hint="use 32", value=workers
            )
        self.cache = Cache(cache_dir if cache_dir is not None else home() / "cache")
        self.workers = workers
        self._retry = retry or Retry()
        self._timeout_s = timeout_s
        self._part_bytes = part_bytes
        self._limits = limits
        self._local = LocalStore()
        self._remotes: dict[str, Remote] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the next call opens new ones."""
        with self._lock:
            for store in self._remotes.values():
                store.close()

    def _remote(self, uri: Uri) -> Remote:
        kind = "s3" if uri.scheme == "s3" else "http"
        with self._lock:
            if kind not in self._remotes:
                make = S3Store if kind == "s3" else HttpStore
                self._remotes[kind] = make(workers=self.workers, retry=self._retry, timeout_s=self._timeout_s)
            return self._remotes[kind]

    def _store(self, uri: Uri) -> Store:
        return self._remote(uri) if uri.is_remote else self._local

    def stat(self, uri: str) -> Entry | None:
        """The file or folder; None when it is not there.

        Raises:
            StorageError: it cannot be told: no access, no connection.
        """
        place = parse(uri)
        return self._store(place).stat(place)

    def exists(self, uri: str) -> bool:
        """Whether there is a file or folder of this name. StorageError: it cannot be told."""
        return self.stat(uri) is not None

    def list(self, uri: str) -> list[Entry]:
        """All files below a folder or prefix, sorted by name.

        Raises:
            NotFoundError: no such folder, prefix or bucket.
            StorageError: it cannot be told.
        """
        place = parse(uri)
        return self._store(place).list(place)

    def fetch(self, uri: str, *, progress: Progress | None = None, sha256: str | None = None) -> Path:
        """A local path with the content of a file; a local one is returned as it is.

        Args:
            uri: a path or URI.
            progress: told while bytes arrive.
            sha256: what the content must be; compared also when the file is local or in the cache.

        Raises:
            NotFoundError: there is no such file.
            StorageError: it cannot be read, is a prefix, or has another digest.
        """
        place = parse(uri)
        path = self._fetch(place, progress)
        for _ in range(_POINTERS_IN_A_ROW):
            pointed = read_pointer(path) if not path.is_dir() else None
            if pointed is None:
                break
            place = _beside(place, pointed)
            path = self._fetch(place, progress)
        if sha256 is not None:
            _check_sha256(path, place, sha256)
        return path

    def _fetch(self, place: Uri, progress: Progress | None) -> Path:
        if not place.is_remote:
            require_ordinary(place.local)
            return place.local
        store = self._remote(place)
        entry = store.stat(place)
        if entry is None:
            store.list(place)  # knows whether the bucket or the object is missing
            raise NotFoundError(
                f"{place}: no such object", hint="check the address", key=str(place), value=str(place)
            )
        if entry.is_folder:
            raise StorageError(
                f"{place}: is a folder, not a file", hint="name a file below it", key=str(place)
            )
        return self._bring(entry, store, progress)

    def _bring(self, entry: Entry, store: Remote, progress: Progress | None) -> Path:
        self.cache.prepare()
        slot = self.cache.slot(entry)
        self._download([(entry, slot)], store, progress)
        return slot.named()

    def _download(self, jobs: Sequence[Job], store: Remote, progress: Progress | None) -> None:
        Downloader(
            store, workers=self.workers, retry=self._retry, part_bytes=self._part_bytes, progress=progress
        ).fetch_all(jobs)

    def fetch_tree(self, uri: str, *, progress: Progress | None = None) -> Path:
        """A local folder with everything below a folder or prefix; a local one is returned as it is.

        A remote folder costs one listing, and downloads of what the cache does not have yet.

        Raises:
            NotFoundError: there is no such folder or prefix.
            StorageError: it is a file, or cannot be read.
        """
        place = parse(uri)
        if not place.is_remote:
            require_ordinary(place.local)
            if not place.local.is_dir():
                raise _not_a_folder(place)
            return place.local
        store = self._remote(place)
        entries = store.list(place)
        if len(entries) == 1 and entries[0].place.path == place.path.rstrip("/"):
            raise _not_a_folder(place)
        self.cache.prepare()
        slots = [self.cache.slot(entry) for entry in entries]
        tree = self.cache.tree(place, relative_names(entries, place), slots)
        if tree.is_ready():
            if progress is not None:
                total = sum(entry.size or 0 for entry in entries)
                progress(total, total, len(entries))
            return tree.path
        self._download(tuple(zip(entries, slots, strict=True)), store, progress)
        return tree.build()

    def fetch_any(
        self,
        uri: str,
        *,
        archive: Literal["keep", "extract", "extract_to_parent"] = "keep",
        progress: Progress | None = None,
    ) -> Path:
        """A local path for a file, a folder or an archive, whichever the name stands for.

        Args:
            uri: a path or URI.
            archive: ``extract``: an archive becomes the folder with its files, whether they are packed flat
                or in one folder at the top. ``extract_to_parent``: it becomes the folder that the archive's
                own folder stands for, see `skillbank.storage.archive.parent_folder`. Folders and other files
                are not affected.
            progress: told while bytes arrive.

        Raises:
            NotFoundError: there is nothing of that name.
            StorageError: it cannot be read.
            DataError: the archive is damaged or hostile.
        """
        place = parse(uri)
        store = self._store(place)
        entry = None if place.path.endswith("/") else store.stat(place)
        if place.path.endswith("/") or (entry is not None and entry.is_folder):
            return self.fetch_tree(uri, progress=progress)
        if entry is not None and place.is_remote:
            path = self._bring(entry, self._remote(place), progress)
            path = self.fetch(uri, progress=progress) if read_pointer(path) else path
        else:
            path = self.fetch(uri, progress=progress)
        if archive == "keep" or not is_archive(place.name):
            return path
        self.cache.prepare()
        folder = unpack(path, self.cache.root / "unpacked", limits=self._limits)
        return content_folder(folder) if archive == "extract" else parent_folder(folder, place.name)

    def put(self, path: Path, uri: str) -> None:
        """Copy a local file to a place; into it when it ends in ``/`` or is a local folder.

        Raises:
            NotFoundError: there is no such file, or no such bucket.
            StorageError: the place cannot be written to.
        """
        place = parse(uri)
        if place.path.endswith("/") or (not place.is_remote and place.local.is_dir()):
            place = parse(join(uri, path.name))
        require_ordinary(path)
        if path.is_dir():
            raise StorageError(f"{path}: is a folder", hint="use put_tree, or name a file", key=str(path))
        self._store(place).put(path, place)

    def put_tree(self, folder: Path, uri: str, *, excludes: Sequence[str] = ()) -> int:
        """Copy the files of a folder below a place, many at once; returns how many.

        Args:
            folder: local folder.
            uri: path or prefix.
            excludes: patterns as in ``.gitignore``.

        Raises:
            NotFoundError: there is no such folder or bucket.
            StorageError: the first file that could not be written.
        """
        sent, problems = self.send(collect_items(folder, Ignore(excludes)), uri)
        if problems:
            raise problems[0]
        return len(sent)

    def send(
        self, items: Sequence[Item], uri: str, *, keep_going: bool = False
    ) -> tuple[Sequence[Item], Sequence[SkillBankError]]:
        """Send chosen files; see `skillbank.storage.outgoing.send_all`."""
        store = self._store(parse(uri))
        return send_all(store, items, uri, workers=self.workers, keep_going=keep_going)

    def check_target(self, uri: str) -> None:
        """Find out early whether files can be put there; raises NotFoundError or StorageError when not."""
        place = parse(uri)
        self._store(place).check_target(place)


def _not_a_folder(place: Uri) -> StorageError:
    return StorageError(f"{place}: is a file, not a folder", hint="name the folder it is in", key=str(place))


def _beside(place: Uri, target: str) -> Uri:
    """The place a pointer file leads to."""
    if ".." in target.split("/"):
        raise StorageError(
            f"{place}: is a link to '{target}', out of its folder; allowed: files beside or below it",
            hint="name the file it means, or fetch the whole folder",
            key=str(place),
        )
    parent, slash, _ = place.path.rpartition("/")
    return Uri(place.scheme, place.host, f"{parent}{slash}{target}", place.query, place.userinfo)


def _check_sha256(path: Path, place: Uri, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise disk_error(err, path) from err
    if found != expected.strip().lower():
        raise StorageError(
            f"{place}: its SHA-256 is {found}, expected is {expected.strip().lower()}",
            hint="the file is not the one that was meant: check the address and the digest",
            key=str(place),
        )
