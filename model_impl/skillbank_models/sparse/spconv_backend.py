"""Sparse convolution by the kernels of spconv, on the same kernel maps as the plain torch form.

Letters: `N` input voxels, `M` output voxels, `C D` input and output channels, `K` taps.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skillbank.errors import BackendError, RuntimeMissingError
from skillbank_models.sparse.kernel_maps import KernelMap

__all__ = ["check_spconv", "spconv_convolution"]


def check_spconv() -> None:
    """Load spconv.

    Raises:
        RuntimeMissingError: it is not installed.
        BackendError: it is, but cannot be loaded.
    """
    _operators()


def spconv_convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sum over taps of input rows times weights, computed in float32; arguments as in `gather_convolution`.

    Raises:
        BackendError: float64, or a CUDA device for a build of spconv that only knows processors.
    """
    if features.dtype == torch.float64:
        raise BackendError(
            "sparse convolution: spconv does not compute in float64.",
            hint='use float32, or use_backend("torch")',
        )
    if features.device.type != "cpu" and _is_cpu_build():
        raise BackendError(
            f"sparse convolution: voxels are on {features.device}, but the spconv here is a build for CPUs.",
            hint="pip uninstall spconv cumm; pip install 'skillbank[sparse-cuda]'",
        )
    out: Tensor = _SpconvConvolution.apply(  # type: ignore[no-untyped-call]
        features.float(), weight.float(), kernel_map
    )
    return out.to(features.dtype)  # (M, D)


class _SpconvConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        pairs = kernel_map.pairs
        # pairs are saved as tensors, so that they are dropped where activations are recomputed
        ctx.save_for_backward(features, weight, pairs.rows, pairs.counts)
        ctx.total = pairs.total
        if not pairs.total:
            return features.new_zeros(kernel_map.num_out, weight.shape[2])
        with _one_thread(features):
            out: Tensor = _operators().indice_conv(
                features, _filters(weight), pairs.rows, pairs.counts, kernel_map.num_out
            )
        return out  # (M, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight, rows, counts = ctx.saved_tensors
        if not ctx.total:
            return torch.zeros_like(features), torch.zeros_like(weight), None
        with _one_thread(features):
            of_features, of_filters = _operators().indice_conv_backward(
                features, _filters(weight), grad, rows, counts
            )
        return of_features, of_filters.permute(1, 2, 0), None  # (N, C), (K, C, D)


def _filters(weight: Tensor) -> Tensor:
    """(K, C, D) in the layout of spconv, (D, K, C)."""
    return weight.permute(2, 0, 1).contiguous()


@contextmanager
def _one_thread(features: Tensor) -> Iterator[None]:
    """On a CPU, compute on one thread: threads of spconv 2.3.8 overwrite each other's sums there."""
    threads = torch.get_num_threads()
    if features.device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _operators() -> ModuleType:
    """The module of spconv that holds its operators, made fit for processors."""
    if importlib.util.find_spec("spconv") is None:
        raise RuntimeMissingError(
            "sparse convolution: spconv is asked for, but not installed.",
            hint="pip install 'skillbank[sparse-cpu]', or 'skillbank[sparse-cuda]' where there is a GPU",
        )
    try:
        with _without_notices():
            from spconv.pytorch import ops
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"sparse convolution: spconv is installed, but cannot be loaded: {error}.",
            hint='install the build that fits this machine, or use_backend("torch")',
        ) from error
    stream = ops.get_current_stream
    # Its backward pass asks for a CUDA stream on a processor, too.
    ops.get_current_stream = lambda: stream() if torch.cuda.is_available() else 0
    module: ModuleType = ops
    return module


@lru_cache(maxsize=1)
def _is_cpu_build() -> bool:
    _operators()
    from spconv.cppconstants import CPU_ONLY_BUILD

    return bool(CPU_ONLY_BUILD)


@contextmanager
def _without_notices() -> Iterator[None]:
    """Importing spconv touches names of Python and torch that are to go: warnings no user can act on."""
    log = logging.getLogger("torch.fx._symbolic_trace")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
