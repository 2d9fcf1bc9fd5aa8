"""What is done to an exported graph before it is written, and what a graph says about itself."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skillbank.errors import BackendError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

__all__ = ["custom_nodes", "facts", "is_quantised", "name_axes", "tidy"]

_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(model: ModelProto, *, prefix: str, metadata: Mapping[str, str]) -> None:
    """Name nodes after their modules, and drop what tells of the machine that exported.

    A node is named ``<module>/<operator>_<number>``, so that settings which pick layers by name can be
    written from the names in the checkpoint. Stack traces and notes of the exporter go, for they hold local
    paths.

    Args:
        prefix: start of all module names that is left out, such as ``model.``.
        metadata: key -> text, stored in the file.
    """
    from onnx import helper

    counts: Counter[str] = Counter()
    for node in model.graph.node:
        name = f"{_module_of(node, prefix)}/{node.op_type}"
        node.name = f"{name}_{counts[name]}"
        counts[name] += 1
        del node.metadata_props[:]
        node.doc_string = ""
    for values in (model.graph.initializer, model.graph.input, model.graph.output):
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]
    del model.graph.metadata_props[:]
    _drop_unread(model.graph)
    del model.graph.value_info[:]  # its sizes go by names of the tracer; shape inference finds them again
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    model.doc_string = ""


def _drop_unread(graph: GraphProto) -> None:
    """Drop nodes and constants that nothing reads, which runtimes warn of."""
    while True:
        read = _names_read(graph)
        nodes = [node for node in graph.node if not read.intersection(node.output)]
        constants = [tensor for tensor in graph.initializer if tensor.name not in read]
        if not nodes and not constants:
            return
        for node in nodes:
            graph.node.remove(node)
        for tensor in constants:
            graph.initializer.remove(tensor)


def _names_read(graph: GraphProto) -> set[str]:
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= _names_read(inner)
    return names


def _module_of(node: NodeProto, prefix: str) -> str:
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    try:
        scopes = ast.literal_eval(text) if text else []
    except (SyntaxError, ValueError):
        scopes = []
    path = str(scopes[-2]) if len(scopes) > 1 else ""
    if path.startswith("_"):  # the exporter's word for work outside of any module
        path = ""
    return path.removeprefix(prefix) or "graph"


def name_axes(
    model: ModelProto,
    axes: Mapping[str, Mapping[int, str]],
    *,
    everywhere: Sequence[str],
    but: Sequence[str] = (),
) -> None:
    """Give axes of unknown length readable names, and check that they are of unknown length indeed.

    Args:
        axes: input -> axis -> name.
        everywhere: names of axes that the first axis of every output has to have, such as ``batch``.
        but: outputs that need not.

    Raises:
        BackendError: the graph fixes the length of an axis that was to stay open.
    """
    found: dict[str, str] = {}
    fixed: list[str] = []
    for value in model.graph.input:
        for axis, name in axes.get(value.name, {}).items():
            dim = value.type.tensor_type.shape.dim[axis]
            if dim.dim_param:
                found[dim.dim_param] = name
            else:
                fixed.append(f"{name} of input {value.name} at {dim.dim_value}")
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in found:
                dim.dim_param = found[dim.dim_param]
    fixed += [
        f"{name} of output {value.name} at {_shape(value)[0]}"
        for name in everywhere
        for value in model.graph.output
        if value.name not in but and _shape(value)[:1] != [name]
    ]
    if fixed:
        raise BackendError(
            f"the exported graph fixes {', '.join(fixed)}, though these were to stay dynamic",
            hint="export with fixed sizes: export.batch_size=1",
        )


def custom_nodes(model: ModelProto) -> list[str]:
    """Operators outside the standard set, as ``domain::name``, each once; needs a plug-in to run."""
    return sorted(
        {f"{node.domain}::{node.op_type}" for node in _nodes(model) if node.domain not in {"", "ai.onnx"}}
    )


def is_quantised(model: ModelProto) -> bool:
    """Whether the graph holds integers with scales."""
    return any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in _nodes(model))


def facts(model: ModelProto) -> dict[str, Any]:
    """Inputs, outputs, operator set and operators, as JSON values."""
    from onnx import TensorProto

    def described(values: Sequence[ValueInfoProto]) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "dtype": TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
                "shape": _shape(value),
            }
            for value in values
        ]

    operators = Counter(node.op_type for node in _nodes(model))
    return {
        "opset": next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}),
        "ir_version": model.ir_version,
        "inputs": described(model.graph.input),
        "outputs": described(model.graph.output),
        "operators": dict(sorted(operators.items())),
        "custom_operators": custom_nodes(model),
    }


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _shape(value: ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
