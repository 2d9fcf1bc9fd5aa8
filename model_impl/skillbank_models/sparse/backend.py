"""Which code computes sparse convolutions.

| backend | where | dtypes |
|---|---|---|
| `torch` | any device | any; gradients are bitwise equal from run to run |
| `spconv` | CPU and CUDA, with the extra `sparse-cpu` or `sparse-cuda` | float32; halves are converted |

Weights, outputs and gradients are the same. `auto` takes the faster one where that has been measured: on a
CPU `torch`, which took 0.35 to 1.0 times as long as spconv, forward and backward together, for the layers of
a frustum decoder on one thread (transposed ones, forward alone, up to 1.4 times). On a CPU spconv computes on
one thread only. Nothing has been measured on CUDA, so `auto` takes `torch` there, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from skillbank.errors import InvalidValueError
from skillbank_models.sparse.gather_backend import gather_convolution
from skillbank_models.sparse.kernel_maps import KernelMap
from skillbank_models.sparse.spconv_backend import check_spconv, spconv_convolution

__all__ = ["Backend", "convolution", "use_backend"]

Backend = Literal["auto", "spconv", "torch"]

# Of the process, not of a context: passes that recompute activations run in threads of their own.
_asked: list[Backend] = ["auto"]


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Compute sparse convolutions with one backend, in the whole process, until the block ends.

    Raises:
        InvalidValueError: there is no such backend.
        RuntimeMissingError: spconv is asked for, but not installed.
    """
    if name not in get_args(Backend):
        raise InvalidValueError(
            f"sparse backend: {name!r} is not allowed; use one of {', '.join(get_args(Backend))}.",
            hint='use_backend("auto")',
            value=name,
            allowed=get_args(Backend),
        )
    if name == "spconv":
        check_spconv()
    _asked.append(name)
    try:
        yield
    finally:
        _asked.pop()


def convolution(features: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap) -> Tensor:
    """Sum over taps of input rows times weights, plus bias; under autocast in its dtype.

    Args:
        features: (N, C).
        weight: (K, C, D).
        bias: (D,).
        kernel_map: which input rows meet which output rows.

    Returns:
        (M, D).
    """
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    form = spconv_convolution if _asked[-1] == "spconv" else gather_convolution
    out = form(features, weight, kernel_map)
    return out if bias is None else out + bias.to(out.dtype)
