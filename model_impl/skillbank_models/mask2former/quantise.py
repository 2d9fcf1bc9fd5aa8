"""The action quantize: a checkpoint with 8-bit weights, or an ONNX file that computes with 8-bit numbers."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skillbank import __version__
from skillbank.jobs.files import write_json
from skillbank_models.data.categories import Categories
from skillbank_models.deploy.onnx_file import export_onnx, report_path, require_export_packages
from skillbank_models.deploy.quantise import quantise_weights
from skillbank_models.deploy.quantise_rules import LayerRules
from skillbank_models.mask2former.accuracy import (
    Segmenter,
    TorchSegmenter,
    agreement,
    measure,
    sample_batches,
)
from skillbank_models.mask2former.data import categories_of, is_annotated
from skillbank_models.mask2former.deployed import open_segmenter
from skillbank_models.mask2former.exported import ExportedMask2Former
from skillbank_models.mask2former.graph_facts import graph_metadata
from skillbank_models.mask2former.graph_plan import onnx_plan
from skillbank_models.mask2former.model import Mask2Former, build_model
from skillbank_models.mask2former.quantise_onnx import graph_size, quantise_file
from skillbank_models.mask2former.quantise_settings import Method, Settings, read_settings
from skillbank_models.mask2former.weights import load_weights
from skillbank_models.protocol import ActionContext
from skillbank_models.weights.quantised import DTYPES, restore
from skillbank_models.weights.writing import write_torch

__all__ = ["quantize"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A quantised network beside the one it came from.

    Attributes:
        path: the file.
        kind: of artifact.
        facts: for the report.
        before: runs what was quantised.
        after: runs the file.
    """

    path: Path
    kind: str
    facts: Mapping[str, Any]
    before: Segmenter
    after: Segmenter


def quantize(spec: Any, context: ActionContext) -> None:
    """Quantise, measure both networks, and write file, report and numbers.

    Raises:
        SkillBankError: settings that no library here serves, missing packages, weights that do not fit, no
            calibration images.
    """
    if context.rank != 0:
        return
    settings = read_settings(spec)
    if settings.note:
        log.warning("%s", settings.note)
    context.status.running(f"quantising {settings.source} with {settings.library}")
    device = torch.device("cpu") if spec.quantize.device == "cpu" else context.device
    categories = categories_of(spec)
    if settings.method is Method.TORCH_WEIGHTS:
        done = _checkpoint(spec, settings, context.folder, categories, device)
    else:
        done = _onnx(spec, settings, context.folder, categories, device)
    context.register(done.path, done.kind)
    report: dict[str, Any] = {
        "file": done.path.name,
        "source": settings.source.name,
        "backend": spec.quantize.backend,
        "mode": spec.quantize.mode,
        "library": settings.library,
        "note": settings.note,
        **done.facts,
    }
    if is_annotated(spec.dataset.val):
        before = measure(spec, done.before, check_stop=context.check_stop)
        after = measure(spec, done.after, check_stop=context.check_stop)
        change = {name: after[name] - value for name, value in before.items() if name in after}
        report["accuracy"] = {"before": before, "after": after, "change": change}
        context.write_metrics(after, before=before, change=change, quantised=done.path.name)
    else:
        batches, what = sample_batches(spec, most=settings.images)
        found = agreement(batches, done.before, done.after)
        note = (
            "dataset.val names no annotations, so accuracy was not measured; classes of pixels were compared"
        )
        log.warning("%s on %s: %.2f%% agree", note, what, 100 * found["mean_pixel_agreement"])
        report["agreement"] = {"compared_on": what, "note": note, **found}
    written = report_path(done.path)
    write_json(written, _plain(report), mode=0o644)
    context.register(written, "report")
    context.status.running(_summary(report))
    log.info("%s", _summary(report))


def _checkpoint(
    spec: Any, settings: Settings, folder: Path, categories: Categories, device: torch.device
) -> _Done:
    """Weights alone, by torchao, in a checkpoint that all actions load."""
    network = _network(spec, settings.source)
    rules = LayerRules(settings.layers, settings.skip_names, formats=DTYPES, with_activations=False)
    found = quantise_weights(network, rules)
    path = folder / f"{settings.source.stem}_quantised.pth"
    mark = {"network": "mask2former", "version": __version__, "quantised": settings.library}
    tensors = {f"model.{name}": tensor for name, tensor in found.tensors.items()}
    write_torch(path, {"state_dict": tensors, "tao_model": "mask2former", "skillbank": mark})
    quantised = build_model(spec.model, activation_checkpoint=False)
    quantised.load_state_dict(restore(found.tensors, where=str(path)))
    return _Done(
        path=path,
        kind="checkpoint",
        facts={
            "bytes_before": found.bytes_before,
            "bytes_after": found.bytes_after,
            "ratio": found.bytes_before / found.bytes_after,
            "layers": dict(found.layers),
        },
        before=TorchSegmenter(network, spec=spec, categories=categories, device=device),
        after=TorchSegmenter(quantised, spec=spec, categories=categories, device=device),
    )


def _onnx(spec: Any, settings: Settings, folder: Path, categories: Categories, device: torch.device) -> _Done:
    """By ONNX Runtime; a checkpoint is exported first."""
    require_export_packages()
    path = folder / f"{settings.source.stem}_quantised.onnx"
    before: Segmenter
    with tempfile.TemporaryDirectory(prefix=".float.", suffix=".part", dir=folder) as work:
        source = settings.source
        if source.suffix.lower() == ".onnx":
            before = open_segmenter(source, spec=spec, categories=categories, device=device)
        else:
            network = _network(spec, source)
            source = Path(work) / f"{source.stem}.onnx"
            _export(spec, network, source, settings, categories)
            before = TorchSegmenter(network, spec=spec, categories=categories, device=device)
        facts = quantise_file(spec, settings, source, path, Path(work))
    after = open_segmenter(path, spec=spec, categories=categories, device=device)
    return _Done(path=path, kind="onnx", facts=facts, before=before, after=after)


def _network(spec: Any, source: Path) -> Mask2Former:
    network = build_model(spec.model, activation_checkpoint=False).eval()
    load_weights(network, source, spec)
    return network


def _export(spec: Any, network: Mask2Former, path: Path, settings: Settings, categories: Categories) -> None:
    module = ExportedMask2Former(network, mode=spec.model.mode, topk=spec.model.test_topk_per_image)
    size = settings.input_size or graph_size(spec)
    plan = onnx_plan(
        module,
        path,
        size=size,
        batch=-1,
        dynamic_size=False,
        opset=settings.opset,
        metadata=graph_metadata(spec, categories, size=size),
        device=torch.device("cpu"),
    )
    export_onnx(module, plan)


def _summary(report: Mapping[str, Any]) -> str:
    text = f"{report['file']}: {report['ratio']:.2f} times smaller"
    if "accuracy" in report:
        before, after = report["accuracy"]["before"], report["accuracy"]["after"]
        names = [name for name in ("PQ", "AP", "mIoU") if name in before and name in after]
        text += "".join(f", {name} {before[name]:.4f} -> {after[name]:.4f}" for name in names)
    else:
        text += f", {report['agreement']['mean_pixel_agreement']:.2%} of pixels keep their class"
    return text


def _plain(value: Any) -> Any:
    """Numbers that JSON has no form for become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and value != value:  # NaN
        return None
    return value
