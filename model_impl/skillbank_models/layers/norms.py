"""Convolution with a normalisation named in a spec.

Letters: `B` batch, `C` channels, `h w` feature map.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ChannelLayerNorm", "CrossProcessBatchNorm", "NormedConv", "build_norm"]

GROUPS = 32  # of every group norm in the published models


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of each pixel.

    Source: detectron2 `LN`, epsilon 1e-6.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        rows = x.permute(0, 2, 3, 1)  # (B, h, w, C)
        rows = F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias, 1e-6)
        return rows.permute(0, 3, 1, 2)  # (B, C, h, w)


class CrossProcessBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the batches of all processes, on any device.

    `torch.nn.SyncBatchNorm` does it on GPUs only; elsewhere sums are exchanged here.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        if not self.training or (x.device.type == "cuda" and not alone):
            return super().forward(x)
        if alone:  # not by the base class, which refuses the CPU where there is a group, even of one process
            return self._alone(x)
        from torch.distributed.nn.functional import all_reduce  # absent in builds without processes

        x = x.float()
        dims = (0, 2, 3)
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        own = torch.cat([x.sum(dims), x.square().sum(dims), count])  # (2 C + 1,)
        sums: Tensor = all_reduce(own)  # type: ignore[no-untyped-call]
        mean, square = (sums[:-1] / sums[-1]).chunk(2)  # (C,), (C,)
        variance = square - mean.square()
        self._track(mean.detach(), variance.detach(), sums[-1].detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]

    def _alone(self, x: Tensor) -> Tensor:
        """Batch norm over the own batch, in training."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps
        )

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)


def build_norm(name: str, channels: int) -> nn.Module | None:
    """The normalisation that a spec calls `name`: GN, LN, SyncBN, or nothing for the empty text."""
    if name == "GN":
        return nn.GroupNorm(GROUPS, channels)
    if name == "LN":
        return ChannelLayerNorm(channels)
    if name == "SyncBN":
        return CrossProcessBatchNorm(channels)
    assert not name, name  # the spec allows no other
    return None


class NormedConv(nn.Conv2d):
    """Convolution of stride 1 that keeps the size, then its norm and, if asked, ReLU.

    Has a bias only without norm. Weights start Kaiming-uniform with a = 1, as in the published models.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, norm: str, relu: bool) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=not norm)
        self.norm = build_norm(norm, out_channels)
        self.relu = relu
        nn.init.kaiming_uniform_(self.weight, a=1)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h, w)."""
        x = super().forward(x)  # (B, C_out, h, w)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x, inplace=not torch.is_grad_enabled()) if self.relu else x
