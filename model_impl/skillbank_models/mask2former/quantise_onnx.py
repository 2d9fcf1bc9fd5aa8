"""Quantising an exported Mask2Former, with calibration images of the spec."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import RuntimeMissingError
from skillbank_models.data.augment import padded_side
from skillbank_models.deploy import graph
from skillbank_models.deploy.onnx_file import save_model
from skillbank_models.deploy.quantise_graph import (
    Calibration,
    choose_layers,
    quantise_static,
    weights_to_int8,
)
from skillbank_models.deploy.quantise_rules import LayerRules
from skillbank_models.mask2former.data import calibration_loader
from skillbank_models.mask2former.deployed import fit_images
from skillbank_models.mask2former.quantise_settings import Method, Settings

__all__ = ["graph_size", "quantise_file"]

log = logging.getLogger(__name__)

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "trt": "TensorrtExecutionProvider"}


def graph_size(spec: Any) -> tuple[int, int]:
    """Height and width that every image of the test split fits into at its own scale."""
    target = spec.dataset.test.target_size
    if target:
        return padded_side(target[0]), padded_side(target[1])
    side = padded_side(spec.dataset.augmentation.test_max_size)
    return side, side


def quantise_file(spec: Any, settings: Settings, source: Path, target: Path, work: Path) -> dict[str, Any]:
    """Quantise an ONNX file by the rules of the spec.

    Args:
        source: float file.
        target: to write.
        work: folder for what is needed on the way.

    Returns:
        Sizes and layers, for the report.

    Raises:
        SkillBankError: rules that leave nothing, no calibration images, a provider that is not there.
    """
    import onnx

    is_static = settings.method is Method.GRAPH_STATIC
    rules = LayerRules(
        settings.layers,
        settings.skip_names,
        formats=["int8"],
        with_activations=is_static,
        in_graph=True,
        ranges=settings.calibrate,
    )
    model = onnx.load_model(str(source))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    chosen = choose_layers(model, rules)
    used = 0
    if chosen.full:
        images = _Images(spec, settings, model)
        calibration = Calibration(
            batches=images.batches,
            method=settings.calibrate,
            providers=_providers(spec.quantize.device),
            percentile=settings.percentile,
        )
        quantise_static(
            source, work / "static.onnx", chosen.full, calibration, per_channel=chosen.per_channel
        )
        model = onnx.load_model(str(work / "static.onnx"))
        used = images.count
    if chosen.weights:
        weights_to_int8(model, chosen.weights)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    size = save_model(model, target)
    before = source.stat().st_size
    return {
        "bytes_before": before,
        "bytes_after": size,
        "ratio": before / size,
        "calibration": {"method": settings.calibrate, "images": used} if used else None,
        "layers": {"weights_and_inputs": list(chosen.full), "weights": sorted(chosen.weights)},
        "operators": graph.facts(model)["operators"],
    }


class _Images:
    """Calibration images as the graph takes them."""

    def __init__(self, spec: Any, settings: Settings, model: Any) -> None:
        self._spec, self._most = spec, settings.images
        value = model.graph.input[0]
        dims = value.type.tensor_type.shape.dim
        self._name = value.name
        self._batch = 1 if dims[0].dim_param else int(dims[0].dim_value)
        is_open = bool(dims[2].dim_param or dims[3].dim_param)
        self._size = None if is_open else (int(dims[2].dim_value), int(dims[3].dim_value))
        self.count = 0

    def batches(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        """One image after the other; a graph of fixed batch gets copies."""
        self.count = 0
        for batch in calibration_loader(self._spec, batch_size=1):
            if self.count >= self._most:
                return
            self.count += 1
            images, _ = fit_images(batch.images, batch.sizes, self._size)
            yield {self._name: np.repeat(images.numpy(), self._batch, axis=0)}  # (B, 3, H, W)


def _providers(device: str) -> list[str]:
    """What calibration runs on.

    Raises:
        RuntimeMissingError: TensorRT is asked for and this ONNX Runtime has none.
    """
    import onnxruntime

    wanted = _PROVIDERS.get(device)
    if wanted is None:
        return ["CPUExecutionProvider"]
    if wanted in onnxruntime.get_available_providers():
        return [wanted, "CPUExecutionProvider"]
    if device == "trt":
        raise RuntimeMissingError(
            "quantize.device: trt needs an ONNX Runtime with TensorRT, and this one has none",
            hint="quantize.device=cuda or quantize.device=cpu; the ranges that are found are the same",
            key="quantize.device",
            value=device,
        )
    log.info("this ONNX Runtime has no CUDA; calibration runs on the CPU")
    return ["CPUExecutionProvider"]
