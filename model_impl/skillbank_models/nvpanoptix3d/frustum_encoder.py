"""Encoder of the frustum decoder: a pyramid of lifted features, of voxels first, of full grids where coarse.

Letters: `B` batch, `N` voxels, `C` channels, `K` classes, `f` base width, `G` side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skillbank_models.layers.linear import linear
from skillbank_models.nvpanoptix3d.frustum_blocks import (
    DenseBlock,
    Norm,
    SparseBlock,
    run_dense,
    run_sparse,
    sparse_relu,
)
from skillbank_models.nvpanoptix3d.frustum_pruning import capped
from skillbank_models.nvpanoptix3d.outputs import FrustumInputs
from skillbank_models.nvpanoptix3d.shared_features import SharedFeatures, shared_convolution
from skillbank_models.sparse.backend import convolution
from skillbank_models.sparse.functional import keep_best, prune, to_dense, union
from skillbank_models.sparse.kernel_maps import coarse_sites, scaling_map
from skillbank_models.sparse.layers import SparseLinear, StridedConv3d, SubmanifoldConv3d
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = ["CoarseGrids", "FrustumEncoder", "FrustumPyramid", "limit_inputs"]


class CoarseGrids(NamedTuple):
    """Encoded features of the full grids.

    Attributes:
        quarter: (B, 2 f, G/4, G/4, G/4), zero where no voxel is.
        eighth: (B, 4 f, G/8, G/8, G/8).
        sixteenth: (B, 8 f, G/16, G/16, G/16).
        bottom: (B, 8 f, G/32, G/32, G/32).
    """

    quarter: Tensor
    eighth: Tensor
    sixteenth: Tensor
    bottom: Tensor


class FrustumPyramid(NamedTuple):
    """Encoded features of all resolutions.

    Attributes:
        half: (N, f), side G/2.
        quarter: (N, 2 f), side G/4.
        grids: from side G/4 on.
    """

    half: SparseTensor
    quarter: SparseTensor
    grids: CoarseGrids


class FrustumEncoder(nn.Module):
    """Encodes each kind of input on its own voxels and joins them where they have become few channels.

    Args:
        sign_channel: distances come as sign and magnitude.
        appearance_channels: C.
        num_classes: K.
        features: f.
        norm: see `frustum_blocks.sparse_norm`.
        multi_scale: coarse features are added to the coarser levels.
        scale_channels: of the coarse features, without the lifted channels behind them.
        max_voxels: most voxels of a batch at one resolution.
        use_checkpoint: recompute activations in the backward pass.

    Source: frustum encoder of Uni-3D (Zhang et al. 2023). Differs: that one joins the inputs first, so that
    every input convolution runs over the voxels of all of them.
    """

    def __init__(
        self,
        *,
        sign_channel: bool,
        appearance_channels: int,
        num_classes: int,
        features: int,
        norm: Norm,
        multi_scale: bool,
        scale_channels: int,
        max_voxels: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        f = features
        self.lifted_occupancy = num_classes  # channel of the lifted features, behind those of the classes
        self.max_voxels = max_voxels
        self.use_checkpoint = use_checkpoint
        lifted = num_classes + 3
        self.distance = SparseBlock(2 if sign_channel else 1, f, norm=norm)
        self.appearance = AppearanceBlock(appearance_channels, f, norm=norm)
        self.classes = SparseBlock(num_classes, f, norm=norm)
        self.lifted = SparseBlock(lifted, f, norm=norm)
        self.to_half = JoiningBlock(4 * f, f, stride=2, norm=norm)
        self.at_half = SparseBlock(f, f, norm=norm)
        self.to_quarter = SparseBlock(f, 2 * f, stride=2, norm=norm)
        self.at_quarter = SparseBlock(2 * f, 2 * f, norm=norm)
        self.eighth = _dense_level(2 * f, 4 * f, norm)
        self.sixteenth = _dense_level(4 * f, 8 * f, norm)
        self.bottom = _dense_level(8 * f, 8 * f, norm)
        widths = (f, 2 * f, 4 * f) if multi_scale else ()
        self.scales = nn.ModuleList(
            SparseBlock(scale_channels + lifted, width, norm=norm) for width in widths
        )

    def forward(self, inputs: FrustumInputs) -> FrustumPyramid:
        """Encode; see `FrustumPyramid`."""
        recompute = self.use_checkpoint
        half = self.join(inputs)
        half = run_sparse(self.at_half, half, recompute=recompute)  # (N, f)
        half = self._with_scale(half, inputs, 0)
        quarter = run_sparse(self.to_quarter, half, recompute=recompute)  # (N, 2 f)
        quarter = run_sparse(self.at_quarter, quarter, recompute=recompute)
        quarter = self._with_scale(quarter, inputs, 1)
        coarsest = None
        if self.scales:
            coarsest = to_dense(run_sparse(self.scales[2], inputs.scales[2], recompute=recompute))
        return FrustumPyramid(half, quarter, self.coarsen(to_dense(quarter), coarsest))

    def coarsen(self, quarter: Tensor, coarsest: Tensor | None) -> CoarseGrids:
        """From (B, 2 f, G/4, G/4, G/4) down; `coarsest` (B, 4 f, G/8, G/8, G/8) is added on the way."""
        recompute = self.use_checkpoint
        eighth = run_dense(self.eighth, quarter, recompute=recompute)  # (B, 4 f, G/8, G/8, G/8)
        if coarsest is not None:
            eighth = eighth + coarsest
        sixteenth = run_dense(self.sixteenth, eighth, recompute=recompute)  # (B, 8 f, G/16, G/16, G/16)
        bottom = run_dense(self.bottom, sixteenth, recompute=recompute)  # (B, 8 f, G/32, G/32, G/32)
        return CoarseGrids(quarter, eighth, sixteenth, bottom)

    def join(self, inputs: FrustumInputs) -> SparseTensor:
        """Encode the four inputs and bring their union to half the side, (N, f)."""
        recompute = self.use_checkpoint
        inputs = limit_inputs(inputs, self.lifted_occupancy, self.max_voxels)
        # there are most of these: their neighbours are not kept for longer than they are looked at
        lifted = SparseTensor(inputs.lifted.features, inputs.lifted.sites.without_tables())
        parts = [
            run_sparse(self.distance, inputs.distance, recompute=recompute),  # (N, f)
            self._appearance(inputs.appearance),  # (N, f)
            run_sparse(self.classes, inputs.classes, recompute=recompute),  # (N, f)
            self.lifted.in_steps(lifted, recompute=recompute),  # (N', f)
        ]
        projected = torch.cat([part.features for part in parts[:3]], 1)  # (N, 3 f)
        return self.to_half.joined(parts[0].with_features(projected), parts[3], recompute=recompute)

    def _appearance(self, x: SparseTensor | SharedFeatures) -> SparseTensor:
        recompute = self.use_checkpoint
        if isinstance(x, SparseTensor):
            return run_sparse(self.appearance, x, recompute=recompute)

        rows, sites = x.rows, x.sites

        def of_table(table: Tensor) -> Tensor:
            found: SparseTensor = self.appearance(SharedFeatures(table, rows, sites.without_tables()))
            return found.features

        return SparseTensor(run_dense(of_table, x.table, recompute=recompute), sites)

    def _with_scale(self, x: SparseTensor, inputs: FrustumInputs, level: int) -> SparseTensor:
        """Add the coarse features of a level; voxels of either remain."""
        if not self.scales:
            return x
        coarse = run_sparse(self.scales[level], inputs.scales[level], recompute=self.use_checkpoint)
        own = x.with_features(torch.cat([x.features, torch.ones_like(x.features[:, :1])], 1))  # (N, C + 1)
        joined = union([own, coarse])  # (N', 2 C + 1)
        first, is_own, second = torch.split(joined.features, [x.features.shape[1], 1, x.features.shape[1]], 1)
        both, _ = capped(joined.with_features(first + second), is_own[:, 0].detach(), self.max_voxels)
        return both  # (N', C)


def limit_inputs(inputs: FrustumInputs, occupancy: int, most: int) -> FrustumInputs:
    """Inputs of at most `most` voxels together, and the first three on one set of sites.

    Projected voxels stay nearest to the visible surface first, lifted ones most occupied first; each kind may
    have half, and what the other leaves.

    Args:
        inputs: of the decoder.
        occupancy: channel of the lifted features that tells how occupied a voxel is.
        most: voxels of all images.
    """
    distance, lifted = inputs.distance, inputs.lifted
    keep = None
    if distance.sites.num + lifted.sites.num > most:
        allowed = max(most // 2, most - lifted.sites.num)
        if distance.sites.num > allowed:
            keep = keep_best(-distance.features[:, -1].abs(), distance.sites, allowed)
            distance = prune(distance, keep)
        lifted, _ = capped(lifted, lifted.features[:, occupancy], most - distance.sites.num)

    def moved(x: SparseTensor) -> SparseTensor:
        return distance.with_features(x.features if keep is None else x.features[keep])

    shown = inputs.appearance
    return inputs._replace(
        distance=distance,
        appearance=moved(shown) if isinstance(shown, SparseTensor) else shown.moved(keep, distance.sites),
        classes=moved(inputs.classes),
        lifted=lifted,
    )


class AppearanceBlock(SparseBlock):
    """A residual block that also takes features which voxels share."""

    def forward(self, x: SparseTensor | SharedFeatures) -> SparseTensor:
        """(N, C_in) to (N, C_out)."""
        if isinstance(x, SparseTensor):
            return super().forward(x)
        assert isinstance(self.conv1, SubmanifoldConv3d)
        assert isinstance(self.shortcut, SparseLinear)
        assert self.shortcut_norm is not None
        shared = linear(x.table, self.shortcut.weight, None)  # (P, C_out)
        y = sparse_relu(self.norm1(shared_convolution(x, self.conv1)))  # (N, C_out)
        return self.second(y, self.shortcut_norm(x.with_table(shared).spread()))


class JoiningBlock(SparseBlock):
    """A residual block of stride 2 on the union of several inputs, which is never made.

    A convolution is linear, so each input goes through the weights of its own channels on its own voxels, to
    the cells that the union has.
    """

    def joined(self, *parts: SparseTensor, recompute: bool) -> SparseTensor:
        """Parts (N, C), C of all of them together C_in, to (N', C_out)."""
        cells = union([_without_channels(part) for part in parts]).sites
        y = _strided(parts, cells, self.conv1, recompute=recompute)  # (N', C_out)
        kept = _strided(parts, cells, self.shortcut, recompute=recompute)  # (N', C_out)
        return run_sparse(self._after, y, kept, recompute=recompute)

    def _after(self, y: SparseTensor, kept: SparseTensor) -> SparseTensor:
        assert self.shortcut_norm is not None
        return self.second(sparse_relu(self.norm1(y)), self.shortcut_norm(kept))


def _without_channels(x: SparseTensor) -> SparseTensor:
    """The cells of twice the edge that hold a voxel."""
    cells = coarse_sites(x.sites)
    return SparseTensor(x.features.new_zeros(cells.num, 0), cells)


def _strided(
    parts: Sequence[SparseTensor], cells: Sites, layer: nn.Module | None, *, recompute: bool
) -> SparseTensor:
    assert isinstance(layer, StridedConv3d)
    kernel = layer.kernel

    def of_part(features: Tensor, weight: Tensor, sites: Sites) -> Tensor:
        return convolution(features, weight, None, scaling_map(sites, cells, kernel))

    widths = [part.features.shape[1] for part in parts]
    found = [
        run_dense(partial(of_part, sites=part.sites), part.features, weight, recompute=recompute)
        for part, weight in zip(parts, torch.split(layer.weight, widths, 1), strict=True)
    ]
    return SparseTensor(sum(found[1:], start=found[0]), cells)  # (N', C_out)


def _dense_level(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        DenseBlock(in_channels, out_channels, stride=2, norm=norm),
        DenseBlock(out_channels, out_channels, norm=norm),
    )
