"""What is done with sparse volumes besides convolution.

All of it works with no voxel at all, and with images that have none.

Letters: `B` batch, `N` voxels, `M` other voxels, `C` channels, `S` side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.sparse.kernel_maps import coarse_sites, kept_scaling_map
from skillbank_models.sparse.tensor import Sites, SparseTensor, linear_keys, unique_keys

__all__ = [
    "best_first",
    "from_dense",
    "keep_best",
    "lookup",
    "max_pool",
    "prune",
    "sample_dense",
    "to_dense",
    "union",
]

POOL_BLOCK = 2**22  # gathered numbers at a time


def union(parts: Sequence[SparseTensor]) -> SparseTensor:
    """Voxels of any part; channels one part after the other, zero where a part has no voxel.

    Parts that share one `Sites` object cost nothing but the concatenation.

    Raises:
        ShapeError: the parts are of other grids or batches.
    """
    first = parts[0].sites
    if any((part.side, part.batch_size) != (first.side, first.batch_size) for part in parts):
        raise ShapeError(
            "union of voxels: parts are of (side, batch size) "
            f"{[(part.side, part.batch_size) for part in parts]}; all must be the same.",
            hint="bring the parts to one level, for example by max_pool",
        )
    if all(part.sites is first for part in parts):
        return SparseTensor(torch.cat([part.features for part in parts], 1), first)  # (N, sum of C)
    keys = unique_keys(torch.cat([part.sites.keys for part in parts]))
    sites = Sites.of_keys(keys, first.side, first.batch_size)
    columns = []
    for part in parts:
        rows = torch.searchsorted(keys, part.sites.keys)
        empty = part.features.new_zeros(sites.num, part.features.shape[1])
        columns.append(empty.index_copy(0, rows, part.features))  # (N, C)
    return SparseTensor(torch.cat(columns, 1), sites)  # (N, sum of C)


def prune(x: SparseTensor, keep: Tensor) -> SparseTensor:
    """Only the voxels where `keep` (N,) bool is true."""
    rows = keep.nonzero()[:, 0]
    sites = Sites.of_keys(x.sites.keys.index_select(0, rows), x.side, x.batch_size)
    return SparseTensor(x.features.index_select(0, rows), sites)


def to_dense(x: SparseTensor) -> Tensor:
    """(B, C, S, S, S), zero where there is no voxel."""
    side, channels = x.side, x.features.shape[1]
    dense = x.features.new_zeros(x.batch_size, channels, side, side, side)
    image, i, j, k = x.coords.long().unbind(1)
    dense[image, :, i, j, k] = x.features
    return dense


def from_dense(dense: Tensor, keep: Tensor) -> SparseTensor:
    """The voxels of a dense volume that are to be kept.

    Args:
        dense: (B, C, S, S, S).
        keep: (B, S, S, S) bool.
    """
    keys = keep.flatten().nonzero()[:, 0]
    sites = Sites.of_keys(keys, keep.shape[-1], len(keep))
    return SparseTensor(sample_dense(dense, sites), sites)


def sample_dense(dense: Tensor, sites: Sites) -> Tensor:
    """Values of a dense volume at voxels: (N, C) of (B, C, S, S, S), or (N,) of (B, S, S, S).

    Raises:
        ShapeError: the volume is of another grid or batch.
    """
    side = sites.side
    if dense.dim() not in (4, 5) or len(dense) != sites.batch_size or dense.shape[-3:] != (side,) * 3:
        raise ShapeError(
            f"voxels of a volume: the volume is {tuple(dense.shape)}, the voxels are of {sites}.",
            hint=f"pass ({sites.batch_size}, C, {side}, {side}, {side}) or the same without channels",
        )
    image, i, j, k = sites.coords.long().unbind(1)
    return dense[image, i, j, k] if dense.dim() == 4 else dense[image, :, i, j, k]


def lookup(sites: Sites, coords: Tensor) -> Tensor:
    """Rows of the voxels at `coords` (M, 4) [image, x, y, z], -1 where there is none; (M,) int64."""
    if not sites.num:
        return torch.full((len(coords),), -1, device=coords.device)
    limit = torch.tensor([sites.batch_size, sites.side, sites.side, sites.side])
    inside = ((coords >= 0) & (coords < limit.to(coords.device, non_blocking=True))).all(1)
    keys = linear_keys(coords, sites.side)
    rows = torch.searchsorted(sites.keys, keys).clamp_(max=sites.num - 1)
    found = inside & (sites.keys.index_select(0, rows) == keys)
    return rows.masked_fill_(~found, -1)


def max_pool(x: SparseTensor, *, kernel: int = 3, stride: int = 2) -> SparseTensor:
    """Largest value of each channel among the voxels in a window, at unique floor(coord / 2).

    Windows are those of `StridedConv3d`: 2c-1..2c+1 with kernel 3, 2c..2c+3 with kernel 4.
    """
    assert stride == 2, stride
    coarse = coarse_sites(x.sites)
    table = kept_scaling_map(x.sites, kernel).reads[0].rows  # (M, K)
    channels = x.features.shape[1]
    padded = torch.cat([x.features, x.features.new_full((1, channels), -torch.inf)])  # (N + 1, C)
    winners = torch.empty(coarse.num, channels, dtype=torch.int64, device=table.device)
    step = max(1, POOL_BLOCK // (table.shape[1] * max(1, channels)))
    for start in range(0, coarse.num, step):
        rows = table[start : start + step]  # (b, K)
        window = padded.detach().index_select(0, rows.view(-1)).view(*rows.shape, channels)  # (b, K, C)
        winners[start : start + step] = rows.long().gather(1, window.argmax(1))  # (b, C)
    return SparseTensor(padded.gather(0, winners), coarse)  # (M, C)


def keep_best(scores: Tensor, sites: Sites, most: int) -> Tensor:
    """The voxels with the highest scores (N,), at most an equal share of `most` in each image; (N,) bool.

    What an image keeps does not depend on what others of its batch look like. Among equal scores the voxel
    that comes first in `sites` is kept, so the choice is the same in every run.
    """
    if sites.num <= most // sites.batch_size:
        return torch.ones(sites.num, dtype=torch.bool, device=scores.device)
    order, starts = best_first(scores, sites)
    place = torch.arange(sites.num, device=scores.device) - starts[sites.coords[order, 0].long()]  # (N,)
    keep = torch.empty(sites.num, dtype=torch.bool, device=scores.device)
    keep[order] = place < most // sites.batch_size
    return keep


def best_first(scores: Tensor, sites: Sites) -> tuple[Tensor, Tensor]:
    """Rows by image, in an image by falling score, (N,); and where each image begins there, (B,)."""
    order = scores.detach().argsort(descending=True, stable=True)
    order = order[sites.coords[order, 0].argsort(stable=True)]  # (N,)
    return order, sites.counts.cumsum(0) - sites.counts
