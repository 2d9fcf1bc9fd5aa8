"""Where a camera looks in the grid, and points in metres from pixels and voxels.

Axes: image u right, v down, pixel centres at whole numbers; camera x right, y down, z forward, metres; grid
axis 0 = x, 1 = y, 2 = z. Letters: `N` points, `G` side of the grid, `h w` image plane of the 3D stage.

Source: the frustum box of "Panoptic 3D Scene Reconstruction from a Single RGB Image" (Dahnert et al. 2021),
as Uni-3D (Zhang et al. 2023) and BUOL (Chu et al. 2023) inherit it: mlpc-ucsd/Uni-3D
`modeling/reconstruction/frustum.py`. Differs under the rule "measured": see `view_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skillbank.errors import DataError, ShapeError
from skillbank_models.nvpanoptix3d.camera import Camera, Grid, View

__all__ = [
    "backproject",
    "box_origin",
    "camera_from_matrix",
    "coarser",
    "frustum_box",
    "lattice_origin",
    "reduced",
    "to_metres",
    "view_of",
]

Triple = tuple[float, float, float]

# Stored volumes begin one voxel later in z than the box; exact on the Matterport3D sample.
_LATTICE: Triple = (0.0, 0.0, 1.0)
# 3D-Front volumes lie this much further, in stored voxels. With it the depth of the public sample meets
# labels (|d| < 1) at 99.5 % of its pixels and the mean |d| is 0.35; with (0, 0.75, 0) at 98.7 % and 0.43; as
# published at 58.5 % and 1.45.
_FRONT3D_SHIFT: Triple = (0.0, 0.75, 0.25)
_ROUNDING = 1e-6  # voxels; a box that is a whole number of voxels must not need one more


def frustum_box(camera: Camera, near: float, far: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corner of what the camera sees between two depths, metres, (3,) each."""
    corners = [
        ((u - camera.cx) / camera.fx * depth, (v - camera.cy) / camera.fy * depth, depth)
        for u in (0, camera.width)
        for v in (0, camera.height)
        for depth in (near, far)
    ]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def box_origin(
    camera: Camera, *, edge: float, side: int, near: float, far: float, whole: bool = True
) -> tuple[Triple, Triple]:
    """Place of the camera when the box of its frustum is centred in a cube, and the box's size.

    Args:
        camera: of the image.
        edge: of a voxel, metres.
        side: voxels along an axis of the cube.
        near: begin of the frustum, metres.
        far: its end.
        whole: the margin before the box is rounded down to whole voxels.

    Returns:
        The place in voxels along x, y, z; and the whole voxels that the box takes along each.
    """
    low, high = frustum_box(camera, near, far)
    size = np.ceil((high - low) / edge - _ROUNDING)
    margin = (side - size) / 2
    place = -low / edge + (np.floor(margin) if whole else margin)
    return _triple(place), _triple(size)


def view_of(camera: Camera, grid: Grid, *, shifted: bool, rule: Literal["measured", "published"]) -> View:
    """Place a camera in the grid, at the place the stored volumes were made for.

    Take the camera of the image as stored, before it is resized, cropped or mirrored; resizing and cropping
    keep the place, so the new camera is put into the view with `dataclasses.replace`; see `View.mirrored`.

    Under the rule "measured" a point P is in voxel ``round(P / edge + t)`` of the stored volume, with t the
    camera's place in the box plus (0, 0, 1), and for 3D-Front (0, 0.75, 0.25) more. The rule "published"
    takes ``floor(P / edge + t')`` with t' without these, which misses the labels by 1.2 to 1.7 voxels; its
    half voxel is made part of the view's origin, ``round(P / edge + t' - 0.5)``, so both rules read the same.

    Args:
        camera: of the image as stored.
        grid: of the model; one coarser than the stored volumes sees the same room, so r stored voxels become
            one and t becomes (t - (r - 1) / 2) / r.
        shifted: the volumes are those of 3D-Front, or made like them.
        rule: see above.
    """
    edge = grid.voxel / grid.factor
    place, _ = box_origin(camera, edge=edge, side=_stored(grid), near=grid.near, far=grid.far)
    if rule == "published":
        return View(camera, grid, reduced(_plus(place, (-0.5, -0.5, -0.5)), grid.factor), rule)
    place = _plus(place, _LATTICE)
    if shifted:
        place = _plus(place, _FRONT3D_SHIFT)
    return View(camera, grid, reduced(place, grid.factor), rule)


