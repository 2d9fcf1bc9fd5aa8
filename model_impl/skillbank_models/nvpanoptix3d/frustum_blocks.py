"""Residual blocks of the frustum decoder, on voxels and on full grids.

Letters: `B` batch, `N` voxels, `C` channels, `S` side of a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.sparse.layers import (
    SparseInstanceNorm,
    SparseLinear,
    SparseVoxelNorm,
    StridedConv3d,
    SubmanifoldConv3d,
)
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = [
    "DenseBlock",
    "DenseInstanceNorm",
    "DenseUp",
    "Norm",
    "SparseBlock",
    "at_least_32_bits",
    "run_dense",
    "run_sparse",
    "sparse_norm",
    "sparse_relu",
]

Norm: TypeAlias = Literal["instance", "voxel"]


def at_least_32_bits(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sparse_norm(norm: Norm, channels: int) -> SparseInstanceNorm | SparseVoxelNorm:
    """The norm of voxels: over those of an image, or as published over the channels of each."""
    if norm == "instance":
        return SparseInstanceNorm(channels, affine=True)
    return SparseVoxelNorm(channels)


def sparse_relu(x: SparseTensor) -> SparseTensor:
    """ReLU of every channel, in place: of the result of a norm, which no gradient needs."""
    return x.with_features(F.relu_(x.features))


class DenseInstanceNorm(nn.Module):
    """Instance norm of full grids, computed in 32 bits; learns scale and shift with "instance" only."""

    without_decay = True

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if norm == "instance" else None
        self.bias = nn.Parameter(torch.zeros(channels)) if norm == "instance" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S, S) to the same shape and type."""
        with torch.autocast(x.device.type, enabled=False):
            exact = at_least_32_bits(x)
            return F.instance_norm(exact, weight=self.weight, bias=self.bias).to(x.dtype)


class SparseBlock(nn.Module):
    """Two convolutions and a shortcut on voxels.

    With stride 2 the shortcut is a convolution of kernel 4; with other channels a linear layer; else it is
    the input.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: 1 keeps the voxels, 2 goes to the grid of half the side.
        norm: see `sparse_norm`.

    Source: residual block of Panoptic 3D (Dahnert et al. 2021) and Uni-3D (Zhang et al. 2023). Differs:
    instance norm is over the voxels of an image.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Literal[1, 2] = 1, norm: Norm) -> None:
        super().__init__()
        self.conv1: SubmanifoldConv3d | StridedConv3d
        self.shortcut: StridedConv3d | SparseLinear | None = None
        if stride == 2:
            self.conv1 = StridedConv3d(
                in_channels=in_channels, out_channels=out_channels, kernel=3, stride=2, bias=False
            )
            self.shortcut = StridedConv3d(
                in_channels=in_channels, out_channels=out_channels, kernel=4, stride=2, bias=False
            )
        else:
            self.conv1 = SubmanifoldConv3d(
                in_channels=in_channels, out_channels=out_channels, kernel=3, bias=False
            )
            if in_channels != out_channels:
                self.shortcut = SparseLinear(in_channels=in_channels, out_channels=out_channels, bias=False)
        self.norm1 = sparse_norm(norm, out_channels)
        self.conv2 = SubmanifoldConv3d(
            in_channels=out_channels, out_channels=out_channels, kernel=3, bias=False
        )
        self.norm2 = sparse_norm(norm, out_channels)
        self.shortcut_norm = None if self.shortcut is None else sparse_norm(norm, out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C_in) to (N', C_out)."""
        return self.second(self.first(x), self.kept(x))

    def in_steps(self, x: SparseTensor, *, recompute: bool) -> SparseTensor:
        """As `forward`; with `recompute` tables and activations of a step are gone before the next starts."""
        y = run_sparse(self.first, x, recompute=recompute)  # (N', C_out)
        kept = x if self.shortcut is None else run_sparse(self.kept, x, recompute=recompute)  # (N', C_out)

        def rest(y: SparseTensor, kept: SparseTensor) -> SparseTensor:
            return self.last(run_sparse(self.conv2, y, recompute=recompute), kept)

        return run_sparse(rest, y, kept, recompute=recompute)

    def first(self, x: SparseTensor) -> SparseTensor:
        """(N, C_in) to (N', C_out): up to the second convolution."""
        return sparse_relu(self.norm1(self.conv1(x)))

    def kept(self, x: SparseTensor) -> SparseTensor:
        """(N, C_in) to (N', C_out): the shortcut, whose rows are in the order of those of `first`."""
        if self.shortcut is None or self.shortcut_norm is None:
            return x
        found: SparseTensor = self.shortcut_norm(self.shortcut(x))
        return found

    def second(self, y: SparseTensor, kept: SparseTensor) -> SparseTensor:
        """(N', C_out) and the shortcut of the same shape to the result."""
        return self.last(self.conv2(y), kept)

    def last(self, y: SparseTensor, kept: SparseTensor) -> SparseTensor:
        """What comes after the convolutions, (N', C_out)."""
        y = self.norm2(y)
        return sparse_relu(y.with_features(y.features.add_(kept.features)))


