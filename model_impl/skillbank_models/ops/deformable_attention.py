"""Multi-scale deformable attention: one operator, several forms, the fastest that fits is taken.

| form | where | gradients |
|---|---|---|
| `_deformable_rows` | CPU; CUDA when a deterministic one is asked for | bitwise equal from run to run |
| `_deformable_triton` | CUDA with Triton | value gradient adds up in any order |
| `_deformable_plain` | exporting, compiling, other devices, CUDA without Triton | as those of `grid_sample` |
| `_deformable_node` | exporting for TensorRT's plug-in | none |

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `d` channels of a head, `L` levels, `P`
points.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.ops import _deformable_node
from skillbank_models.ops._deformable_plain import grid_sample_attention
from skillbank_models.ops._deformable_rows import row_attention

__all__ = ["deformable_attention"]

log = logging.getLogger(__name__)


def deformable_attention(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    deterministic: bool,
) -> Tensor:
    """Sample maps bilinearly at given places and sum the samples with given weights, for each query and head.

    Pixel centres lie at half-integer pixels (x = 0 and x = 1 are the outer edges of a map); pixels outside
    count as zero. Computed in float32, or float64 when an input is float64, whatever the autocast.

    Args:
        value: (B, S, M, d), levels one after the other, rows of pixels.
        shapes: (height, width) of each of the L levels; S is the sum of their products.
        locations: (B, Q, M, L, P, 2), x and y in 0..1.
        weights: (B, Q, M, L, P), used as they are.
        deterministic: ask for gradients that are bitwise equal from run to run. On CPU they always are; on
            CUDA this is slower; `torch.use_deterministic_algorithms` asks for it, too. Graphs of
            `torch.compile` have the gradients of `grid_sample` instead.

    Returns:
        (B, Q, M * d), in the dtype of `value`.

    Raises:
        ShapeError: the shapes do not belong together.

    Source: Zhu et al. 2020, Deformable DETR, eq. 3; sampling rule as `torch.nn.functional.grid_sample` with
    bilinear mode, zero padding and `align_corners=False`.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling:
        _check(value, shapes, locations, weights)
    dtype = torch.promote_types(torch.promote_types(value.dtype, locations.dtype), torch.float32)
    places, scale = locations.to(dtype), weights.to(dtype)
    if torch.compiler.is_exporting() and _deformable_node.is_wanted():
        return _deformable_node.call(value.to(dtype), shapes, places, scale).to(value.dtype)
    if compiling:
        return grid_sample_attention(value.to(dtype), shapes, places, scale).to(value.dtype)
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    with torch.autocast(value.device.type, enabled=False):
        if value.is_cuda and not deterministic and dtype == torch.float32 and _has_triton():
            from skillbank_models.ops._deformable_triton import triton_attention

            return triton_attention(value, shapes, places, scale)  # (B, Q, M*d)
        in_rows = value.device.type == "cpu" or (value.is_cuda and deterministic)
        form = row_attention if in_rows else grid_sample_attention
        return form(value.to(dtype), shapes, places, scale).to(value.dtype)  # (B, Q, M*d)


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    """Whether the kernels can be built; tells once when not."""
    if importlib.util.find_spec("triton") is not None:
        return True
    log.warning("deformable attention: Triton is not installed; using the slower grid_sample form on CUDA")
    return False


def _check(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    problems = []
    if value.dim() != 4 or locations.dim() != 6 or locations.shape[-1] != 2:
        raise ShapeError(
            f"deformable attention: value {tuple(value.shape)} and locations {tuple(locations.shape)}; "
            "they must be (B, S, M, d) and (B, Q, M, L, P, 2).",
            hint="split channels into heads before calling; see deformable_attention",
        )
    batch, pixels, heads, _ = value.shape
    total = sum(height * width for height, width in shapes)
    if total != pixels:
        problems.append(
            f"levels {[tuple(shape) for shape in shapes]} have {total} pixels, value has {pixels}"
        )
    if (locations.shape[0], locations.shape[2], locations.shape[3]) != (batch, heads, len(shapes)):
        problems.append(
            f"locations {tuple(locations.shape)} must be (B={batch}, Q, M={heads}, L={len(shapes)}, P, 2)"
        )
    if weights.shape != locations.shape[:-1]:
        problems.append(f"weights {tuple(weights.shape)} must be {tuple(locations.shape[:-1])}")
    if problems:
        raise ShapeError(
            f"deformable attention: {'; '.join(problems)}.",
            hint="pass (height, width) of each level in the order in which the value rows are joined",
        )
