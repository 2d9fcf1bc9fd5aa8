"""COCO run-length masks: runs of zeros and ones in turn, column by column, as numbers or packed into text.

Unpacking is done here and not by the COCO library, which trusts its input: runs that go beyond the picture
make it read foreign memory.

Source: https://github.com/cocodataset/cocoapi, common/maskApi.h and rleFrString (BSD), the format only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["encode_mask", "polygon_mask", "runs_of", "unpacked"]


def encode_mask(mask: NDArray[Any]) -> dict[str, Any]:
    """Packed run lengths of a (H, W) mask; the counts are text, as JSON needs it."""
    from pycocotools import mask as coco

    rle: dict[str, Any] = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    rle["counts"] = rle["counts"].decode("ascii")
    return rle


def polygon_mask(polygons: list[list[float]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """What polygons x0, y0, x1, y1, ... cover together, (H, W), 0 or 1, as the COCO library draws it."""
    from pycocotools import mask as coco

    merged = coco.merge(coco.frPyObjects(polygons, *size))
    return unpacked(runs_of(merged["counts"].decode("ascii")), size)


def runs_of(counts: str) -> NDArray[np.int64]:
    """Numbers of packed run lengths; text that is none gives numbers that make no sense, but no error.

    A number is groups of five bits, lowest first, in letters from "0"; a further bit says that more follow,
    and the highest bit of the last group is the sign. From the fourth number on each is the difference to the
    one two before it.
    """
    letters = np.frombuffer(counts.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    if not letters.size:
        return np.zeros(0, np.int64)
    last = (letters & 32) == 0
    last[-1] = True
    ends = np.flatnonzero(last)  # (R,)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])  # (R,)
    lengths = ends - starts + 1
    shift = 5 * (np.arange(letters.size) - np.repeat(starts, lengths)).clip(0, 11)
    numbers = np.add.reduceat((letters & 31) << shift, starts)  # (R,)
    negative = (letters[ends] & 16) != 0
    numbers[negative] -= np.int64(1) << (5 * lengths[negative]).clip(0, 60)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def unpacked(runs: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of runs that add up to its pixels, (H, W), 0 or 1."""
    height, width = size
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    return np.repeat(values, runs).reshape(width, height).T  # (H, W)
