"""The action gen_trt_engine: from the block of a spec to an engine and its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skillbank.errors import MissingValueError
from skillbank_models.deploy.engine import sidecar_path
from skillbank_models.deploy.engine_build import EnginePlan, batch_profile, build_engine
from skillbank_models.deploy.onnx_file import require_export_packages
from skillbank_models.protocol import ActionContext

__all__ = ["build_engine_of"]


def build_engine_of(settings: Any, context: ActionContext, *, keep_fp32: Sequence[str]) -> None:
    """Build a TensorRT engine from an ONNX file, on the first process.

    Args:
        settings: `gen_trt_engine` of a spec.
        context: of the action.
        keep_fp32: patterns of graph nodes that half precision would spoil.

    Raises:
        SkillBankError: TensorRT is missing, the file cannot be built, or settings do not fit it.
    """
    if context.rank != 0:
        return
    for key in ("onnx_file", "trt_engine"):
        if not getattr(settings, key):
            raise MissingValueError(
                f"gen_trt_engine.{key}: nothing is given",
                hint=f"gen_trt_engine.{key}=PATH",
                key=f"gen_trt_engine.{key}",
            )
    plan = _engine_plan(settings, keep_fp32)
    context.status.running(f"building {plan.engine_file} from {plan.onnx_file}")
    about = build_engine(plan)
    context.register(sidecar_path(plan.engine_file), "report")
    context.status.running(f"{plan.engine_file.name}: {about['precision']}, {about['bytes'] / 2**20:.1f} MiB")


def _engine_plan(settings: Any, keep_fp32: Sequence[str]) -> EnginePlan:
    trt = settings.tensorrt
    onnx_file = Path(settings.onnx_file)
    batch, size = _read_input(onnx_file) if onnx_file.is_file() else (None, None)
    bounds = (trt.min_batch_size, trt.opt_batch_size, trt.max_batch_size)
    return EnginePlan(
        onnx_file=onnx_file,
        engine_file=Path(settings.trt_engine),
        profile=batch_profile(batch, settings.batch_size, bounds),
        workspace_mb=trt.workspace_size,
        fp16=trt.data_type == "FP16",
        layers_precision=trt.layers_precision or [],
        keep_fp32=keep_fp32,
        size=size,
        timing_cache=Path(settings.timing_cache) if settings.timing_cache else None,
        verbose=settings.verbose,
    )


def _read_input(path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """Batch of an ONNX file, None when open, and the size it was traced with."""
    require_export_packages()
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    stored = {entry.key: entry.value for entry in model.metadata_props}.get("input_size")
    batch = None if dims[0].dim_param else int(dims[0].dim_value)
    return batch, (tuple(json.loads(stored)) if stored else None)
