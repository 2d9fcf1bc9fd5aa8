"""The actions without a trainer: the 2D part of a checkpoint to ONNX, and an ONNX file to an engine.

Letters: `B` batch, `H W` image.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from skillbank import __version__
from skillbank.errors import InvalidValueError, MissingValueError, SkillBankError, collect
from skillbank_models.data.augment import short_edge_size
from skillbank_models.data.categories import Categories
from skillbank_models.deploy.comparison import Tolerance
from skillbank_models.deploy.engine_action import build_engine_of
from skillbank_models.deploy.onnx_file import (
    Axis,
    OnnxPlan,
    export_onnx,
    report_path,
    require_export_packages,
)
from skillbank_models.nvpanoptix3d.data import categories_of
from skillbank_models.nvpanoptix3d.depth_projector import StageTwoProjector
from skillbank_models.nvpanoptix3d.exported_image import CONSTANTS, INPUT, ExportedImage
from skillbank_models.nvpanoptix3d.graph_facts import NETWORK_NAME, part_facts
from skillbank_models.nvpanoptix3d.image_model import ImageModel, build_image_model
from skillbank_models.nvpanoptix3d.padding import padded_size
from skillbank_models.nvpanoptix3d.weights import load_weights
from skillbank_models.protocol import ActionContext
from skillbank_models.weights.checkpoint_facts import stored_categories
from skillbank_models.weights.files import read_tensors
from skillbank_models.weights.matching import load_matching

__all__ = ["FP32_NODES", "content_size", "export", "gen_trt_engine"]

log = logging.getLogger(__name__)

# Half precision spoils these: scores of attention that many pixels share, depth behind its exponential, and
# the camera, whose rounds add up their errors.
FP32_NODES = (
    "*cross_attention_layers*",
    "*depth_head.scratch.output_conv2*",
    "*depth_head/Exp*",
    "*camera_head*",
)
# Rounding differs by around 1e-5. Where that carries a mask logit over zero, a query attends to a pixel more
# or less and all its numbers move by a hundredth; in a large network there are always a few. A wrong operator
# is off by more, and everywhere.
TOLERANCE = Tolerance(absolute=2e-2, share=2e-2)

_KEY = "export.checkpoint"
_SEED = 20
_SMOOTH = 16  # pixels between independent values of the images that the export is checked with


def export(spec: Any, context: ActionContext) -> None:
    """Write the 2D part of a checkpoint as ONNX, with a report beside it.

    Raises:
        SkillBankError: settings that exclude each other, weights that do not fit, missing packages, a graph
            that cannot be exported or answers otherwise than torch.
    """
    if context.rank != 0:
        return
    settings = spec.export
    _check(settings)
    require_export_packages()
    checkpoint, path = Path(settings.checkpoint), Path(settings.onnx_file_2d or settings.onnx_file)
    categories = None if spec.dataset.label_map else stored_categories(checkpoint, _KEY)
    network = build_image_model(spec, activation_checkpoint=False)
    load_weights(network, checkpoint, spec)
    size = (settings.input_height, settings.input_width)
    content = content_size(spec, size)
    module = ExportedImage(
        network,
        _projector(spec, checkpoint),
        size=size,
        content=content,
        camera=getattr(network, "camera_is_trained", False),  # set by load_weights
    )
    metadata = _metadata(spec, categories or categories_of(spec), network, size=size, content=content)
    metadata |= part_facts(spec, module.weights())
    plan = _plan(module, path, spec=spec, device=context.device, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    context.status.running(f"exporting {checkpoint} to {path}")
    report = export_onnx(module.to(context.device), plan)
    context.register(report_path(path), "report")
    worst = ", ".join(f"{name} {value:.2g}" for name, value in report["comparison"]["max_abs_diff"].items())
    summary = f"{path.name}: operator set {report['opset']}; largest difference to torch: {worst}"
    context.status.running(summary)
    log.info("%s", summary)


def gen_trt_engine(spec: Any, context: ActionContext) -> None:
    """Build a TensorRT engine from an ONNX file.

    Raises:
        SkillBankError: TensorRT is missing, the file cannot be built, or settings do not fit it.
    """
    build_engine_of(spec.gen_trt_engine, context, keep_fp32=FP32_NODES)


def content_size(spec: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the picture inside an input of `size`.

    Inputs of the size that the loaders pad their images to are taken for such images, any other for a picture
    without padding.
    """
    dataset = spec.dataset
    width, height = dataset.target_size
    augmentation = dataset.augmentation
    loaded = short_edge_size((height, width), augmentation.test_min_size, augmentation.test_max_size)
    divisors = (augmentation.size_divisibility, spec.model.mask_former.size_divisibility)
    padded = [padded_size(*loaded, int(multiple)) for multiple in divisors if multiple > 0]
    return loaded if tuple(size) in padded else size


