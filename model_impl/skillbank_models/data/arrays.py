"""Arrays from NPZ and NPY files, checked before they are used."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError, DataError, MissingFilesError, ShapeError

__all__ = ["BROKEN_ARCHIVE", "check_array", "load_npy", "load_npz"]

Kind = Literal["integer", "real", "mask"]

# What zip, zlib and numpy raise on files that are cut off or damaged.
BROKEN_ARCHIVE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
_KINDS: dict[str, tuple[str, str]] = {
    "integer": ("biu", "whole numbers"),
    "real": ("biuf", "numbers"),
    "mask": ("biu", "true and false"),
}


def load_npz(path: Path, *keys: str) -> list[NDArray[Any]]:
    """Arrays of an archive, by their keys.

    Raises:
        MissingFilesError: no such file.
        AnnotationError: it has no such key; tells those it has.
        DataError: damaged, or no NPZ archive.
    """
    try:
        # opened here: numpy leaves damaged files open
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path}: a bare array, where an NPZ archive with {_named(keys)} is expected",
                    hint=f"np.savez_compressed({path.name!r}, {keys[0]}=array)",
                    key=str(path),
                )
            absent = [key for key in keys if key not in archive.files]
            if absent:
                raise AnnotationError(
                    f"{path}: there is no {_named(absent)}; the archive has {_named(archive.files)}",
                    hint=f"np.savez_compressed({path.name!r}, {absent[0]}=array)",
                    key=str(path),
                )
            return [archive[key] for key in keys]
    except DataError:
        raise
    except FileNotFoundError as error:
        raise _missing(path) from error
    except BROKEN_ARCHIVE as error:
        raise _damaged(path, error) from error


def load_npy(path: Path) -> NDArray[Any]:
    """The array of a file.

    Raises:
        MissingFilesError: no such file.
        DataError: damaged, or no NPY file.
    """
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except BROKEN_ARCHIVE as error:
        raise _damaged(path, error) from error
    if not isinstance(found, np.ndarray):
        raise DataError(
            f"{path}: an archive, where a bare array is expected",
            hint=f"np.save({path.name!r}, array)",
            key=str(path),
        )
    return found


def check_array(
    array: NDArray[Any], where: object, *, shape: Sequence[int | None], kind: Kind, hint: str = ""
) -> None:
    """Refuse an array of another shape or type.

    Args:
        where: the file, or the file and its key.
        shape: None = any length.

    Raises:
        ShapeError: tells what was found and what is allowed.
    """
    letters, name = _KINDS[kind]
    fits = array.ndim == len(shape) and all(
        wanted is None or wanted == side for wanted, side in zip(shape, array.shape, strict=True)
    )
    if fits and array.dtype.kind in letters:
        return
    allowed = " x ".join("any" if side is None else str(side) for side in shape)
    raise ShapeError(
        f"{where}: {' x '.join(map(str, array.shape)) or 'a single value'} of type {array.dtype}; it must be "
        f"{allowed}, {name}",
        hint=hint or "write the array in that form",
        key=str(where),
        value=list(array.shape),
    )


def _named(keys: Sequence[str]) -> str:
    return "key " + ", ".join(map(repr, keys)) if keys else "no key at all"


def _missing(path: Path) -> MissingFilesError:
    return MissingFilesError(f"{path}: no such file", hint=f"ls {path.parent}", key=str(path))


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path}: this file cannot be read, it is damaged or holds something else ({error})",
        hint="copy the file again, or take the image out of the split",
        key=str(path),
    )
