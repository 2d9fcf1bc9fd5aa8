"""Where the names of regions go: inside them, readable, and not on top of each other."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["TextPlaces"]

Box = tuple[float, float, float, float]  # left, top, right, bottom


class TextPlaces:
    """Places that were given away so far.

    Args:
        width: of the picture.
        height: of the picture.
        gap: pixels kept free between two texts.
    """

    def __init__(self, width: int, height: int, *, gap: int) -> None:
        self._width, self._height = width, height
        self._gap = gap
        self._taken: list[Box] = []

    def place(
        self, mask: NDArray[np.bool_], left: int, top: int, scale: float, size: tuple[int, int]
    ) -> Box | None:
        """A free place for a text in or right at a region; None where there is none.

        Args:
            mask: (rows, columns) bool of the region, in pixels of the image.
            left: of the mask in the image.
            top: of the mask in the image.
            scale: pixels of the picture for one of the image.
            size: width and height of the text in the picture.
        """
        box = self._inside(mask, left, top, scale, size) or self._beside(mask, left, top, scale, size)
        if box is not None:
            self._taken.append(box)
        return box

    def _inside(
        self, mask: NDArray[np.bool_], left: int, top: int, scale: float, size: tuple[int, int]
    ) -> Box | None:
        """Centred as deep inside the region as other texts leave room; only where it does not hide it."""
        width, height = size
        if mask.sum() * scale * scale < 2.0 * width * height:
            return None
        framed = np.pad(mask.astype(np.uint8), 1)
        depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]  # (rows, columns)
        # A text is wider than high, so room to the sides counts: average depth along its width.
        reach = max(1, round(width / scale / 2)) | 1
        depth = cv2.blur(depth, (min(reach, 2 * depth.shape[1] - 1), 1), borderType=cv2.BORDER_CONSTANT)
        depth[~mask] = 0
        half_width, half_height = width / 2 + self._gap, height / 2 + self._gap
        self._forbid(depth, left, top, scale, half_width, half_height)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[row, column] <= 0:
            return None
        x, y = (left + column + 0.5) * scale, (top + row + 0.5) * scale
        return self._within((x - width / 2, y - height / 2, x + width / 2, y + height / 2))

    def _forbid(
        self,
        depth: NDArray[Any],
        left: int,
        top: int,
        scale: float,
        half_width: float,
        half_height: float,
    ) -> None:
        """No centre where the text would touch another one or leave the picture."""
        for x0, y0, x1, y1 in self._taken:
            first = (
                max(0, int((x0 - half_width) / scale - left)),
                max(0, int((y0 - half_height) / scale - top)),
            )
            last = int((x1 + half_width) / scale - left) + 1, int((y1 + half_height) / scale - top) + 1
            if last[0] > 0 and last[1] > 0:
                depth[first[1] : last[1], first[0] : last[0]] = 0

    def _beside(
        self, mask: NDArray[np.bool_], left: int, top: int, scale: float, size: tuple[int, int]
    ) -> Box | None:
        """Above the region, else below it, to the right or to the left."""
        width, height = size
        rows, columns = mask.shape
        x, right = left * scale, (left + columns) * scale
        y, bottom = top * scale, (top + rows) * scale
        middle = (x + right - width) / 2
        level = (y + bottom - height) / 2
        for corner in (
            (middle, y - height - 1), (middle, bottom + 1), (right + 1, level), (x - width - 1, level)
        ):  # fmt: skip
            box = corner[0], corner[1], corner[0] + width, corner[1] + height
            if self._inside_picture(box) and not any(self._touch(box, other) for other in self._taken):
                return box
        return None

    def _inside_picture(self, box: Box) -> bool:
        return box[0] >= 0 and box[1] >= 0 and box[2] <= self._width and box[3] <= self._height

    def _within(self, box: Box) -> Box | None:
        """Moved into the picture; None when it then lies on another text or does not fit."""
        x = min(max(box[0], 1), self._width - 1 - (box[2] - box[0]))
        y = min(max(box[1], 1), self._height - 1 - (box[3] - box[1]))
        moved = x, y, x + box[2] - box[0], y + box[3] - box[1]
        if not self._inside_picture(moved) or any(self._touch(moved, other) for other in self._taken):
            return None
        return moved

    def _touch(self, one: Box, other: Box) -> bool:
        gap = self._gap
        return (
            one[0] < other[2] + gap
            and other[0] < one[2] + gap
            and one[1] < other[3] + gap
            and other[1] < one[3] + gap
        )