def _projector(spec: Any, checkpoint: Path) -> StageTwoProjector | None:
    """The projector of a stage-2 checkpoint; one of stage 1 has none."""
    prefix = "projector."
    names = {
        name.removeprefix("model."): tensor
        for name, tensor in read_tensors(checkpoint, key=_KEY).tensors.items()
    }
    tensors = {name.removeprefix(prefix): tensor for name, tensor in names.items() if name.startswith(prefix)}
    if not tensors:
        log.warning(
            "%s: %s is of stage 1, which has no projector: the graph gets no output encoder_features, and "
            "cannot feed a 3D part; export a stage-2 checkpoint for that",
            _KEY,
            checkpoint,
        )
        return None
    projector = StageTwoProjector(
        in_channels=spec.model.backbone.vggt.depth_features, out_channels=spec.model.sem_seg_head.depth_dim
    )
    load_matching(projector, tensors, what=str(checkpoint), key=_KEY, min_share=1.0)
    return projector


def _plan(
    module: ExportedImage, path: Path, *, spec: Any, metadata: Mapping[str, str], device: torch.device
) -> OnnxPlan:
    """What to export, and the pictures to check it with."""
    settings = spec.export
    batch = settings.batch_size
    shape = (settings.input_channel, settings.input_height, settings.input_width)
    draws = torch.Generator().manual_seed(_SEED)
    coarse = (settings.input_height // _SMOOTH + 1, settings.input_width // _SMOOTH + 1)
    samples = []
    for count in (1, 2) if batch == -1 else (batch,):
        small = torch.rand(count, settings.input_channel, *coarse, generator=draws) * 255
        images = torch.nn.functional.interpolate(small, shape[1:], mode="bilinear", align_corners=False)
        samples.append({INPUT: images})  # (B, channels, H, W)
    return OnnxPlan(
        path=path,
        inputs={INPUT: torch.zeros(2 if batch == -1 else batch, *shape, device=device)},
        outputs=module.outputs,
        axes={INPUT: {0: Axis("batch")}} if batch == -1 else {},
        batch="batch" if batch == -1 else None,
        constants=CONSTANTS,
        opset=settings.opset_version,
        metadata=metadata,
        samples=samples,
        tolerance=TOLERANCE,
        verbose=settings.verbose,
    )


def _metadata(
    spec: Any, categories: Categories, network: ImageModel, *, size: tuple[int, int], content: tuple[int, int]
) -> dict[str, str]:
    """What the file says about itself; lists and numbers are JSON."""
    model, dataset = spec.model, spec.dataset
    classes = [
        {
            "index": index,
            "id": categories.category_id(index),
            "name": categories.name(index),
            "isthing": int(categories.is_thing(index)),
            "color": list(categories.color(index)),
        }
        for index in categories.used
    ]
    values: dict[str, Any] = {
        "input_size": list(size),
        "content_size": list(content),
        "padded_size": list(network.padded_size(*size)),
        "plane_size": list(reversed(dataset.reduced_target_size)),
        "num_classes": model.sem_seg_head.num_classes,
        "object_mask_threshold": model.object_mask_threshold,
        "overlap_threshold": model.overlap_threshold,
        "depth_scale": dataset.depth_scale,
        "depth_max": dataset.depth_max,
        "classes": classes,
    }
    return {
        "network": NETWORK_NAME,
        "skillbank_version": __version__,
        "input": "RGB, 0 to 255; content_size of it at the upper left is the picture, the rest padding",
        **{name: json.dumps(value) for name, value in values.items()},
    }


def _check(settings: Any) -> None:
    problems: list[SkillBankError] = []
    if not settings.checkpoint:
        problems.append(MissingValueError(f"{_KEY}: nothing is given", hint=f"{_KEY}=PATH", key=_KEY))
    if not (settings.onnx_file_2d or settings.onnx_file):
        key = "export.onnx_file_2d"
        problems.append(MissingValueError(f"{key}: nothing is given", hint=f"{key}=PATH", key=key))
    if settings.batch_size == 0:
        problems.append(
            InvalidValueError(
                "export.batch_size: 0 images cannot be seen; use -1 for any number, or 1 and more",
                hint="export.batch_size=-1",
                key="export.batch_size",
                value=0,
            )
        )
    if settings.format != "onnx":
        problems.append(
            InvalidValueError(
                f"export.format: {settings.format!r} is not written; onnx is",
                hint="export.format=onnx",
                key="export.format",
                value=settings.format,
                allowed=["onnx"],
            )
        )
    if problems:
        raise collect(problems, "export")
