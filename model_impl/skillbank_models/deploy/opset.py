"""Older operator sets for files of the exporter, which writes set 18 and later.

Between sets 17 and 18 only few operators changed. Each change that loses nothing is undone here; anything
else is refused by name, so that a file never claims a set whose rules it breaks.

Source: the change log of the ONNX operators, https://onnx.ai/onnx/operators (Apache-2.0), version 18.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillbank.errors import InvalidValueError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["EXPORTER_FLOOR", "LOWEST", "to_opset_17"]

LOWEST = 17
EXPORTER_FLOOR = 18  # the lowest set that torch's exporter writes

_NEW_IN_18 = frozenset(
    {
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "CenterCropPad",
        "Col2Im",
        "GroupNormalization",
        "Mish",
    }
)
_AXES_BECAME_INPUT = frozenset(
    {
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceProd", "ReduceSumSquare",
    }
)  # fmt: skip


def to_opset_17(model: ModelProto, *, key: str) -> None:
    """Rewrite a graph of set 18 in the words of set 17, in place.

    Args:
        key: spec key that asked for the set, for messages.

    Raises:
        InvalidValueError: an operator has no equal form in set 17; lists all of them.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    refused: list[str] = []
    for node in model.graph.node:
        if node.domain:
            continue
        if node.op_type in _AXES_BECAME_INPUT and len(node.input) > 1 and node.input[1]:
            found = constants.get(node.input[1])
            if found is None:
                refused.append(f"{node.op_type} with computed axes")
                continue
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(found).tolist()))
        reason = _refusal(node)
        if reason:
            refused.append(reason)
        _drop_defaults(node)
    if refused:
        raise InvalidValueError(
            f"{key}: operator set 17 has no {', '.join(sorted(set(refused)))}, which this graph needs; "
            "use 18 or later",
            hint=f"{key}=18",
            key=key,
            value=17,
        )
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = 17


def _refusal(node: NodeProto) -> str:
    values = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in _NEW_IN_18:
        return node.op_type
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        return "Pad of chosen axes"
    if node.op_type == "Resize" and ("axes" in values or ("antialias" in values and values["antialias"].i)):
        return "Resize of chosen axes or with antialiasing"
    if node.op_type in {"ScatterElements", "ScatterND"} and "reduction" in values:
        return node.op_type + " with max or min" if values["reduction"].s in {b"max", b"min"} else ""
    return ""


def _drop_defaults(node: NodeProto) -> None:
    """Remove attributes that set 18 brought and that say what set 17 does anyway."""
    brought = {
        "Resize": {"antialias", "keep_aspect_ratio_policy"},
        "Split": {"num_outputs"},  # set 17 splits evenly by the number of outputs
        **{kind: {"noop_with_empty_axes"} for kind in _AXES_BECAME_INPUT},
    }.get(node.op_type, set())
    kept = [attribute for attribute in node.attribute if attribute.name not in brought]
    if len(kept) != len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)
