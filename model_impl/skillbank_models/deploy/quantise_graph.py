"""Quantisation of ONNX files by ONNX Runtime: 8-bit arithmetic with measured ranges, or 8-bit weights alone.

Both write standard operators: integers with QuantizeLinear and DequantizeLinear, which ONNX Runtime and
TensorRT turn into 8-bit kernels where they have them. Numbers are symmetric around zero, the only form that
TensorRT takes.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import InvalidValueError
from skillbank_models.deploy.quantise_rules import Choice, LayerRules
from skillbank_models.deploy.quiet import quiet_loggers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

__all__ = ["Calibration", "GraphChoice", "choose_layers", "quantise_static", "weights_to_int8"]

log = logging.getLogger(__name__)

_CLASSES: Mapping[str, tuple[str, ...]] = {"MatMul": ("Linear",), "Gemm": ("Linear",), "Conv": ("Conv2d",)}
_LARGEST = 127


@dataclass(frozen=True, slots=True)
class GraphChoice:
    """Nodes to quantise, by name.

    Attributes:
        full: weights and inputs.
        weights: weights alone, with what is done to them.
        per_channel: whether weights of `full` have one scale for each output; else one for all.
    """

    full: tuple[str, ...]
    weights: Mapping[str, Choice]
    per_channel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How ranges of inputs are found.

    Attributes:
        batches: makes an iterator over inputs by name; each call starts anew.
        method: MinMax, Entropy or Percentile.
        providers: what ONNX Runtime runs on.
        percentile: share of values inside the range, in percent, for Percentile.
    """

    batches: Callable[[], Iterator[Mapping[str, NDArray[Any]]]]
    method: str
    providers: Sequence[str]
    percentile: float = 99.99


def choose_layers(model: ModelProto, rules: LayerRules) -> GraphChoice:
    """Apply rules to the layers of a graph: products and convolutions with constant weights.

    Products of two computed tensors, as in attention, are left in floating point.

    Raises:
        InvalidValueError: the rules leave nothing to quantise, or want scales of both kinds where inputs are
            quantised too.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    full: dict[str, Choice] = {}
    weights: dict[str, Choice] = {}
    for node in model.graph.node:
        if node.op_type not in _CLASSES or len(node.input) < 2 or node.input[1] not in constants:
            continue
        path = node.name.rpartition("/")[0]
        choice = rules.choice(path, (*_CLASSES[node.op_type], node.op_type, node.name))
        if choice is None:
            continue
        if choice.activations is not None:
            full[node.name] = choice
        else:
            weights[node.name] = choice
    if not full and not weights:
        raise InvalidValueError(
            "quantize.layers and quantize.skip_names leave no layer to quantise",
            hint="quantize.layers=[] quantises every layer",
            key="quantize.layers",
        )
    for pattern in rules.unused():
        log.warning("quantize: no layer matches %r", pattern)
    return GraphChoice(tuple(full), weights, _is_per_channel(full))


def _is_per_channel(full: Mapping[str, Choice]) -> bool:
    """Whether all of these layers want one scale for each output; False where all want a single one."""
    by_kind = {choice.axis is not None: name for name, choice in full.items()}
    if len(by_kind) > 1:
        raise InvalidValueError(
            f"quantize.layers: weights.quant_axis is 0 for {by_kind[True]} and empty for {by_kind[False]}; "
            "ONNX Runtime treats all layers alike whose inputs are quantised",
            hint="give all rules with activations the same weights.quant_axis, 0 or nothing",
            key="quantize.layers",
            allowed=[0, None],
        )
    return by_kind.keys() != {False}


def quantise_static(
    source: Path, target: Path, nodes: Sequence[str], calibration: Calibration, *, per_channel: bool
) -> None:
    """Write a file whose nodes compute with 8-bit numbers, in ranges measured on calibration inputs.

    Args:
        per_channel: one scale for each output of the weights; else one for all.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self._batches = calibration.batches()

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            found = next(self._batches, None)
            return dict(found) if found is not None else None

    options: dict[str, Any] = {"ActivationSymmetric": True, "WeightSymmetric": True}
    if calibration.method == "Percentile":
        options["CalibPercentile"] = calibration.percentile
    # the advice in its log is to run a step that the exporter has done
    with quiet_loggers(("",)), contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_CLASSES),
            nodes_to_quantize=list(nodes),
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[calibration.method],
            calibration_providers=list(calibration.providers),
            extra_options=options,
        )


def weights_to_int8(model: ModelProto, chosen: Mapping[str, Choice]) -> None:
    """Store weights as 8-bit numbers with scales, in place; the graph computes them back before use.

    Args:
        chosen: node name -> what is done; other nodes that use the same weights use the same numbers.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted = {node.input[1]: (node, chosen[node.name]) for node in model.graph.node if node.name in chosen}
    new: list[NodeProto] = []
    tensors: list[TensorProto] = []
    for name, (node, choice) in wanted.items():
        weight = numpy_helper.to_array(constants[name])
        axis = _output_axis(node, weight.ndim) if choice.axis is not None else None
        values, scale = _rounded(weight, axis)
        tensors += [
            numpy_helper.from_array(values, f"{name}_int8"),
            numpy_helper.from_array(scale, f"{name}_scale"),
        ]
        back = helper.make_node(
            "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], name=f"{node.name}_weight"
        )
        if axis is not None:
            back.attribute.append(helper.make_attribute("axis", axis))
        new.append(back)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in wanted]
    nodes = [*new, *model.graph.node]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *tensors])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _output_axis(node: NodeProto, axes: int) -> int:
    """Axis of the weights that counts outputs."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Gemm" and transposed else axes - 1


def _rounded(weight: NDArray[Any], axis: int | None) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None, keepdims=True)
    scale = np.maximum(largest / _LARGEST, 1e-12).astype(np.float32)
    values = np.clip(np.rint(weight / scale), -_LARGEST, _LARGEST).astype(np.int8)
    return values, scale.reshape(-1) if axis is not None else scale.reshape(())
