"""Computing once, at export, what a graph would compute from its weights at every call.

The exporter folds most of it, but not operators with several outputs, such as the cut of a packed attention
weight. A weight that is a constant can be quantised; one that is cut at run time cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["fold_weights"]

# only these: they move numbers without changing them
_MOVES = frozenset({"Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})


def fold_weights(model: ModelProto) -> None:
    """Replace cuts and transpositions of constants by their results, in place.

    What would grow the file, such as a small table looked up many times, stays as it is.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    results = {value.name for value in model.graph.output}
    made: set[str] = set()
    kept = []
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type not in _MOVES or node.domain or any(name not in known for name in inputs):
            kept.append(node)
            continue
        computed: Any = ReferenceEvaluator(node).run(None, {name: known[name] for name in inputs})
        found: list[NDArray[Any]] = list(computed)
        if sum(array.nbytes for array in found) > known[node.input[0]].nbytes or results & set(node.output):
            kept.append(node)
            continue
        for name, array in zip(node.output, found, strict=True):
            known[name] = np.ascontiguousarray(array)
            made.add(name)
    used = {name for node in kept for name in node.input} | results
    initial = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initial)
    model.graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in sorted(made & used))
    del model.graph.node[:]
    model.graph.node.extend(kept)
