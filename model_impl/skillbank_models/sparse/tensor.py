"""Sparse volumes: which voxels there are, and a row of channels for each.

Letters: `B` batch, `N` voxels, `C` channels, `S` side of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from skillbank.errors import ShapeError

__all__ = ["Sites", "SparseTensor", "linear_keys", "unique_keys"]

T = TypeVar("T")


class Sites:
    """Voxels of a batch of cubic grids.

    Their order is fixed: by image, x, y, z. Whatever follows from them alone, such as the neighbours of each
    voxel, is computed once and kept here, so tensors of the same voxels should share one object.

    Attributes:
        coords: (N, 4) int32 rows [image, x, y, z], 0 <= x, y, z < side, unique and sorted.
        side: voxels along an axis.
        batch_size: images; some may have no voxel.
    """

    def __init__(self, coords: Tensor, side: int, batch_size: int) -> None:
        """Take rows that are unique, sorted and inside the grid, which is not checked; else see `of`."""
        if coords.dim() != 2 or coords.shape[1] != 4 or coords.dtype != torch.int32:
            raise ShapeError(
                f"voxels: coordinates {tuple(coords.shape)} of {coords.dtype}; they must be (N, 4) int32.",
                hint="pass rows [image, x, y, z], for example through Sites.of",
            )
        self.coords = coords
        self.side = side
        self.batch_size = batch_size
        self._kept: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, coords: Tensor, side: int, batch_size: int) -> Sites:
        """Sort rows [image, x, y, z] of any integer type and drop repeated ones.

        Raises:
            ShapeError: not (N, 4), or a voxel outside the grid or of an image that there is not.
        """
        if coords.dim() != 2 or coords.shape[1] != 4:
            raise ShapeError(
                f"voxels: coordinates are {tuple(coords.shape)}; they must be (N, 4).",
                hint="pass rows [image, x, y, z]",
            )
        limit = torch.tensor([batch_size, side, side, side], device=coords.device)
        if bool(((coords < 0) | (coords >= limit)).any()):
            low, high = coords.amin(0).tolist(), coords.amax(0).tolist()
            raise ShapeError(
                f"voxels: rows [image, x, y, z] reach from {low} to {high}; "
                f"allowed are images 0..{batch_size - 1} and places 0..{side - 1}.",
                hint="drop voxels outside the grid before making Sites of them",
            )
        return cls.of_keys(unique_keys(linear_keys(coords, side)), side, batch_size)

    @classmethod
    def of_keys(cls, keys: Tensor, side: int, batch_size: int) -> Sites:
        """Voxels of unique sorted linear keys (N,) int64; see `linear_keys`."""
        places = [keys // side**3, keys // side**2 % side, keys // side % side, keys % side]
        sites = cls(torch.stack(places, 1).int(), side, batch_size)  # (N, 4)
        sites._kept["keys"] = keys
        return sites

    def __repr__(self) -> str:
        return f"Sites({self.num} voxels, side={self.side}, batch_size={self.batch_size}, {self.device})"

    @property
    def num(self) -> int:
        """Voxels of all images, N."""
        return self.coords.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the coordinates are."""
        return self.coords.device

    @property
    def keys(self) -> Tensor:
        """(N,) int64 linear keys, ascending."""
        return self.kept("keys", lambda: linear_keys(self.coords, self.side))

    @property
    def counts(self) -> Tensor:
        """(B,) int64, voxels of each image."""
        return self.kept("counts", lambda: torch.bincount(self.coords[:, 0], minlength=self.batch_size))

    @property
    def sizes(self) -> list[int]:
        """Voxels of each image as numbers: rows of an image are one after the other, so this splits them."""
        return self.kept("sizes", lambda: [self.num] if self.batch_size == 1 else self.counts.tolist())

    def kept(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when first asked under this name."""
        if name not in self._kept:
            with torch.inference_mode(False):  # what is kept may meet gradients later
                self._kept[name] = make()
        found: T = self._kept[name]
        return found

    def without_tables(self) -> Sites:
        """The same voxels with nothing kept."""
        return Sites(self.coords, self.side, self.batch_size)

    def to(self, device: torch.device | str) -> Sites:
        """The same voxels on another device; this object when it is there already."""
        coords = self.coords.to(device)
        return self if coords is self.coords else Sites(coords, self.side, self.batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class SparseTensor:
    """Channels of some voxels; all others count as zero.

    Attributes:
        features: (N, C).
        sites: the N voxels.
    """

    features: Tensor
    sites: Sites

    def __post_init__(self) -> None:
        if self.features.dim() != 2 or self.features.shape[0] != self.sites.num:
            raise ShapeError(
                f"sparse tensor: features {tuple(self.features.shape)} for {self.sites.num} voxels; "
                f"they must be ({self.sites.num}, C).",
                hint="pass one row of channels for each voxel, in the order of sites.coords",
            )

    @property
    def coords(self) -> Tensor:
        """(N, 4) int32 rows [image, x, y, z]."""
        return self.sites.coords

    @property
    def side(self) -> int:
        """Voxels along an axis."""
        return self.sites.side

    @property
    def batch_size(self) -> int:
        """Images."""
        return self.sites.batch_size

    def with_features(self, features: Tensor) -> SparseTensor:
        """Other channels (N, C') of the same voxels."""
        return SparseTensor(features, self.sites)

    def to(self, device: torch.device | str) -> SparseTensor:
        """The same on another device."""
        return SparseTensor(self.features.to(device), self.sites.to(device))


def linear_keys(coords: Tensor, side: int) -> Tensor:
    """One int64 number for each row [image, x, y, z], in the order of the rows, (N,)."""
    image, x, y, z = coords.long().unbind(1)
    return ((image * side + x) * side + y) * side + z


def unique_keys(keys: Tensor) -> Tensor:
    """Each number once, ascending; twice as fast as `torch.unique`, which counts, too."""
    unique: Tensor = torch.unique_consecutive(keys.sort().values)
    return unique
