"""How two maps of one image overlap, counted in one pass.

Maps are made of areas, so along a row both values stay the same over long stretches. Finding where one of
them changes costs a comparison per pixel; all that is slower runs once per stretch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import ShapeError

__all__ = ["pair_counts", "stretches"]

Ints = NDArray[np.int32]


def stretches(first: Ints, second: Ints, *, where: str) -> tuple[Ints, Ints, NDArray[np.int64]]:
    """Runs of pixels, in row order, over which both maps stay the same.

    Args:
        first: (H0, W0).
        second: (H0, W0).
        where: the image, for messages.

    Returns:
        Value of the first map, value of the second and number of pixels, one entry for each run.

    Raises:
        ShapeError: the maps have different sizes.
    """
    if first.shape != second.shape:
        raise ShapeError(
            f"{where}: annotation {first.shape} and prediction {second.shape} differ in size",
            hint="predictions are made at the size of the stored image",
        )
    a, b = first.reshape(-1), second.reshape(-1)  # (H0 W0,)
    if not a.size:
        return a, b, np.zeros(0, dtype=np.int64)
    change = np.empty(a.size, dtype=bool)
    change[0] = True
    np.not_equal(a[1:], a[:-1], out=change[1:])
    change[1:] |= b[1:] != b[:-1]
    starts = np.flatnonzero(change)  # (runs,)
    return a[starts], b[starts], np.diff(starts, append=a.size)


def pair_counts(
    first: NDArray[np.int64], second: NDArray[np.int64], pixels: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Pixels of every pair of indices.

    Args:
        first: (runs,) in 0..shape[0]-1.
        second: (runs,) in 0..shape[1]-1.
        pixels: (runs,).
        shape: rows and columns of the answer.

    Returns:
        (rows, columns); exact, since counts of one image stay far below 2**53.
    """
    rows, columns = shape
    counts = np.bincount(first * columns + second, weights=pixels, minlength=rows * columns)
    return counts.astype(np.int64).reshape(rows, columns)
