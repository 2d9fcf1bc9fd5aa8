"""The actions without a trainer: checkpoint to ONNX file, ONNX file to engine, and quantisation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError
from skillbank_models.deploy.engine_action import build_engine_of
from skillbank_models.deploy.onnx_file import export_onnx, report_path, require_export_packages
from skillbank_models.mask2former.data import categories_of
from skillbank_models.mask2former.exported import ExportedMask2Former
from skillbank_models.mask2former.graph_facts import graph_metadata
from skillbank_models.mask2former.graph_plan import onnx_plan
from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.quantise import quantize
from skillbank_models.mask2former.weights import load_weights
from skillbank_models.ops import _deformable_node
from skillbank_models.protocol import ActionContext
from skillbank_models.weights.checkpoint_facts import stored_categories

__all__ = ["FP32_NODES", "export", "gen_trt_engine", "quantize"]

log = logging.getLogger(__name__)

# Half precision spoils these: scores of attention that many pixels share, and sums over all pixels.
FP32_NODES = ("*transformer_cross_attention_layers*", "graph/Div_*", "graph/ReduceSum_*", "graph/Add_*")


def export(spec: Any, context: ActionContext) -> None:
    """Write the ONNX file of a checkpoint, with a report beside it.

    Raises:
        SkillBankError: settings that exclude each other, weights that do not fit, missing packages, a graph
            that cannot be exported or answers otherwise than torch.
    """
    if context.rank != 0:
        return
    _check(spec.export)
    require_export_packages()
    checkpoint = Path(spec.export.checkpoint)
    stored = None if spec.dataset.label_map else stored_categories(checkpoint, "export.checkpoint")
    categories = stored or categories_of(spec)
    network = build_model(spec.model, activation_checkpoint=False)
    load_weights(network, Path(spec.export.checkpoint), spec)
    module = ExportedMask2Former(network, mode=spec.model.mode, topk=spec.model.test_topk_per_image)
    size = (spec.export.input_height, spec.export.input_width)
    path = Path(spec.export.onnx_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = onnx_plan(
        module,
        path,
        size=size,
        batch=spec.export.batch_size,
        dynamic_size=spec.export.dynamic_size,
        opset=spec.export.opset_version,
        metadata=graph_metadata(spec, categories, size=size),
        device=context.device,
        plugin=not spec.export.on_cpu,
        verbose=spec.export.verbose,
    )
    context.status.running(f"exporting {spec.export.checkpoint} to {path}")
    with _deformable_node.writing_nodes() if not spec.export.on_cpu else contextlib.nullcontext():
        report = export_onnx(module.to(context.device), plan)
    context.register(report_path(path), "report")
    context.status.running(_summary(path, report))
    log.info("%s", _summary(path, report))


def gen_trt_engine(spec: Any, context: ActionContext) -> None:
    """Build a TensorRT engine from an ONNX file.

    Raises:
        SkillBankError: TensorRT is missing, the file cannot be built, or settings do not fit it.
    """
    build_engine_of(spec.gen_trt_engine, context, keep_fp32=FP32_NODES)


def _check(settings: Any) -> None:
    for key in ("checkpoint", "onnx_file"):
        if not getattr(settings, key):
            raise MissingValueError(
                f"export.{key}: nothing is given", hint=f"export.{key}=PATH", key=f"export.{key}"
            )
    if settings.batch_size == 0:
        raise InvalidValueError(
            "export.batch_size: 0 images cannot be segmented; use -1 for any number, or 1 and more",
            hint="export.batch_size=-1",
            key="export.batch_size",
            value=0,
        )
    if settings.dynamic_size and not settings.on_cpu:
        raise ConflictError(
            "export.dynamic_size: TensorRT's node for deformable attention holds the sizes of its maps, so "
            "height and "
            "width are fixed with export.on_cpu=false",
            hint="export.on_cpu=true writes standard operators, which TensorRT runs too",
            key="export.dynamic_size",
            value=True,
        )


def _summary(path: Path, report: Mapping[str, Any]) -> str:
    found = report["comparison"]
    if not found["done"]:
        return f"{path.name}: operator set {report['opset']}; not compared with torch: {found['reason']}"
    worst = ", ".join(f"{name} {value:.2g}" for name, value in found["max_abs_diff"].items())
    return f"{path.name}: operator set {report['opset']}; largest difference to torch: {worst}"
