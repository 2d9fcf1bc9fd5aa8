"""Deformable attention as one node of an exported graph, for TensorRT, which has a plug-in of that name.

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `d` channels of a head, `L` levels, `P`
    points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["NODE", "call", "is_wanted", "writing_nodes"]

NODE = "trt.plugins::MultiscaleDeformableAttnPlugin_TRT"

_wanted: ContextVar[bool] = ContextVar("deformable_attention_as_node", default=False)


@contextlib.contextmanager
def writing_nodes() -> Iterator[None]:
    """Within, `deformable_attention` becomes one operator instead of its arithmetic; for exporting only."""
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def is_wanted() -> bool:
    """Whether the operator form was asked for."""
    return _wanted.get()


def call(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The operator; arguments and result as in `deformable_attention`, with sizes that are plain numbers.

    Source: TensorRT, plugin/multiscaleDeformableAttnPlugin (Apache-2.0): order, ranks and types of the
        inputs.
    """
    areas = [height_px * width_px for height_px, width_px in shapes]
    # the plug-in takes 32-bit integers only
    sizes = torch.tensor(list(shapes), dtype=torch.int32, device=value.device)  # (L, 2)
    starts = torch.tensor([0, *accumulate(areas)][:-1], dtype=torch.int32, device=value.device)  # (L,)
    batch, _, heads, width = value.shape
    mixed: Tensor = torch.onnx.ops.symbolic(
        NODE,
        (value, sizes, starts, locations, weights),
        dtype=value.dtype,
        shape=(batch, locations.shape[1], heads, width),
        version=1,
    )  # (B, Q, M, d)
    return mixed.flatten(2)  # (B, Q, M*d)
