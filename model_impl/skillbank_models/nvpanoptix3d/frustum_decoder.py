"""Frustum decoder: completes the volume coarse to fine and gives each voxel an embedding for the 3D masks.

Letters: `B` batch, `N` voxels, `Q` queries, `C` channels, `K` classes, `f` base width, `o` width of the
finest level, `G` side of the grid.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from skillbank_models.nvpanoptix3d.frustum_blocks import (
    DenseBlock,
    DenseUp,
    Norm,
    SparseBlock,
    at_least_32_bits,
    run_dense,
    run_sparse,
    sparse_norm,
    sparse_relu,
)
from skillbank_models.nvpanoptix3d.frustum_encoder import CoarseGrids, FrustumEncoder
from skillbank_models.nvpanoptix3d.frustum_pruning import (
    affordable_parents,
    capped,
    coarse_frustum,
    survivors,
)
from skillbank_models.nvpanoptix3d.outputs import FrustumInputs, FrustumLevel, FrustumOutput
from skillbank_models.sparse.functional import from_dense, lookup, prune, sample_dense, union
from skillbank_models.sparse.layers import GenerativeConv3d, SparseLinear, SubmanifoldConv3d
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = ["CoarseLevel", "FineLevel", "FrustumDecoder", "MiddleLevel", "VoxelHead"]


class FrustumDecoder(nn.Module):
    """Lifted features and 2D queries to occupancy, distance and 3D mask embeddings.

    Works at the sides G/4 (full grid), G/2 and G (voxels). Each level says which voxels are occupied and the
    next one refines those. No level has more than `max_voxels` voxels: the most occupied are kept, and where
    children would be too many, fewer parents have some. Generated voxels lie inside the frustum.

    Args:
        sign_channel: distances come as sign and magnitude.
        appearance_channels: of the features that are projected.
        num_classes: K.
        query_dim: channels of a query.
        features: f.
        out_channels: o.
        side: G; a multiple of 32, at least 64.
        truncation: largest distance that is predicted, voxels.
        norm: of voxels; "instance" learns scale and shift, also on full grids, "voxel" is as published.
        multi_scale: `FrustumInputs.scales` are there.
        scale_channels: of these, without the lifted channels behind them.
        max_voxels: most voxels of a batch at one resolution.
        use_checkpoint: recompute activations in the backward pass.

    Source: frustum U-Net of Panoptic 3D (Dahnert et al. 2021) with the mask embeddings of Uni-3D (Zhang et
    al. 2023).
    """

    def __init__(
        self,
        *,
        sign_channel: bool,
        appearance_channels: int,
        num_classes: int,
        query_dim: int,
        features: int,
        out_channels: int,
        side: int,
        truncation: float,
        norm: Norm,
        multi_scale: bool,
        scale_channels: int,
        max_voxels: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        f = features
        self.side = side
        self.encoder = FrustumEncoder(
            sign_channel=sign_channel,
            appearance_channels=appearance_channels,
            num_classes=num_classes,
            features=f,
            norm=norm,
            multi_scale=multi_scale,
            scale_channels=scale_channels,
            max_voxels=max_voxels,
            use_checkpoint=use_checkpoint,
        )
        self.coarse = CoarseLevel(features=f, query_dim=query_dim, norm=norm, use_checkpoint=use_checkpoint)
        self.middle = MiddleLevel(
            features=f, query_dim=query_dim, norm=norm, max_voxels=max_voxels, use_checkpoint=use_checkpoint
        )
        self.fine = FineLevel(
            in_channels=3 * f,
            channels=out_channels,
            query_dim=query_dim,
            truncation=truncation,
            norm=norm,
            max_voxels=max_voxels,
            use_checkpoint=use_checkpoint,
        )
        self.max_voxels = max_voxels

    def forward(
        self, inputs: FrustumInputs, queries: Tensor, frusta: Tensor, *, all_levels: bool = True
    ) -> FrustumOutput:
        """Complete the volume.

        Args:
            inputs: what is lifted into the grid.
            queries: (B, Q, C) of the 2D decoder.
            frusta: (B, G, G, G) bool.
            all_levels: mask embeddings of the coarser levels, too, which losses read and results do not; they
                are two thirds of the work. Without them these embeddings have no channels.
        """
        pyramid = self.encoder(inputs)
        inside = coarse_frustum(frusta, 4)  # (B, G/4, G/4, G/4)
        grid, occupancy = self.coarse(pyramid.grids, inside)
        # (B, 4 f or 0, G/4, G/4, G/4)
        embeds = self.coarse.embeddings(grid) if all_levels else grid[:, :0].clone()
        parents, scores = self._quarter_parents(grid, occupancy, inside, pyramid.quarter)
        encoded = pyramid.half
        del pyramid, grid  # they are large, and what follows is, too
        half, parents, scores = self.middle(
            parents, scores, encoded, queries, coarse_frustum(frusta, 2), embed=all_levels
        )
        full, geometry = self.fine(parents, scores, queries, frusta)
        return FrustumOutput(occupancy, embeds, self.coarse.query(queries), inside, half, full, geometry)

    def _quarter_parents(
        self, grid: Tensor, occupancy: Tensor, inside: Tensor, encoded: SparseTensor
    ) -> tuple[SparseTensor, Tensor]:
        """Occupied cells joined with encoded ones, (N, 6 f), and how occupied each is, (N,)."""
        logits = occupancy.detach()
        keep = (logits > 0.0) & inside
        keep |= inside & ~keep.flatten(1).any(1)[:, None, None, None]  # see `survivors`
        joined = union([from_dense(grid, keep), encoded])  # (N, 6 f)
        return capped(joined, sample_dense(logits, joined.sites), self.max_voxels)


class CoarseLevel(nn.Module):
    """The full grids: decodes the bottom of the pyramid up to side G/4, with its heads."""

    def __init__(self, *, features: int, query_dim: int, norm: Norm, use_checkpoint: bool) -> None:
        super().__init__()
        f = features
        self.use_checkpoint = use_checkpoint
        self.up_sixteenth = DenseUp(8 * f, 8 * f, norm=norm)
        self.up_eighth = DenseUp(16 * f, 4 * f, norm=norm)
        self.up_quarter = DenseUp(8 * f, 2 * f, norm=norm)
        self.occupancy = nn.Conv3d(4 * f, 1, 1)
        self.embed = nn.ModuleList([DenseBlock(4 * f, 4 * f, norm=norm) for _ in range(2)])
        self.query = nn.Linear(query_dim, 4 * f)

    def forward(self, grids: CoarseGrids, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 4 f, G/4, ., .) and occupancy logits (B, G/4, ., .), -inf outside the frustum."""
        x = torch.cat([self.up_sixteenth(grids.bottom), grids.sixteenth], 1)  # (B, 16 f, G/16, ., .)
        x = torch.cat([self.up_eighth(x), grids.eighth], 1)  # (B, 8 f, G/8, ., .)
        x = run_dense(self.up_quarter, x, recompute=self.use_checkpoint)  # (B, 2 f, G/4, ., .)
        x = torch.cat([x, grids.quarter], 1)  # (B, 4 f, G/4, ., .)
        return x, at_least_32_bits(self.occupancy(x)[:, 0]).masked_fill(~inside, -torch.inf)

    def embeddings(self, x: Tensor) -> Tensor:
        """Mask embeddings of the features, of the same shape."""
        for block in self.embed:
            x = run_dense(block, x, recompute=self.use_checkpoint)
        return x