def lattice_origin(view: View) -> Triple:
    """The camera's place for the test which voxels are inside the frustum.

    Along z it follows the box alone, since that is how stored frustum masks were made: the one of the
    Matterport3D sample comes out voxel for voxel, that of 3D-Front with an overlap of 0.996. The rule
    "published" puts the optical axis and the middle of the depth range in the middle of the cube.
    """
    grid = view.grid
    edge, side = grid.voxel / grid.factor, _stored(grid)
    if view.rule == "published":
        middle = side / 2
        return reduced((middle, middle, middle - (grid.near + grid.far) / 2 / edge), grid.factor)
    deep = math.ceil((grid.far - grid.near) / edge - _ROUNDING)
    forward = math.floor((side - deep) / 2) - grid.near / edge + _LATTICE[2]
    return view.origin[0], view.origin[1], reduced((0.0, 0.0, forward), grid.factor)[2]


def coarser(view: View, stride: int) -> View:
    """The same camera in a grid whose voxels are `stride` times as large.

    The published rule places the box anew, since its margin is rounded to the larger voxels there.
    """
    grid = replace(view.grid, side=view.grid.side // stride, voxel=view.grid.voxel * stride)
    if view.rule == "measured" or stride == 1:
        return replace(view, grid=grid, origin=reduced(view.origin, stride))
    place, _ = box_origin(view.camera, edge=grid.voxel, side=grid.side, near=grid.near, far=grid.far)
    return replace(view, grid=grid, origin=_plus(place, (-0.5, -0.5, -0.5)))


def reduced(origin: Triple, factor: int) -> Triple:
    """A place in voxels, in voxels `factor` times as large."""
    x, y, z = ((place - (factor - 1) / 2) / factor for place in origin)
    return x, y, z


def to_metres(places: Tensor, view: View) -> Tensor:
    """Points (N, 3) in the camera's frame, metres, of places (N, 3) in voxels; whole numbers are centres."""
    return (places - places.new_tensor(view.origin)) * view.grid.voxel


def backproject(depth: Tensor, camera: Camera) -> Tensor:
    """Points that a depth map shows.

    Args:
        depth: (h, w) metres along z, over the whole image of the camera, at any resolution.
        camera: of the image.

    Returns:
        (h, w, 3) float32 metres in the camera's frame; the camera itself, (0, 0, 0), where depth is 0.
    """
    height, width = depth.shape
    plane = camera.scaled(width, height)
    depth = depth.float()
    across = (torch.arange(width, device=depth.device) - plane.cx) / plane.fx  # (w,)
    down = (torch.arange(height, device=depth.device) - plane.cy) / plane.fy  # (h,)
    return torch.stack((across * depth, down[:, None] * depth, depth), dim=-1)  # (h, w, 3)


def camera_from_matrix(matrix: ArrayLike, width: int, height: int) -> Camera:
    """A camera from the intrinsic matrix of an image of this size.

    Args:
        matrix: 3 x 3, or 4 x 4 as Matterport3D stores it, or the same numbers in one row.
        width: of the image the matrix belongs to.
        height: of that image.

    Raises:
        ShapeError: neither 9 nor 16 numbers.
        DataError: no pinhole camera: numbers that are not finite, focal lengths that are not positive, skew.
    """
    given = np.asarray(matrix, dtype=np.float64)
    if given.size not in (9, 16):
        raise ShapeError(
            f"camera matrix: it has the shape {given.shape}; it must be 3 x 3 or 4 x 4.",
            hint="give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the image",
        )
    values = given.reshape(3, 3) if given.size == 9 else given.reshape(4, 4)[:3, :3]
    wrong = _matrix_fault(values)
    if wrong:
        raise DataError(
            f"camera matrix: {wrong}; it must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy above 0.",
            hint="give the intrinsics in pixels of the image, without skew",
            value=values.tolist(),
        )
    scale = values[2, 2]
    fx, fy, cx, cy = (float(values[place] / scale) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Camera(fx, fy, cx, cy, width, height)


def _matrix_fault(values: NDArray[np.float64]) -> str:
    if not np.isfinite(values).all():
        return "not all numbers are finite"
    if values[2, 2] <= 0 or values[2, 0] or values[2, 1]:
        return f"its last row is {values[2].tolist()}"
    for name, value in (("fx", values[0, 0]), ("fy", values[1, 1])):
        if value <= 0:
            return f"{name} is {value:g}"
    if max(abs(values[0, 1]), abs(values[1, 0])) > 1e-6 * values[0, 0]:
        return f"it has the skew {values[0, 1]:g}, {values[1, 0]:g}"
    return ""


def _stored(grid: Grid) -> int:
    return grid.side * grid.factor


def _triple(values: Sequence[float] | NDArray[np.float64]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _plus(first: Triple, second: Triple) -> Triple:
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]
