"""Linear layer that is fast on processors, too; on accelerators and in exports it is the ordinary one.

Letters: `C` channels. On a CPU, float32 products of torch go to MKL, which takes a slow path on processors of
other makers, while its convolutions go to oneDNN, which does not: a 1 x 1 convolution is the same product at
twice the speed, forward and backward. Results differ by rounding only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

__all__ = ["Linear", "linear", "summed_outer_products"]

MIN_ROWS = 32  # measured: below it, the fixed cost of the convolution eats the gain


class Linear(nn.Linear):
    """`torch.nn.Linear` with the same parameters and names, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gave it
        """Project the last axis, (..., C) -> (..., C_out)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Project the last axis, as `torch.nn.functional.linear` does.

    Args:
        x: (..., C).
        weight: (C_out, C).
        bias: (C_out,).
    """
    if not _faster_as_convolution(x, weight):
        return F.linear(x, weight, bias)
    channels = x.shape[-1]
    image = x.reshape(1, -1, 1, channels).permute(0, 3, 1, 2)  # (1, C, rows, 1), channels last in memory
    # The dilation has no effect on one column, but keeps torch from its own slow code on a single thread.
    out = F.conv2d(image, weight[:, :, None, None], bias, dilation=(1, 2))  # (1, C_out, rows, 1)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])  # (..., C_out)


def summed_outer_products(x: Tensor, y: Tensor) -> Tensor:
    """Sum over rows of the outer products of two matrices, `x.t() @ y`: what a weight gradient is.

    Args:
        x: (rows, C_x).
        y: (rows, C_y), of the same dtype.

    Returns:
        (C_x, C_y).
    """
    if not _faster_as_convolution(y, x):
        return x.t() @ y
    image, grad = (rows.reshape(1, -1, 1, rows.shape[1]).permute(0, 3, 1, 2) for rows in (y, x))
    shape = (x.shape[1], y.shape[1], 1, 1)
    products: Tensor = conv2d_weight(image, shape, grad, dilation=(1, 2))  # type: ignore[no-untyped-call]
    return products[:, :, 0, 0]  # (C_x, C_y)


def _faster_as_convolution(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    # quantised and sharded weights are tensor types of their own, which bring their own product
    if type(weight) not in (nn.Parameter, Tensor) or weight.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.backends.mkldnn.enabled) and x.numel() >= MIN_ROWS * x.shape[-1]
