"""Whether an exported file answers like the module it came from.

Numbers are compared element by element. Two things make a plain maximum useless: a value near a threshold may
fall on the other side of it in another runtime, which moves a 0/1 pixel or a class by a whole step, and equal
scores may be sorted in another order. So a small share of elements may differ by more than the tolerance, and
rows that are sorted by score are matched by their keys first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skillbank.errors import BackendError

__all__ = ["Difference", "Tolerance", "compare", "differences", "require_equal"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What counts as equal.

    Attributes:
        absolute: most that an element may differ by.
        share: most of an output's elements, 0 to 1, that may differ by more.
        ranked: outputs (B, rows, ...) that are sorted together; empty where the order of rows is fixed.
        row_keys: those of `ranked` whose integers together name a row; rows are matched by them.
        lists: outputs (rows, ...) whose number of rows follows from the data; a row that one side lacks is
            too far off.
        list_key: the one of `lists` whose integers name a row, each row once; rows are matched by it.
    """

    absolute: float
    share: float
    ranked: tuple[str, ...] = ()
    row_keys: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    list_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one output is off on one sample.

    Attributes:
        largest: largest absolute difference.
        beyond: share of elements that differ by more than the tolerance.
    """

    output: str
    largest: float
    beyond: float


def compare(
    module: nn.Module, path: Path, samples: Sequence[Mapping[str, Tensor]], tolerance: Tolerance
) -> dict[str, Any]:
    """Run module and file on the same inputs, on the CPU.

    Args:
        module: takes the tensors of a sample by name, returns its outputs in the file's order.
        samples: inputs by name.

    Returns:
        Runtime, tolerance, differences by sample, largest difference by output, and a verdict, as JSON
        values.

    Raises:
        BackendError: the file cannot be run.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    module = module.cpu().eval()
    rows: list[dict[str, Any]] = []
    worst: dict[str, float] = dict.fromkeys(names, 0.0)
    equal = True
    for sample in samples:
        with torch.no_grad():
            answer = module(**sample)
        wanted = {name: tensor.numpy() for name, tensor in zip(names, answer, strict=True)}
        given = {name: tensor.numpy() for name, tensor in sample.items()}
        found = dict(zip(names, _run(session, given, path), strict=True))
        off = differences(wanted, found, tolerance)
        equal = equal and all(item.beyond <= tolerance.share for item in off)
        for item in off:
            worst[item.output] = max(worst[item.output], item.largest)
        rows.append(
            {
                "inputs": {name: list(tensor.shape) for name, tensor in sample.items()},
                "max_abs_diff": {item.output: item.largest for item in off},
                "share_beyond_tolerance": {item.output: item.beyond for item in off},
            }
        )
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__} on the CPU against torch {torch.__version__}",
        "tolerance": {"max_abs_diff": tolerance.absolute, "share_of_elements_beyond": tolerance.share},
        "samples": rows,
        "max_abs_diff": worst,
        "equal": equal,
    }


def _run(session: Any, given: Arrays, path: Path) -> list[NDArray[Any]]:
    try:
        found: list[NDArray[Any]] = session.run(None, dict(given))
    except Exception as err:  # the runtime has classes of its own, without a public base
        shapes = ", ".join(f"{name} {array.shape}" for name, array in given.items())
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise BackendError(
            f"{path.name}: ONNX Runtime cannot run the exported graph on {shapes} ({said})",
            hint="the file was not written; try another opset_version, and report the case with the spec",
        ) from err
    return found


def differences(wanted: Arrays, found: Arrays, tolerance: Tolerance) -> list[Difference]:
    """Compare outputs of equal names; a wrong shape or a NaN on one side only counts as wholly different."""
    if tolerance.row_keys:
        found = _same_rows(wanted, found, tolerance)
    alone = 0.0
    if tolerance.list_key:
        wanted, found, alone = _shared_rows(wanted, found, tolerance)
    out: list[Difference] = []
    for name, truth in wanted.items():
        answer = found[name]
        if truth.shape != answer.shape:
            out.append(Difference(output=name, largest=float("inf"), beyond=1.0))
            continue
        off = np.abs(truth.astype(np.float64) - answer.astype(np.float64))
        off[np.isnan(truth) & np.isnan(answer)] = 0.0
        off[np.isnan(off)] = np.inf
        beyond = float((off > tolerance.absolute).mean()) if off.size else 0.0
        if name in tolerance.lists:
            beyond = alone + (1.0 - alone) * beyond
        out.append(Difference(output=name, largest=float(off.max(initial=0.0)), beyond=beyond))
    return out


def require_equal(report: Mapping[str, Any], what: str) -> None:
    """Refuse a comparison whose verdict is that the two are not equal.

    Raises:
        BackendError: names the outputs and how far they are off.
    """
    if report["equal"]:
        return
    allowed = report["tolerance"]
    worst = {
        name: max(row["share_beyond_tolerance"][name] for row in report["samples"])
        for name in report["max_abs_diff"]
    }
    off = [
        f"{name} by up to {report['max_abs_diff'][name]:.3g} ({share:.2%} of its elements too far)"
        for name, share in worst.items()
        if share > allowed["share_of_elements_beyond"]
    ]
    raise BackendError(
        f"{what}: ONNX Runtime and torch differ in {', '.join(off)}; at most "
        f"{allowed['share_of_elements_beyond']:.2%} of the elements may differ by more than "
        f"{allowed['max_abs_diff']:g}",
        hint="the file was not written; try another opset_version, and report the case with the spec",
    )


def _same_rows(wanted: Arrays, found: Arrays, tolerance: Tolerance) -> Arrays:
    """`found` with its ranked rows in the order of `wanted`; a row that only one side has stays where it is.

    Rows at the end of a ranking come and go with the last digit of their score, so they are compared as they
    are and fall under the share that may differ.
    """
    truth_rows, answer_rows = _rows(wanted, tolerance.row_keys), _rows(found, tolerance.row_keys)
    order = np.tile(np.arange(answer_rows.shape[1]), (answer_rows.shape[0], 1))
    for image, (truth, answer) in enumerate(zip(truth_rows, answer_rows, strict=True)):
        place = {tuple(row): index for index, row in enumerate(answer)}
        matched = [place.pop(tuple(row), None) for row in truth]
        left = iter(sorted(place.values()))
        order[image] = [next(left) if index is None else index for index in matched]
    images = np.arange(len(order))[:, None]
    return {**found, **{name: found[name][images, order] for name in tolerance.ranked}}


def _shared_rows(wanted: Arrays, found: Arrays, tolerance: Tolerance) -> tuple[Arrays, Arrays, float]:
    """Both sides with the rows of lists that both have, in one order, and the share that one side lacks."""
    keys = wanted[tolerance.list_key], found[tolerance.list_key]
    _, numbers = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    ours, theirs = np.split(numbers.reshape(-1), [len(keys[0])])
    shared, first, second = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    of_all = len(ours) + len(theirs) - len(shared)
    truth = {**wanted, **{name: wanted[name][first] for name in tolerance.lists}}
    answer = {**found, **{name: found[name][second] for name in tolerance.lists}}
    return truth, answer, 1.0 - len(shared) / of_all if of_all else 0.0


def _rows(values: Arrays, keys: tuple[str, ...]) -> NDArray[Any]:
    return np.stack([values[key] for key in keys], -1)  # (B, rows, keys)
