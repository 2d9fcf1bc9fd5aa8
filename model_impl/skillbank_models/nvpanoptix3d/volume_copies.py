"""Small copies of large arrays, kept in a folder and made again when their source has changed."""

from __future__ import annotations

import hashlib
import logging
import secrets
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank_models.data.arrays import BROKEN_ARCHIVE

__all__ = ["VolumeCopies"]

log = logging.getLogger(__name__)

_FORM = 1  # number of what the copies hold; others are made again
_SOURCE = "source"
_LEVEL = 1  # of zlib: these copies are small at any, and inflate fastest at this one

Arrays = dict[str, NDArray[Any]]


class VolumeCopies:
    """Copies by the path of their source.

    Several processes may write the same copy: each writes a file of its own and then renames it.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, kind: str, side: int, sources: Sequence[Path], build: Callable[[], Arrays]) -> Arrays:
        """The copy, or what it is made of when there is none, it is damaged, or a source has changed.

        Args:
            kind: what is copied from the sources; part of the name of the copy.
            side: of the grid; likewise.
            sources: files whose size and time of change the copy remembers.
            build: makes the arrays that are kept; a dtype of signed whole numbers is narrowed to fit.
        """
        mark = _mark(sources)
        path = self._path(kind, side, sources[0])
        found = _read(path, mark)
        if found is None:
            found = build()
            _write(path, {name: _narrow(array) for name, array in found.items()} | {_SOURCE: mark})
        return found

    def _path(self, kind: str, side: int, source: Path) -> Path:
        digest = hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:24]
        return self._folder / str(side) / digest[:2] / f"{digest}_{kind}.npz"


def _mark(sources: Sequence[Path]) -> NDArray[np.int64]:
    numbers = [_FORM]
    for source in sources:
        try:
            state = source.stat()
        except OSError:  # reading it tells what is wrong
            numbers += [-1, -1]
        else:
            numbers += [state.st_size, state.st_mtime_ns]
    return np.array(numbers, np.int64)


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "i" or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    return array.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))


def _read(path: Path, mark: NDArray[np.int64]) -> Arrays | None:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not np.array_equal(archive[_SOURCE], mark):
                return None
            return {name: archive[name] for name in archive.files if name != _SOURCE}
    except (FileNotFoundError, NotADirectoryError):  # the latter is told when it is written
        return None
    except BROKEN_ARCHIVE as error:
        log.warning("%s is damaged and is made again: %s", path, error)
        return None


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "x", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _tell(path.parent.parent, error.strerror or str(error))


@cache  # once for a folder and reason, not for each image
def _tell(folder: Path, reason: str) -> None:
    log.warning("no small copies of volumes can be kept in %s (%s); volumes are read in full", folder, reason)
