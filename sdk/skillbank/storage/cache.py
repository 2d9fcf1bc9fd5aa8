"""Copies of remote objects, one for each URI + version + size, and folders of links to them.

    objects/ab/ab12...              the copy, read-only
    objects/ab/ab12....part .done   what has arrived so far, and which ranges of it; the part is also the lock
    named/ab12.../train.json        a link with the object's own name
    trees/12ab.../train/...         one listing of a prefix as a folder of links

A key never changes its content, so nothing here is ever overwritten, and the whole folder may be deleted when
no job runs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from skillbank.storage.disk import disk_error
from skillbank.storage.entry import Entry
from skillbank.storage.locks import wait_for_lock
from skillbank.storage.pointers import read_pointer
from skillbank.storage.uri import Uri

__all__ = ["Cache", "Slot", "Tree"]

_UNSAFE = re.compile(r"[\x00-\x1f/\\]")
_STALE_S = 24 * 3600
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one version of one object.

    Attributes:
        root: folder of the cache.
        key: digest of URI, version and size.
        name: file name of the object.
        size: bytes; None when the store does not tell.
        is_trusted: False when the store tells no version, so that a copy may be out of date.
    """

    root: Path
    key: str
    name: str
    size: int | None
    is_trusted: bool

    @property
    def path(self) -> Path:
        """The finished copy."""
        return self.root / "objects" / self.key[:2] / self.key

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.path.with_name(f"{self.key}.part")

    @property
    def done(self) -> Path:
        """Numbers of the ranges that have arrived, for objects read in several."""
        return self.path.with_name(f"{self.key}.done")

    def is_ready(self) -> bool:
        """Whether the copy can be used. Another size, as after a power failure, counts as not there."""
        if not self.is_trusted:
            return False
        try:
            return self.size in (None, self.path.stat().st_size)
        except OSError:
            return False

    @contextmanager
    def claim(self, what: str, stop: threading.Event) -> Iterator[int | None]:
        """The open part, kept from all other processes and threads; None when the copy is there.

        Raises:
            Stopped: `stop` was set while somebody else held it.
            StorageError: the disk refuses.
        """
        handle = self._lock(what, stop)
        try:
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    def _lock(self, what: str, stop: threading.Event) -> int | None:
        part = str(self.part)
        while not self.is_ready():
            try:
                handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                self._make_folder()
                continue
            except OSError as err:
                raise disk_error(err, self.part) from err
            try:
                wait_for_lock(handle, self.part, what, stop=stop)
                # The one who held it before may have given the part its name, or removed it.
                is_mine = _is_same(handle, part) and not self.is_ready()
            except BaseException:
                os.close(handle)
                raise
            if is_mine:
                return handle
            if _is_same(handle, part):
                self.discard()
            os.close(handle)
        return None

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise disk_error(err, self.path) from err

    def commit(self) -> None:
        """Give the part its name. Read-only: the trees share it. OSError when the disk refuses."""
        self.part.chmod(0o444)
        self.part.replace(self.path)

    def discard(self) -> None:
        """Forget what has arrived; only for the one who holds the claim."""
        for path in (self.part, self.done):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def named(self) -> Path:
        """The copy under the object's own name, since what follows the last dot matters to its readers.

        Raises:
            StorageError: the disk refuses.
        """
        path = self.root / "named" / self.key / self.name
        try:
            if path.exists() and path.samefile(self.path):
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
            _link(self.path, temporary)
            temporary.replace(path)
            temporary.unlink(missing_ok=True)  # renaming one link over another of the same file does nothing
        except OSError as err:
            raise disk_error(err, path, self.size) from err
        return path


def _is_same(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))  # noqa: PTH116
    except OSError:
        return False


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        shutil.copy(source, target)


class Cache:
    """The cache below one folder.

    Args:
        root: created with the rights of its owner only, when first needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the root folder."""
        try:
            if not self.root.is_dir():
                self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as err:
            raise disk_error(err, self.root) from err

    def slot(self, entry: Entry) -> Slot:
        """The place for this version of this object."""
        uri = entry.place
        text = f"{uri.identity}\n{entry.version}\n{entry.size}"
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        name = _UNSAFE.sub("_", uri.name)[-150:].lstrip(".") or "content"
        return Slot(self.root, key, name, entry.size, bool(entry.version))

    def tree(self, root: Uri, names: Sequence[str], slots: Sequence[Slot]) -> Tree:
        """The folder that shows these copies under these names."""
        digest = hashlib.sha256(root.identity.rstrip("/").encode("utf-8", "surrogatepass"))
        for name, slot in sorted(zip(names, slots, strict=True)):
            digest.update(f"\n{slot.key} {name}".encode("utf-8", "surrogatepass"))
        folder = self.root / "trees" / digest.hexdigest()
        return Tree(folder, _UNSAFE.sub("_", root.name).lstrip(".") or "content", tuple(names), tuple(slots))


@dataclass(frozen=True, slots=True)
class Tree:
    """One listing of a prefix as a folder; it has a new name as soon as any object changes."""

    folder: Path
    name: str
    names: tuple[str, ...]
    slots: tuple[Slot, ...]

    @property
    def path(self) -> Path:
        """The folder that corresponds to the prefix."""
        return self.folder / self.name

    def is_ready(self) -> bool:
        """Whether every file of it is there with its size."""
        if not self.path.is_dir() or not all(slot.is_trusted for slot in self.slots):
            return False
        base = str(self.path)
        for name, slot in zip(self.names, self.slots, strict=True):
            try:
                found = os.lstat(f"{base}/{name}")
            except OSError:
                return False
            if slot.size is not None and found.st_size != slot.size and not os.path.islink(f"{base}/{name}"):  # noqa: PTH114
                return False
        return True

    def build(self) -> Path:
        """Link the copies, which must all be there, under a temporary name and rename it.

        Raises:
            StorageError: the disk refuses; nothing is left behind.
        """
        trees = self.folder.parent
        temporary = trees / f".{uuid.uuid4().hex}.tmp"
        try:
            trees.mkdir(parents=True, exist_ok=True)
            _remove_stale(trees)
            base = temporary / self.name
            base.mkdir(parents=True)
            made = {base}
            for name, slot in zip(self.names, self.slots, strict=True):
                target = base / name
                if target.parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                _show(slot, target, name, self.names)
            self._publish(temporary)
        except OSError as err:
            shutil.rmtree(temporary, ignore_errors=True)
            raise disk_error(err, self.path, sum(slot.size or 0 for slot in self.slots)) from err
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return self.path

    def _publish(self, temporary: Path) -> None:
        try:
            temporary.rename(self.folder)
        except OSError as err:
            if err.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another process was faster, or files were deleted from an older tree of the same content.
            if not self.is_ready():
                shutil.rmtree(self.folder, ignore_errors=True)
                temporary.rename(self.folder)
            else:
                shutil.rmtree(temporary, ignore_errors=True)


def _show(slot: Slot, target: Path, name: str, names: Sequence[str]) -> None:
    """Make the copy visible as `target`: a pointer file becomes the link it stands for, else a hard link."""
    pointed = read_pointer(slot.path)
    if pointed is not None and os.path.normpath(f"{name}/../{pointed}") in set(names):
        target.symlink_to(pointed)
        return
    _link(slot.path, target)


def _remove_stale(trees: Path) -> None:
    """Remove what killed processes left; only links, but they clutter."""
    for left in trees.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)