class MiddleLevel(nn.Module):
    """Side G/2: refines the occupied cells, with its heads."""

    def __init__(
        self, *, features: int, query_dim: int, norm: Norm, max_voxels: int, use_checkpoint: bool
    ) -> None:
        super().__init__()
        f = features
        self.max_voxels = max_voxels
        self.use_checkpoint = use_checkpoint
        self.up = GenerativeConv3d(in_channels=6 * f, out_channels=2 * f, kernel=4, stride=2, bias=False)
        self.norm = sparse_norm(norm, 2 * f)
        self.block = SparseBlock(2 * f, 2 * f, norm=norm)
        self.occupancy = SparseLinear(in_channels=2 * f, out_channels=1, bias=True)
        self.embed = SparseBlock(3 * f, 3 * f, norm=norm)
        self.query = nn.Linear(query_dim, 3 * f)

    def forward(
        self,
        parents: SparseTensor,
        scores: Tensor,
        encoded: SparseTensor,
        queries: Tensor,
        within: Tensor,
        *,
        embed: bool,
    ) -> tuple[FrustumLevel, SparseTensor, Tensor]:
        """Predictions, then the parents of the next level, (N, 3 f), and how occupied each is, (N,)."""
        parents = _affordable(parents, scores, within, self.max_voxels)
        x = run_sparse(
            partial(self._children, within=within), parents, recompute=self.use_checkpoint
        )  # (N, 2 f)
        occupancy = _precise(self.occupancy(x))  # (N, 1)
        logits = occupancy.features[:, 0].detach()
        joined = union([prune(x, survivors(logits, x.sites)), encoded])  # (N', 3 f)
        joined, scores = capped(joined, _looked_up(logits, x.sites, joined.sites), self.max_voxels)
        embeds = joined.with_features(joined.features[:, :0])  # (N', 0)
        if embed:
            embeds = run_sparse(self.embed, joined, recompute=self.use_checkpoint)  # (N', 3 f)
        return FrustumLevel(occupancy, embeds, self.query(queries)), joined, scores

    def _children(self, parents: SparseTensor, within: Tensor) -> SparseTensor:
        found: SparseTensor = self.block(sparse_relu(self.norm(self.up(parents, within=within))))
        return found


