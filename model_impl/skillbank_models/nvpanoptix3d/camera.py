"""Pinhole cameras, and the voxel grid that one looks into.

Axes: image u right, v down; camera x right, y down, z forward, metres; grid axis 0 = x, 1 = y, 2 = z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRONT3D_CAMERA", "STORED_SIDE", "Camera", "Grid", "View"]

STORED_SIDE = 256  # voxels per side of all stored volumes


@dataclass(frozen=True, slots=True)
class Camera:
    """Intrinsics in pixels of an image of `width` x `height`."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled(self, width: int, height: int) -> Camera:
        """The same camera for a resized image.

        Source: 3D-Front readers of Uni-3D: centres scale with ``(size - 1)``.
        """
        across, down = width / self.width, height / self.height
        return Camera(
            self.fx * across,
            self.fy * down,
            _moved(self.cx, width, self.width),
            _moved(self.cy, height, self.height),
            width,
            height,
        )

    def flipped(self, direction: Literal["horizontal", "vertical"]) -> Camera:
        """The camera of the mirrored image."""
        if direction == "horizontal":
            return replace(self, cx=self.width - 1 - self.cx)
        return replace(self, cy=self.height - 1 - self.cy)

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of a part of the image."""
        return replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)

    def matrix(self) -> NDArray[np.float64]:
        """(3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


FRONT3D_CAMERA = Camera(277.1281435, 277.1281435, 159.5, 119.5, 320, 240)


@dataclass(frozen=True, slots=True)
class Grid:
    """A cube of voxels in front of a camera.

    Attributes:
        side: voxels per side; divides `STORED_SIDE`.
        voxel: edge of a voxel of this grid, metres.
        near: where the frustum begins, metres.
        far: where it ends.
    """

    side: int
    voxel: float
    near: float
    far: float

    @property
    def factor(self) -> int:
        """Stored voxels per voxel of this grid, along an axis."""
        return STORED_SIDE // self.side


@dataclass(frozen=True, slots=True)
class View:
    """A camera and its place in the grid: voxel = round(P / voxel + origin) for a point P in metres.

    Hashable, so that what follows from it is computed once.

    Attributes:
        camera: of the image content.
        grid: the grid.
        origin: where the camera is, in voxels along x, y, z.
        rule: "measured", or "published" for the voxels that the published implementation takes.
    """

    camera: Camera
    grid: Grid
    origin: tuple[float, float, float]
    rule: Literal["measured", "published"]

    def mirrored(self, direction: Literal["horizontal", "vertical"]) -> View:
        """The view into the mirrored room: the volume is mirrored along x or y, voxel for voxel."""
        x, y, z = self.origin
        last = self.grid.side - 1
        origin = (last - x, y, z) if direction == "horizontal" else (x, last - y, z)
        return replace(self, camera=self.camera.flipped(direction), origin=origin)


def _moved(centre: float, size: int, old: int) -> float:
    """Place of the centre on a side of another length."""
    if old > 1:
        return centre * (size - 1) / (old - 1)
    return (centre + 0.5) * size - 0.5  # from one pixel, whose two ends are the only places that are known
