"""Relations between keys that hold for several networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from skillbank.specs.base import Rule

__all__ = [
    "BATCH_PROFILE",
    "CHECKPOINT_INTERVAL",
    "MILESTONES",
    "ONNX_FILE",
    "VALIDATION_INTERVAL",
    "divisible",
    "not_above",
    "weights_for",
]


def weights_for(action: str) -> Rule:
    """The action needs a checkpoint or an engine; either will do."""
    return Rule(
        keys=(f"{action}.checkpoint", f"{action}.trt_engine"),
        check=lambda checkpoint, engine: (
            None if checkpoint or engine else "nothing says which weights to use; one of the two is mandatory"
        ),
        hint=f"{action}.checkpoint=model.pth, or name the training job with --parent-job-id",
        actions=(action,),
        missing=True,
    )


def divisible(key: str, divisor_key: str) -> Rule:
    """The value of one key must be a multiple of that of another."""
    return Rule(
        keys=(key, divisor_key),
        check=lambda value, divisor: (
            None if value % divisor == 0 else f"{value} is not a multiple of {divisor}; use a multiple"
        ),
        hint=f"change {key} or {divisor_key}",
    )


def not_above(low_key: str, high_key: str) -> Rule:
    """A lower bound, or each of a list of them, must not exceed an upper one."""

    def check(low: float | Sequence[float], high: float) -> str | None:
        largest = max(low, default=high) if isinstance(low, Sequence) else low
        return None if largest <= high else f"{largest} is above {high}; the first must not exceed the second"

    return Rule(keys=(low_key, high_key), check=check, hint=f"lower {low_key} or raise {high_key}")


def _interval(interval: float, epochs: int, unit: str = "epoch") -> str | None:
    if unit == "step" or interval <= epochs:
        return None
    return f"an interval of {interval} epochs would never end within {epochs} epochs; use at most {epochs}"


CHECKPOINT_INTERVAL = Rule(
    keys=("train.checkpoint_interval", "train.num_epochs", "train.checkpoint_interval_unit"),
    check=_interval,
    hint="lower train.checkpoint_interval or raise train.num_epochs",
    actions=("train",),
)

VALIDATION_INTERVAL = Rule(
    keys=("train.validation_interval", "train.num_epochs"),
    check=_interval,
    hint="lower train.validation_interval or raise train.num_epochs",
    actions=("train",),
)

MILESTONES = Rule(
    keys=("train.optim.milestones",),
    check=lambda milestones: (
        None
        if all(first < second for first, second in pairwise(milestones))
        else f"{milestones} does not increase; list the epochs in increasing order, each once"
    ),
    actions=("train",),
)

ONNX_FILE = Rule(
    keys=("export.onnx_file",),
    check=lambda path: (
        None
        if not path or path.lower().endswith(".onnx")
        else f"{path!r} is no .onnx file; encrypted .etlt files cannot be written, use a name ending in .onnx"
    ),
    hint="export.onnx_file=model.onnx",
    actions=("export",),
)

BATCH_PROFILE = Rule(
    keys=(
        "gen_trt_engine.tensorrt.min_batch_size",
        "gen_trt_engine.tensorrt.opt_batch_size",
        "gen_trt_engine.tensorrt.max_batch_size",
    ),
    check=lambda least, best, most: (
        None
        if least <= best <= most
        else f"{least}, {best}, {most} must not decrease from min over opt to max"
    ),
    actions=("gen_trt_engine",),
)
