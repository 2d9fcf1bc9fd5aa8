"""Voxels that a camera sees, and the pixel of each: computed once for a view and kept.

Letters: `G` side of the grid, `N` voxels, `h w` image plane of the 3D stage.

Source: voxel-to-pixel map of BUOL (Chu et al. 2023), chtsy/buol `utils/back_projection.py`. It stores five
numbers for each voxel of the cube, 335 MB; only those of the visible voxels are kept here, 32 MB. Differs
under the rule "measured": a voxel is where its centre is, and belongs to the pixel whose centre is nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillbank.errors import DataError
from skillbank_models.nvpanoptix3d.camera import STORED_SIDE, Camera, Grid, View
from skillbank_models.nvpanoptix3d.views import box_origin, lattice_origin, reduced

__all__ = ["KeptVoxels", "check_camera", "frustum_mask", "kept_voxels", "published_shift"]

_REMEMBERED = 4  # views; the maps of one take 32 MB and its mask 17 MB at 256 voxels per side
_SLAB = 32  # layers of voxels that are looked through at once, so that their numbers take little memory
_ROUNDING_M = 1e-6  # a voxel exactly at the near or far end is inside


@dataclass(frozen=True, slots=True, eq=False)
class KeptVoxels:
    """Voxels between the near and far end whose centre is in the image; shared, so not to be written.

    Attributes:
        view: what they were computed for.
        plane: height and width of the image plane.
        keys: (N,) int32, ascending, ``(x * G + y) * G + z``.
        pixels: (N,) int32, ``row * width + column`` of the pixel that sees the voxel.
        depth: (N,) float32, metres along z.
    """

    view: View
    plane: tuple[int, int]
    keys: Tensor
    pixels: Tensor
    depth: Tensor

    @property
    def coords(self) -> Tensor:
        """(N, 3) int16, x, y, z."""
        side = self.view.grid.side
        places = (self.keys // side**2, self.keys // side % side, self.keys % side)
        return torch.stack([place.short() for place in places], 1)  # (N, 3)

    @property
    def rows(self) -> Tensor:
        """(N,) int16 pixel rows."""
        return (self.pixels // self.plane[1]).short()

    @property
    def columns(self) -> Tensor:
        """(N,) int16 pixel columns."""
        return (self.pixels % self.plane[1]).short()

    def bins(self, count: int, far: float) -> Tensor:
        """(N,) int16, the depth bin of each voxel when `far` metres are cut into `count` of them."""
        return (self.depth * count / far).to(torch.int16).clamp_(max=count - 1)


def frustum_mask(view: View, device: torch.device | str) -> Tensor:
    """Which voxels the camera can see, (G, G, G) bool; shared, so not to be written.

    A voxel is inside when its centre projects into 0 <= u <= width, 0 <= v <= height and is not nearer than
    the near end nor farther than the far end.
    """
    return _mask(view, torch.device(device))


def kept_voxels(view: View, plane: tuple[int, int], device: torch.device | str) -> KeptVoxels:
    """Voxels that some pixel of the plane sees, whether or not a stored frustum mask has them.

    Args:
        view: camera and grid.
        plane: height and width of the image plane.
        device: where the maps are wanted.

    Returns:
        About 2.65 million rows for a 3D-Front image at 256 voxels per side.
    """
    return _kept(view, plane, torch.device(device))


def published_shift(grid: Grid) -> int:
    """Voxels by which the published lifting moves what it has looked up to lower numbers."""
    return 1 if grid.factor == 1 else 0


def check_camera(camera: Camera, grid: Grid) -> None:
    """Refuse a camera whose frustum is larger than the grid.

    Raises:
        DataError: says which extent is too large and what would fit.
    """
    edge = grid.voxel / grid.factor
    _, size = box_origin(camera, edge=edge, side=STORED_SIDE, near=grid.near, far=grid.far)
    if max(size) <= STORED_SIDE:
        return
    width, height, deep = (int(number) for number in size)
    needed = math.ceil(edge * max(size) / STORED_SIDE * 1000 + 1) / 1000
    ways = [f"set model.projection.voxel_size={needed:g}"]
    ways += [
        f"crop images to a {name} of {int(STORED_SIDE * edge * focal / grid.far)} px"
        for name, focal, extent in (("width", camera.fx, width), ("height", camera.fy, height))
        if extent > STORED_SIDE
    ]
    if deep > STORED_SIDE:
        ways.append(f"set dataset.depth_max={grid.near + STORED_SIDE * edge:g}")
    raise DataError(
        f"camera: up to {grid.far:g} m it sees {width} x {height} x {deep} voxels of {edge:g} m "
        f"(fx {camera.fx:g}, fy {camera.fy:g} px, image {camera.width} x {camera.height}); "
        f"the grid has {STORED_SIDE} along each axis.",
        hint=", or ".join(ways),
        key="model.projection.voxel_size",
        value=edge,
    )


@lru_cache(maxsize=_REMEMBERED)
def _mask(view: View, device: torch.device) -> Tensor:
    across, down, depth = _projected(view.camera, view.grid, lattice_origin(view))
    columns_in = (across >= 0) & (across <= view.camera.width) & _between(depth, view.grid)
    return _seen(columns_in, (down >= 0) & (down <= view.camera.height), device)


@lru_cache(maxsize=_REMEMBERED)
def _kept(view: View, plane: tuple[int, int], device: torch.device) -> KeptVoxels:
    height, width = plane
    camera = view.camera.scaled(width, height)
    published = view.rule == "published"
    origin = _published_origin(camera, view.grid) if published else view.origin
    across, down, depth = _projected(camera, view.grid, origin)
    if not published:
        across, down = across + 0.5, down + 0.5  # so that the whole part is the nearest pixel
    columns_in = (across >= 0) & (across < width) & _between(depth, view.grid)
    rows_in = (down >= 0) & (down < height)
    with torch.inference_mode(False), torch.no_grad():  # what is kept may be used in training later
        columns, rows = _whole(across, width, device), _whole(down, height, device)  # (G, G) both
        depths = torch.from_numpy(np.nan_to_num(depth)).float().to(device)  # (G,)
        found = []
        for start in range(0, view.grid.side, _SLAB):
            slab = slice(start, start + _SLAB)
            x, y, z = _seen(columns_in[slab], rows_in, device).nonzero().unbind(1)  # (N',) each
            keys = ((x + start) * view.grid.side + y).mul_(view.grid.side).add_(z)
            found.append((keys.int(), rows[y, z] * width + columns[slab][x, z], depths[z]))
        keys, pixels, metres = (torch.cat(parts) for parts in zip(*found, strict=True))  # (N,) each
        return KeptVoxels(view, plane, keys, pixels, metres)


def _projected(
    camera: Camera, grid: Grid, origin: tuple[float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Column for each (x, z), row for each (y, z), depth for each z; nan behind the camera."""
    x, y, z = ((np.arange(grid.side, dtype=np.float64) - place) * grid.voxel for place in origin)
    z[z <= 0] = np.nan
    return camera.fx * x[:, None] / z + camera.cx, camera.fy * y[:, None] / z + camera.cy, z


def _between(depth: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    return (depth >= grid.near - _ROUNDING_M) & (depth <= grid.far + _ROUNDING_M)


def _seen(columns: NDArray[np.bool_], rows: NDArray[np.bool_], device: torch.device) -> Tensor:
    """Join what holds for (x, z) and for (y, z) to (G, G, G)."""
    with torch.inference_mode(False):
        across, down = torch.from_numpy(columns).to(device), torch.from_numpy(rows).to(device)
        return across[:, None, :] & down[None, :, :]  # (G, G, G)


def _whole(places: NDArray[np.float64], size: int, device: torch.device) -> Tensor:
    whole = np.clip(np.floor(np.nan_to_num(places)), 0, size - 1)
    return torch.from_numpy(whole.astype(np.int32)).to(device)


def _published_origin(camera: Camera, grid: Grid) -> tuple[float, float, float]:
    """The published lifting keeps half voxels in the margin of the box, and looks one voxel further."""
    place, _ = box_origin(
        camera, edge=grid.voxel / grid.factor, side=STORED_SIDE, near=grid.near, far=grid.far, whole=False
    )
    x, y, z = reduced(place, grid.factor)
    shift = published_shift(grid)
    return x + shift, y + shift, z + shift
