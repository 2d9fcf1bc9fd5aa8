"""What the voxels of a level of the frustum decoder should say, read from a volume where it is asked for.

Nothing of the size of a volume is made: coarse values are interpolated at the voxels in question only, and
coarse masks follow from the labelled voxels.

Letters: `G` side of the volume, `N` voxels of a level, `S` its side, `M` labelled voxels, `n` masks.

Source: reduction of the targets of Uni-3D (Zhang et al. 2023).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from skillbank_models.nvpanoptix3d.batch import VolumeTarget

__all__ = ["LabelledVoxels", "interpolated", "labelled_voxels", "masks_at", "values_at"]


def values_at(volume: Tensor, coords: Tensor, side: int) -> Tensor:
    """Values of a volume at voxels of its own or a coarser side.

    Args:
        volume: (G, G, G).
        coords: (N, 3) integers, 0 <= x, y, z < side.
        side: S, with G a multiple of it.

    Returns:
        (N,) float32.
    """
    if volume.shape[-1] != side:
        return interpolated(volume, coords, side)
    x, y, z = coords.long().unbind(1)
    return volume[x, y, z].float()  # (N,)


def interpolated(volume: Tensor, coords: Tensor, side: int) -> Tensor:
    """Trilinear values of a volume that is reduced to a side so that its corners stay in place.

    As `torch.nn.functional.interpolate` with ``align_corners=True``, which the published targets are made
    with, at some voxels only.

    Args:
        volume: (G, G, G) of any type.
        coords: (N, 3) integers, 0 <= x, y, z < side.
        side: of the reduced volume, at least 2.

    Returns:
        (N,) float32.
    """
    fine = volume.shape[-1]
    place = coords.float() * ((fine - 1) / (side - 1))  # (N, 3)
    low = place.long().clamp(max=fine - 2)  # (N, 3)
    share = place - low  # (N, 3)
    flat = volume.reshape(-1)
    found = torch.zeros(len(coords), device=volume.device)
    for corner in itertools.product((0, 1), repeat=3):
        step = torch.tensor(corner, device=volume.device)
        x, y, z = (low + step).unbind(1)
        weight = torch.where(step.bool(), share, 1.0 - share).prod(1)  # (N,)
        found += weight * flat[(x * fine + y) * fine + z].float()
    return found


class LabelledVoxels:
    """Voxels of a volume that belong to a mask.

    Attributes:
        coords: (M, 3) int64.
        owners: (M,) int64, row of the mask in the image's `MaskTarget`.
        side: G.
    """

    def __init__(self, coords: Tensor, owners: Tensor, side: int) -> None:
        self.coords = coords
        self.owners = owners
        self.side = side


def labelled_voxels(target: VolumeTarget) -> LabelledVoxels:
    """The voxels of a volume that belong to a mask."""
    coords = target.owner.nonzero()  # (M, 3)
    x, y, z = coords.unbind(1)
    return LabelledVoxels(coords, target.owner[x, y, z].long() - 1, target.owner.shape[-1])


def masks_at(labelled: LabelledVoxels, coords: Tensor, side: int, rows: Tensor) -> Tensor:
    """Which voxels of a level are in which mask.

    A coarse voxel is in a mask that has a voxel within twice its own size: a max-pool of kernel ``2 r``,
    stride ``r`` and padding ``r / 2`` for a reduction by r. So each labelled voxel reaches two coarse ones
    along each axis.

    Args:
        labelled: voxels of the image's masks.
        coords: (N, 3) integers, unique, 0 <= x, y, z < side.
        side: S, a quarter, half or all of the volume's.
        rows: (n,) int64, the masks asked for, each once.

    Returns:
        (n, N) bool.
    """
    device = coords.device
    place = _flat(coords.long(), side)
    index = torch.full((side**3,), -1, dtype=torch.int32, device=device)  # voxel -> its row in coords
    index[place] = torch.arange(len(coords), dtype=torch.int32, device=device)
    known = int(labelled.owners.max()) + 1 if len(labelled.owners) else 0
    wanted = torch.full((known + 1,), -1, dtype=torch.long, device=device)  # mask -> its place in rows
    asked = rows < known
    wanted[rows[asked]] = asked.nonzero()[:, 0]
    column = wanted[labelled.owners]  # (M,)
    found = torch.zeros(len(rows) + 1, len(coords) + 1, dtype=torch.bool, device=device)  # last: of no use
    for reached, ok in _reached(labelled, side):
        row = index[_flat(reached, side).clamp(0, side**3 - 1)].long()
        row = torch.where(ok & (row >= 0), row, len(coords))
        found[torch.where(column >= 0, column, len(rows)), row] = True
    return found[:-1, :-1]


def _reached(labelled: LabelledVoxels, side: int) -> list[tuple[Tensor, Tensor]]:
    """Coarse voxels (M, 3) that labelled ones reach, in one or eight steps, and (M,) bool: there is one."""
    factor = labelled.side // side
    if factor == 1:
        return [(labelled.coords, torch.ones_like(labelled.owners, dtype=torch.bool))]
    # cell c has the voxels r c - r / 2 .. r c + 3 r / 2 - 1, so v is in (v + r / 2) // r and the one before
    last = (labelled.coords + factor // 2) // factor  # (M, 3)
    found = []
    for back in itertools.product((0, 1), repeat=3):
        cell = last - torch.tensor(back, device=last.device)
        found.append((cell, ((cell >= 0) & (cell < side)).all(1)))
    return found


def _flat(coords: Tensor, side: int) -> Tensor:
    x, y, z = coords.unbind(1)
    return (x * side + y) * side + z
