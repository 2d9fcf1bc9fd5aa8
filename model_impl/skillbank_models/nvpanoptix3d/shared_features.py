"""Features of voxels many of which show the same pixel: one row for a pixel, and which row a voxel has.

Letters: `N` voxels, `P` pixels, `C D` channels, `T` taps of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skillbank_models.layers.linear import linear
from skillbank_models.nvpanoptix3d.frustum_blocks import at_least_32_bits
from skillbank_models.sparse.kernel_maps import submanifold_map
from skillbank_models.sparse.layers import SubmanifoldConv3d
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = ["SharedFeatures", "shared_convolution"]


@dataclass(frozen=True, slots=True, eq=False)
class SharedFeatures:
    """A sparse tensor whose rows repeat; reads like a `SparseTensor`.

    Attributes:
        table: (P, C) different rows.
        rows: (N,) int64, the row of each voxel.
        sites: the N voxels.
    """

    table: Tensor
    rows: Tensor
    sites: Sites

    @property
    def features(self) -> Tensor:
        """(N, C), a copy of a row for each voxel."""
        return self.table.index_select(0, self.rows)

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

    def with_table(self, table: Tensor) -> SharedFeatures:
        """Other channels (P, C')."""
        return SharedFeatures(table, self.rows, self.sites)

    def moved(self, keep: Tensor | None, sites: Sites) -> SharedFeatures:
        """The kept ones of the voxels, (N,) bool or all, under sites that name them."""
        return SharedFeatures(self.table, self.rows if keep is None else self.rows[keep], sites)

    def spread(self) -> SparseTensor:
        """The same with a row for each voxel."""
        return SparseTensor(self.features, self.sites)

    def to(self, device: torch.device | str) -> SharedFeatures:
        """The same on another device."""
        return SharedFeatures(self.table.to(device), self.rows.to(device), self.sites.to(device))


def shared_convolution(x: SharedFeatures, layer: SubmanifoldConv3d) -> SparseTensor:
    """What `layer` makes of ``x.spread()``, without the rows of all voxels.

    A convolution is linear, so the rows of the table go through the taps before they are spread: the products
    are as wide as the output, and there are as many as pixels, not as voxels.

    Args:
        x: (P, C) shared.
        layer: weights (T, C, D), without bias.

    Returns:
        (N, D), in 32 bits or more.
    """
    taps, _, width = layer.weight.shape
    assert layer.bias is None
    count = len(x.table)
    weight = layer.weight.transpose(1, 2).flatten(0, 1)  # (T D, C)
    # 27 of them are added up, so not in half precision
    products = at_least_32_bits(linear(x.table, weight, None)).view(count * taps, width)  # (P T, D)
    products = torch.cat([products, products.new_zeros(1, width)])  # (P T + 1, D)
    neighbours = submanifold_map(x.sites, 3).reads[0].rows  # (N, T), N where there is none
    table_row = torch.cat([x.rows, x.rows.new_full((1,), count)]) * taps  # (N + 1,)
    places = table_row[neighbours.long()] + torch.arange(taps, device=x.rows.device)  # (N, T)
    places.clamp_(max=count * taps)
    found = F.embedding_bag(places, products, mode="sum", padding_idx=count * taps)  # (N, D)
    return SparseTensor(found, x.sites)
