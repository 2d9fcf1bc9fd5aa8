"""Large arrays in .npz files: converted and turned piece by piece, compressed as fast as it can be."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Member", "write_npz"]

_LEVEL = 1  # volumes are nearly constant; higher levels cost three times the time for half the size


class Member:
    """An array of an archive.

    Args:
        name: key.
        parts: arrays of one shape, which are stacked when there are several.
        dtype: to write.
        mirrored: axes of each part that are turned around.
    """

    def __init__(
        self, name: str, parts: Sequence[NDArray[Any]], dtype: DTypeLike, mirrored: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.parts = parts
        self.dtype = np.dtype(dtype)
        self.mirrored = mirrored

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array as written."""
        one = self.parts[0].shape
        return one if len(self.parts) == 1 else (len(self.parts), *one)


def write_npz(path: Path, *members: Member) -> None:
    """Write an archive that `numpy.load` reads; the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for member in members:
            with archive.open(f"{member.name}.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(member.dtype),
                    "fortran_order": False,
                    "shape": member.shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                for part in member.parts:
                    for piece in np.flip(part, tuple(member.mirrored)):
                        file.write(np.ascontiguousarray(piece, member.dtype).data)
