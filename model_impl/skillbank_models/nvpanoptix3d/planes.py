"""Target of the multi-plane occupancy head: which depth bins of a pixel are near a surface.

Letters: `G` side of the grid, `D` depth bins, `h w` image plane of the 3D stage.

Source: BUOL (Chu et al. 2023), section 3.3. Differs under the rule "measured": where voxels are larger than
pixels, the pixels between their centres are looked up in the volume, so the target has no holes near the
camera or in coarse grids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.dilation import dilate
from skillbank_models.nvpanoptix3d.frustum import KeptVoxels

__all__ = ["plane_target"]


def plane_target(
    occupied: Tensor,
    kept: KeptVoxels,
    *,
    inside: Tensor,
    bins: int,
    far: float,
    plane: tuple[int, int],
) -> Tensor:
    """Bins near a surface, seen or hidden.

    Args:
        occupied: (G, G, G) bool, voxels near a surface.
        kept: of the image's view and of `plane`, on the device of `occupied`.
        inside: (G, G, G) bool, voxels of the frustum; others are not looked at.
        bins: D, equal parts of the depth up to `far`.
        far: end of the last bin, metres.
        plane: h and w.

    Returns:
        (D, h, w) bool, grown by one bin and one pixel in all directions.
    """
    height, width = plane
    taken = (occupied & inside).view(-1)  # (G * G * G,)
    rows = taken.index_select(0, kept.keys).nonzero().view(-1)  # (N,)
    depth_bin = kept.bins(bins, far).index_select(0, rows)
    cells = depth_bin.long() * (height * width) + kept.pixels.index_select(0, rows)  # (N,)
    target = torch.zeros(bins * height * width, dtype=torch.bool, device=occupied.device)
    target[cells] = True
    target = target.view(bins, height, width)
    if kept.view.rule == "measured":
        target |= _looked_up(taken, kept.view, bins, far, plane)
    return dilate(target, 1, axes=3)


def _looked_up(taken: Tensor, view: View, bins: int, far: float, plane: tuple[int, int]) -> Tensor:
    """Whether the middle of each (bin, pixel) lies in a voxel that is taken, (D, h, w) bool."""
    height, width = plane
    camera, grid, device = view.camera.scaled(width, height), view.grid, taken.device
    depth = (torch.arange(bins, device=device) + 0.5) * (far / bins)  # (D,)
    across = (torch.arange(width, device=device) - camera.cx) / camera.fx  # (w,)
    down = (torch.arange(height, device=device) - camera.cy) / camera.fy  # (h,)
    x, across_in = _voxels(depth[:, None] * across, grid.voxel, view.origin[0], grid.side)  # (D, w)
    y, down_in = _voxels(depth[:, None] * down, grid.voxel, view.origin[1], grid.side)  # (D, h)
    z, deep_in = _voxels(depth, grid.voxel, view.origin[2], grid.side)  # (D,)
    deep_in &= (depth >= grid.near) & (depth <= grid.far)
    keys = x[:, None, :] * grid.side**2 + (y * grid.side + z[:, None])[:, :, None]  # (D, h, w)
    found = taken.index_select(0, keys.view(-1)).view(bins, height, width)
    found &= across_in[:, None, :]
    found &= (down_in & deep_in[:, None])[:, :, None]
    return found


def _voxels(metres: Tensor, edge: float, origin: float, side: int) -> tuple[Tensor, Tensor]:
    """Number of the voxel along one axis, int32, and whether the grid has it."""
    place = (metres / edge + (origin + 0.5)).floor_()
    return place.clamp(0, side - 1).int(), (place >= 0) & (place < side)
