"""Which voxels go on to the next resolution of the frustum decoder.

Letters: `B` batch, `N` voxels, `S` side of a grid.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from skillbank_models.sparse.functional import best_first, keep_best, prune
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = ["affordable_parents", "capped", "coarse_frustum", "survivors"]

CHILDREN = 64  # of a voxel under a generative convolution of kernel 4 and stride 2


def coarse_frustum(frusta: Tensor, factor: int) -> Tensor:
    """Cells with a voxel inside the frustum.

    Args:
        frusta: (B, S, S, S) bool.
        factor: voxels of a cell along an axis.

    Returns:
        (B, S / factor, S / factor, S / factor) bool.

    Source: Uni-3D. Differs: that one looks at the first two of four voxels along each axis, which loses cells
    at one side of the frustum.
    """
    side = frusta.shape[-1] // factor
    blocks = frusta.view(-1, side, factor, side, factor, side, factor)  # (B, S', f, S', f, S', f)
    return blocks.any(6).any(4).any(2)  # (B, S', S', S')


def survivors(logits: Tensor, sites: Sites) -> Tensor:
    """Voxels that are more likely occupied than not; all of an image where none is.

    Losses stay defined that way while the network does not know better.

    Args:
        logits: (N,) of being occupied.
        sites: the voxels.

    Returns:
        (N,) bool.
    """
    keep = logits > 0.0
    image = sites.coords[:, 0].long()
    kept = torch.zeros(sites.batch_size, dtype=torch.long, device=keep.device)
    kept = kept.index_add(0, image, keep.long())  # (B,)
    return keep | (kept == 0)[image]


def capped(x: SparseTensor, scores: Tensor, most: int) -> tuple[SparseTensor, Tensor]:
    """The voxels with the highest scores, an equal share of `most` in each image, and their scores (N,)."""
    if x.sites.num <= most // x.sites.batch_size:
        return x, scores
    keep = keep_best(scores, x.sites, most)
    return prune(x, keep), scores[keep]


def affordable_parents(sites: Sites, scores: Tensor, within: Tensor, most: int) -> Tensor | None:
    """Parents whose children are no more than an equal share of `most` in each image, highest scores first.

    Children are counted, not made: those of neighbours coincide, so their number follows from the place of
    the parents. The voxels 2 p + {0..3} of a parent p are the eighths of the cells p + {0, 1}.

    Args:
        sites: N parents.
        scores: (N,).
        within: (B, 2 S, 2 S, 2 S) bool, where children may be.
        most: children of all images.

    Returns:
        (N,) bool, or None when all of them are.
    """
    if sites.num * CHILDREN <= most // sites.batch_size:
        return None
    side, number, device = sites.side, sites.num, sites.device
    order, starts = best_first(scores, sites)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(number, device=device)
    image, *place = sites.coords.long().unbind(1)
    first = torch.full((within.shape[0] * side**3,), number, device=device)  # (B S S S), best parent's rank
    for offset in itertools.product((0, 1), repeat=3):
        x, y, z = (axis + step for axis, step in zip(place, offset, strict=True))
        inside = torch.stack([x, y, z]).amax(0) < side
        cell = ((image * side + x) * side + y) * side + z
        # a parent whose cell is beyond the grid competes for one that it has anyway
        own = ((image * side + place[0]) * side + place[1]) * side + place[2]
        first.scatter_reduce_(0, torch.where(inside, cell, own), rank, "amin")
    children = within.view(-1, side, 2, side, 2, side, 2).sum(dim=(2, 4, 6)).flatten()  # (B S S S)
    new = torch.zeros(number + 1, dtype=torch.long, device=device).index_add(0, first, children)
    total = new.cumsum(0)[rank]  # (N,), of the parents up to this one, of all images so far
    before = torch.cat([new.new_zeros(1), new.cumsum(0)])[starts][image]  # (N,), of earlier images
    return total - before <= most // sites.batch_size