class FineLevel(nn.Module):
    """Side G: voxels, with its heads."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        query_dim: int,
        truncation: float,
        norm: Norm,
        max_voxels: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.truncation = truncation
        self.max_voxels = max_voxels
        self.use_checkpoint = use_checkpoint
        self.up = GenerativeConv3d(
            in_channels=in_channels, out_channels=channels, kernel=4, stride=2, bias=False
        )
        self.norm = sparse_norm(norm, channels)
        self.occupancy = VoxelHead(channels, norm=norm, start=0.0, use_checkpoint=use_checkpoint)
        # in the middle of the range: where the clamp holds a prediction, it cannot learn
        self.geometry = VoxelHead(channels, norm=norm, start=truncation / 2, use_checkpoint=use_checkpoint)
        self.embed = VoxelHead(channels, norm=norm, start=None, use_checkpoint=use_checkpoint)
        self.query = nn.Linear(query_dim, channels)

    def forward(
        self, parents: SparseTensor, scores: Tensor, queries: Tensor, within: Tensor
    ) -> tuple[FrustumLevel, SparseTensor]:
        """Predictions, and the distance (N, 1) at the voxels that are occupied."""
        parents = _affordable(parents, scores, within, self.max_voxels)
        x = run_sparse(
            partial(self._children, within=within), parents, recompute=self.use_checkpoint
        )  # (N, o)
        occupancy = _precise(run_sparse(self.occupancy, x, recompute=self.use_checkpoint))  # (N, 1)
        kept = prune(x, survivors(occupancy.features[:, 0].detach(), x.sites))  # (N', o)
        distance = _precise(run_sparse(self.geometry, kept, recompute=self.use_checkpoint))  # (N', 1)
        geometry = distance.with_features(distance.features.clamp(0.0, self.truncation))
        embeds = run_sparse(self.embed, kept, recompute=self.use_checkpoint)  # (N', o)
        return FrustumLevel(occupancy, embeds, self.query(queries)), geometry

    def _children(self, parents: SparseTensor, within: Tensor) -> SparseTensor:
        return sparse_relu(self.norm(self.up(parents, within=within)))


class VoxelHead(nn.Module):
    """Norm, ReLU and a residual block; then one number for each voxel, which starts near `start`."""

    def __init__(self, channels: int, *, norm: Norm, start: float | None, use_checkpoint: bool) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.norm = sparse_norm(norm, channels)
        self.block = SparseBlock(channels, channels, norm=norm)
        self.out: SubmanifoldConv3d | None = None
        if start is not None:
            self.out = SubmanifoldConv3d(in_channels=channels, out_channels=1, kernel=3, bias=True)
            assert self.out.bias is not None
            nn.init.constant_(self.out.bias, start)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, o) to (N, 1), or to (N, o) without `start`."""
        y = self.block.in_steps(sparse_relu(self.norm(x)), recompute=self.use_checkpoint)
        return y if self.out is None else run_sparse(self.out, y, recompute=self.use_checkpoint)


def _affordable(parents: SparseTensor, scores: Tensor, within: Tensor, most: int) -> SparseTensor:
    """Parents that have at most `most` children inside the frustum."""
    keep = affordable_parents(parents.sites, scores, within, most)
    return parents if keep is None else prune(parents, keep)


def _looked_up(values: Tensor, known: Sites, asked: Sites) -> Tensor:
    """Values (N,) of known voxels at other ones, -inf where they are unknown; (N',)."""
    row = lookup(known, asked.coords)  # (N',)
    if known.num == 0:
        return values.new_full((asked.num,), -torch.inf)
    return values[row.clamp(min=0)].masked_fill(row < 0, -torch.inf)


def _precise(x: SparseTensor) -> SparseTensor:
    return x.with_features(at_least_32_bits(x.features))