class DenseBlock(nn.Module):
    """Two convolutions and a shortcut on full grids.

    Args:
        in_channels: of the input; equal to `out_channels` with stride 1.
        out_channels: of the output.
        stride: 1, or 2 for half the side, with a shortcut convolution of kernel 4.
        norm: "instance" learns scale and shift.

    Source: as `SparseBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Literal[1, 2] = 1, norm: Norm) -> None:
        super().__init__()
        assert stride == 2 or in_channels == out_channels, (in_channels, out_channels)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = DenseInstanceNorm(out_channels, norm=norm)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = DenseInstanceNorm(out_channels, norm=norm)
        self.shortcut: nn.Conv3d | None = None
        self.shortcut_norm: DenseInstanceNorm | None = None
        if stride == 2:
            self.shortcut = nn.Conv3d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
            self.shortcut_norm = DenseInstanceNorm(out_channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, S, S, S) to (B, C_out, S / stride, ., .)."""
        # in place: no gradient needs the result of a norm
        y = F.relu_(self.norm1(self.conv1(x)))  # (B, C_out, S / stride, ., .)
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))  # (B, C_out, S / stride, ., .)
        return F.relu_(y.add_(x))


class DenseUp(nn.Module):
    """Transposed convolution to twice the side, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = DenseInstanceNorm(out_channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, S, S, S) to (B, C_out, 2 S, 2 S, 2 S)."""
        return F.relu_(self.norm(self.conv(x)))


def run_dense(part: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """Call a part; with `recompute` only its inputs are kept for the backward pass."""
    if not (recompute and torch.is_grad_enabled()):
        return part(*inputs)
    found: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
    return found


def run_sparse(part: Callable[..., SparseTensor], *inputs: SparseTensor, recompute: bool) -> SparseTensor:
    """Call a part; with `recompute` only the features of its inputs are kept for the backward pass.

    Tables of neighbours are found again, too: they are larger than the features of a narrow layer.
    """
    if not (recompute and torch.is_grad_enabled()):
        return part(*inputs)
    # not the inputs themselves: what a function refers to is not dropped where steps are nested
    places = [given.sites for given in inputs]
    found: list[Sites] = []

    def of_features(*features: Tensor) -> Tensor:
        own = {sites: sites.without_tables() for sites in places}
        again = [SparseTensor(rows, own[sites]) for rows, sites in zip(features, places, strict=True)]
        result = part(*again)
        known = [sites for sites in places if own[sites] is result.sites]
        found[:] = known or [result.sites]
        return result.features

    features = run_dense(of_features, *(given.features for given in inputs), recompute=True)
    return SparseTensor(features, found[0])
