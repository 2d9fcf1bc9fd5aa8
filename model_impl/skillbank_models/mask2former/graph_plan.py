"""What of Mask2Former is exported, and what the export is checked with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from skillbank_models.deploy.comparison import Tolerance
from skillbank_models.deploy.onnx_file import Axis, OnnxPlan
from skillbank_models.mask2former.exported import ExportedMask2Former

__all__ = ["RANKED", "TOLERANCE", "onnx_plan"]

# Differences of rounding are around 1e-6. Where one of them carries a mask logit over zero, a query attends
# to a pixel more or less and all its numbers move; with 0/1 masks the pixel itself jumps. Both are rare.
TOLERANCE = Tolerance(absolute=1e-3, share=1e-3)
RANKED = replace(
    TOLERANCE,
    ranked=("pred_masks", "pred_scores", "pred_classes", "pred_queries"),
    row_keys=("pred_queries", "pred_classes"),
)

_STEP = 32  # image sizes are multiples of it
_SEED = 20


def onnx_plan(
    module: ExportedMask2Former,
    path: Path,
    *,
    size: tuple[int, int],
    batch: int,
    dynamic_size: bool,
    opset: int,
    metadata: Mapping[str, str],
    device: torch.device,
    plugin: bool = False,
    verbose: bool = False,
) -> OnnxPlan:
    """What to export, and the random images to check it with.

    Args:
        batch: fixed batch, -1 for an open one.
        dynamic_size: leave height and width open.
        device: where the network is traced.
        plugin: deformable attention as TensorRT's node.
    """
    axes: dict[int, Axis] = {}
    if batch == -1:
        axes[0] = Axis("batch")
    if dynamic_size:
        axes |= {2: Axis("height", _STEP), 3: Axis("width", _STEP)}
    height, width = size
    # the tracer takes a single step for a constant
    traced = (max(2 * _STEP, height), max(2 * _STEP, width)) if dynamic_size else size
    sizes = [(1, height, width), (2, height, width)] if batch == -1 else [(batch, height, width)]
    if dynamic_size:
        other = (max(_STEP, height // 2 // _STEP * _STEP), width + _STEP)
        sizes.append((sizes[0][0], *other))
    draws = torch.Generator().manual_seed(_SEED)
    samples = [{"inputs": torch.randn(count, 3, *side, generator=draws)} for count, *side in sizes]
    tolerance = RANKED if module.mode == "instance" else TOLERANCE
    return OnnxPlan(
        path=path,
        inputs={"inputs": _example(2 if batch == -1 else batch, traced, device)},
        outputs=module.outputs,
        axes={"inputs": axes} if axes else {},
        batch="batch" if batch == -1 else None,
        opset=opset,
        metadata=metadata,
        samples=samples,
        tolerance=tolerance,
        custom_operators=plugin,
        verbose=verbose,
    )


def _example(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.zeros(batch, 3, *size, device=device)  # (B, 3, H, W)
