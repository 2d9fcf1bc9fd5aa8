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

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    results = {value.name for value in model.graph.output}
    made: dict[str, NDArray[Any]] = {}

    def known(name: str) -> NDArray[Any]:
        # one at a time: all weights of a large network once more would double the memory
        if name in made:
            return made[name]
        array: NDArray[Any] = numpy_helper.to_array(stored[name])
        return array

    kept = []
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if (
            node.op_type not in _MOVES
            or node.domain
            or any(n not in stored and n not in made for n in inputs)
        ):
            kept.append(node)
            continue
        values = {name: known(name) for name in inputs}
        computed: Any = ReferenceEvaluator(node).run(None, values)
        found: list[NDArray[Any]] = list(computed)
        if sum(array.nbytes for array in found) > values[node.input[0]].nbytes or results & set(node.output):
            kept.append(node)
            continue
        for name, array in zip(node.output, found, strict=True):
            made[name] = np.ascontiguousarray(array)
    used = {name for node in kept for name in node.input} | results
    for place, name in reversed(list(enumerate(stored))):
        if name not in used:
            del model.graph.initializer[place]
    model.graph.initializer.extend(
        numpy_helper.from_array(made[name], name) for name in sorted(set(made) & used)
    )
    del model.graph.node[:]
    model.graph.node.extend(kept)
