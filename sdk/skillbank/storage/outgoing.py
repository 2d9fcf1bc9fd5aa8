"""Which files of a folder go up, and sending many of them at once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skillbank.errors import NotFoundError, SkillBankError, StorageError
from skillbank.storage.disk import disk_error
from skillbank.storage.entry import Store
from skillbank.storage.ignore import Ignore
from skillbank.storage.local import missing_local
from skillbank.storage.pointers import link_target
from skillbank.storage.uri import join, parse

__all__ = ["Item", "collect_items", "send_all"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """A file to send.

    Attributes:
        name: below the folder, with ``/``.
        size: bytes.
        mtime_ns: time of the last change.
        target: of a link, relative to the folder the link is in; None for an ordinary file.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    target: str | None = None

    @property
    def stamp(self) -> tuple[int, int, str | None]:
        """Changes when the file does."""
        return (self.size, self.mtime_ns, self.target)


def collect_items(folder: Path, excludes: Ignore) -> list[Item]:
    """The files below a folder, sorted by name.

    Links to folders and links that lead out of the folder are left out, with a warning for the latter.

    Raises:
        NotFoundError: there is no such folder.
        StorageError: it cannot be read.
    """
    if not folder.is_dir():
        raise missing_local(folder)
    return sorted(_walk(folder, folder, excludes), key=lambda item: item.name)


def _walk(folder: Path, root: Path, excludes: Ignore) -> Iterator[Item]:
    try:
        found = sorted(os.scandir(folder), key=lambda each: each.name)
    except FileNotFoundError:
        return  # removed since its parent was read
    except OSError as err:
        raise disk_error(err, folder) from err
    for each in found:
        path = Path(each.path)
        name = path.relative_to(root).as_posix()
        is_folder = each.is_dir(follow_symlinks=False)
        if excludes.matches(name, is_folder=is_folder):
            continue
        if is_folder:
            yield from _walk(path, root, excludes)
            continue
        try:
            state = each.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if each.is_symlink():
            target = link_target(path, root)
            if target is not None:
                yield Item(path, name, state.st_size, state.st_mtime_ns, target)
            elif not path.is_dir():
                log.warning("%s: not sent: the link leads out of %s or nowhere", path, root)
        elif each.is_file(follow_symlinks=False):
            yield Item(path, name, state.st_size, state.st_mtime_ns)


def send_all(
    store: Store, items: Sequence[Item], uri: str, *, workers: int, keep_going: bool = False
) -> tuple[list[Item], list[SkillBankError]]:
    """Send the items below `uri`: small ones side by side, large ones one by one, each in parallel parts.

    Links go last, so that one is never seen before what it leads to.

    Returns:
        What was sent, and what went wrong. Without `keep_going` nothing new is begun after the first problem.
    """
    sent: list[Item] = []
    problems: list[SkillBankError] = []
    lock = threading.Lock()

    def one(item: Item) -> None:
        if problems and not keep_going:
            return
        try:
            _send(store, item, uri)
        except (StorageError, NotFoundError) as err:
            with lock:
                problems.append(err)
        else:
            with lock:
                sent.append(item)

    plain = [item for item in items if item.target is None]
    small = [item for item in plain if item.size <= store.one_request]
    with ThreadPoolExecutor(max(1, min(workers, len(small))), thread_name_prefix="send") as pool:
        for future in [pool.submit(one, item) for item in small]:
            future.result()
    for item in plain:
        if item.size > store.one_request:
            one(item)
    for item in items:
        if item.target is not None:
            one(item)
    return sent, problems


def _send(store: Store, item: Item, uri: str) -> None:
    place = parse(join(uri, item.name))
    if item.target is None:
        store.put(item.path, place)
    else:
        store.put_link(item.target, place)
