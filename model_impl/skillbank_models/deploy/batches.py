"""Calling a file that takes only some batch sizes with batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.deploy.model_io import ModelInput

__all__ = ["Tensors", "Values", "run_in_batches"]

Tensors: TypeAlias = Mapping[str, Tensor]
Values: TypeAlias = "Tensor | NDArray[Any] | Mapping[str, Tensor | NDArray[Any]]"
Run: TypeAlias = Callable[[Tensors], dict[str, Tensor]]


def run_in_batches(run: Run, values: Values, inputs: Mapping[str, ModelInput], path: Path) -> dict[str, Any]:
    """Check the inputs, split them, run each part and join the results.

    Args:
        run: one call of the file; its results have the batch first.
        values: one value for a file with one input, else values by name.
        inputs: what the file takes; the first one's batch holds for all.
        path: the file, for messages.

    Returns:
        Tensors on the device of the first input where that is a tensor, else arrays.

    Raises:
        ShapeError: names or shapes do not fit.
    """
    first = next(iter(inputs.values()))
    given = dict(values) if isinstance(values, Mapping) else {first.name: values}
    if set(given) != set(inputs):
        raise ShapeError(
            f"{path}: got the inputs {', '.join(sorted(given))}; the file takes {', '.join(inputs)}",
            key=str(path),
            allowed=list(inputs),
        )
    tensors = {name: torch.as_tensor(given[name]).to(found.dtype) for name, found in inputs.items()}
    for name, found in inputs.items():
        found.check(tensors[name].shape, str(path))
    results = _split(run, tensors, first)
    if isinstance(given[first.name], Tensor):
        return {name: tensor.to(tensors[first.name].device) for name, tensor in results.items()}
    return {name: tensor.cpu().numpy() for name, tensor in results.items()}


def _split(run: Run, tensors: Tensors, first: ModelInput) -> dict[str, Tensor]:
    count = len(tensors[first.name])
    if first.most is None or first.least <= count <= first.most:
        return run(tensors)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, first.most):
        part = {name: tensor[start : start + first.most] for name, tensor in tensors.items()}
        have = min(first.most, count - start)
        if have < first.least:
            more = first.least - have
            part = {
                name: torch.cat([tensor, tensor[-1:].expand(more, *tensor.shape[1:])])
                for name, tensor in part.items()
            }
        parts.append({name: tensor[:have] for name, tensor in run(part).items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
