"""Layers on sparse volumes.

Weights of convolutions are (K, C, D). Tap (i, j, l) along x, y, z has number `(i * kernel + j) * kernel + l`:
`weight.view(k, k, k, C, D).permute(4, 3, 0, 1, 2)` is the weight of a `torch.nn.Conv3d`. Where there is no
voxel, a convolution reads zero.

Letters: `B` batch, `N` voxels, `C D` input and output channels, `K` taps, `S` side of the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.layers.linear import Linear, linear
from skillbank_models.sparse.backend import convolution
from skillbank_models.sparse.kernel_maps import (
    child_sites,
    coarse_sites,
    kept_scaling_map,
    scaling_map,
    submanifold_map,
)
from skillbank_models.sparse.tensor import SparseTensor

__all__ = [
    "GenerativeConv3d",
    "SparseInstanceNorm",
    "SparseLinear",
    "SparseVoxelNorm",
    "StridedConv3d",
    "SubmanifoldConv3d",
]

EPSILON = 1e-5  # of torch.nn.InstanceNorm3d


class _SparseConv(nn.Module):
    """Weights of a convolution.

    Args:
        meets: taps that meet one output voxel when all its neighbours are there; sets the spread of the start
            values as in `torch.nn.Conv3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool, meets: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(kernel**3, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = (in_channels * meets) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """What the text form of a network says about the layer."""
        _, inputs, outputs = self.weight.shape
        return f"{inputs}, {outputs}, kernel={self.kernel}, bias={self.bias is not None}"


class SubmanifoldConv3d(_SparseConv):
    """Centred convolution of kernel 1 or 3 and stride 1, at the voxels of its input."""

    def __init__(self, *, in_channels: int, out_channels: int, kernel: int = 3, bias: bool = False) -> None:
        assert kernel in (1, 3), kernel
        super().__init__(in_channels, out_channels, kernel, bias=bias, meets=kernel**3)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) to (N, D) at the same voxels."""
        if self.kernel == 1:
            return x.with_features(linear(x.features, self.weight[0].t(), self.bias))
        kernel_map = submanifold_map(x.sites, self.kernel)
        return x.with_features(convolution(x.features, self.weight, self.bias, kernel_map))


class StridedConv3d(_SparseConv):
    """Convolution to the cells of twice the edge that hold a voxel, at unique floor(coord / 2).

    Cell c reads the voxels 2c-1..2c+1 with kernel 3, and 2c..2c+3 with kernel 4.

    Source: conventions of MinkowskiEngine (Choy et al. 2019).
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, kernel: int, stride: int = 2, bias: bool = False
    ) -> None:
        assert (kernel, stride) in ((3, 2), (4, 2)), (kernel, stride)
        super().__init__(in_channels, out_channels, kernel, bias=bias, meets=kernel**3)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) of side S to (N', D) of side S / 2."""
        out = convolution(x.features, self.weight, self.bias, kept_scaling_map(x.sites, self.kernel))
        return SparseTensor(out, coarse_sites(x.sites))


class GenerativeConv3d(_SparseConv):
    """Transposed convolution that creates voxels: cell c gives to all 2c + {0..3} inside the grid.

    Source: as `StridedConv3d`.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, kernel: int = 4, stride: int = 2, bias: bool = False
    ) -> None:
        assert (kernel, stride) == (4, 2), (kernel, stride)
        super().__init__(in_channels, out_channels, kernel, bias=bias, meets=(kernel // stride) ** 3)

    def forward(self, x: SparseTensor, within: Tensor | None = None) -> SparseTensor:
        """(N, C) of side S to (N', D) of side 2 S.

        Args:
            within: (B, 2S, 2S, 2S) bool, voxels that may be created; None for all.

        Raises:
            ShapeError: `within` is of another size.
        """
        fine = child_sites(x.sites, within)
        kernel_map = scaling_map(fine, x.sites, self.kernel).reversed()
        return SparseTensor(convolution(x.features, self.weight, self.bias, kernel_map), fine)


class SparseInstanceNorm(nn.Module):
    """Instance norm over the voxels of an image, with statistics in float32.

    The only voxel of an image becomes the bias, as the variance of one value is zero.
    """

    without_decay = True

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) to (N, C), in the same dtype."""
        rows = x.features.to(torch.promote_types(x.features.dtype, torch.float32))
        images = [self._normalised(image) for image in torch.split(rows, x.sites.sizes)]
        rows = images[0] if len(images) == 1 else torch.cat(images)
        return x.with_features(rows.to(x.features.dtype))

    def _normalised(self, rows: Tensor) -> Tensor:
        """Voxels of one image."""
        if len(rows):
            # The statistics of a batch norm over voxels; the function of nn.functional refuses a single row.
            return torch.batch_norm(rows, self.weight, self.bias, None, None, True, 0.0, EPSILON, True)
        if self.weight is None or self.bias is None:
            return rows.clone()  # never the input itself, so that a result may be changed in place
        return rows * self.weight + self.bias  # so that both get a gradient, of zero


class SparseVoxelNorm(nn.Module):
    """Normalises each voxel over its channels, without parameters, with statistics in float32.

    Source: what the published 3D part computes in place of an instance norm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) to (N, C), in the same dtype."""
        rows = F.layer_norm(x.features, (self.channels,), None, None, EPSILON)
        return x.with_features(rows.to(x.features.dtype))


class SparseLinear(nn.Module):
    """The same linear layer at each voxel, with the parameters of `torch.nn.Linear`."""

    def __init__(self, *, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__()
        start = Linear(in_channels, out_channels, bias=bias)
        self.weight = start.weight
        self.bias = start.bias

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) to (N, D)."""
        return x.with_features(linear(x.features, self.weight, self.bias))
