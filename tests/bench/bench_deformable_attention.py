"""Deformable attention against its grid_sample form and against transformers, in turn in one process.

    python tests/bench/bench_deformable_attention.py [--rounds 7] [--image 512]

One encoder layer: 8 heads of 32 channels, strides 32, 16 and 8 of a square image, 4 points. Where there is
CUDA, also the Triton kernels against the grid_sample form, float32 and bfloat16, and the deterministic form.
Prints a JSON list; `extra_MB` is the memory above the inputs at the peak (CUDA only).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from deformable_cases import Case, Form, encoder_case, forward_backward

from skillbank_models.ops._deformable_plain import grid_sample_attention
from skillbank_models.ops.deformable_attention import deformable_attention


def fastest(*inputs) -> torch.Tensor:
    """The form that is taken here."""
    return deformable_attention(*inputs, deterministic=False)


def deterministic(*inputs) -> torch.Tensor:
    """The form with gradients that are bitwise equal from run to run."""
    return deformable_attention(*inputs, deterministic=True)


def in_float32(value, shapes, locations, weights) -> torch.Tensor:
    """The grid_sample form as a model in half precision would call it."""
    return grid_sample_attention(value.float(), shapes, locations, weights).to(value.dtype)


def forward(form: Form, case: Case) -> None:
    """The forward pass alone."""
    with torch.no_grad():
        form(case.value, case.shapes, case.locations, case.weights)


def seconds(run: Callable[[Form, Case], object], form: Form, case: Case) -> float:
    """Wall time of one call, the device included."""
    if case.value.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(form, case)
    if case.value.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def extra_megabytes(run: Callable[[Form, Case], object], form: Form, case: Case) -> float:
    """Memory above what was held before, at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(form, case)
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def row(
    name: str, ours: Form, other: Form, case: Case, rounds: int, allowed: str = ""
) -> list[dict[str, object]]:
    """Forward, and forward with backward, of two forms in turn."""
    found = []
    for what, run in (("forward", forward), ("forward + backward", forward_backward)):
        for form in (ours, other):
            seconds(run, form, case)
        pairs = [(seconds(run, ours, case), seconds(run, other, case)) for _ in range(rounds)]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        result: dict[str, object] = {
            "name": f"deformable attention, {name}, {what}",
            "command": "deformable_attention(...)",
            "median_s": mine,
            "reference_s": theirs,
            "ratio": statistics.median(a / b for a, b in pairs),
            "allowed": allowed,
        }
        if case.value.is_cuda:
            result["extra_MB"] = extra_megabytes(run, ours, case)
            result["reference_extra_MB"] = extra_megabytes(run, other, case)
        found.append(result)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--image", type=int, default=512)
    given, _ = parser.parse_known_args()
    case, size = encoder_case(given.image), f"{given.image} px"
    rows = [
        *row(
            f"CPU, {size}, against transformers",
            fastest,
            multi_scale_deformable_attention,
            case,
            given.rounds,
            "0.5",
        ),
        *row(f"CPU, {size}, against grid_sample", fastest, grid_sample_attention, case, given.rounds),
    ]
    if torch.cuda.is_available():
        exact, half = case.to("cuda", torch.float32), case.to("cuda", torch.bfloat16)
        rows += [
            *row(
                f"CUDA float32, {size}, Triton against grid_sample",
                fastest,
                grid_sample_attention,
                exact,
                30,
                "0.5",
            ),
            *row(f"CUDA bfloat16, {size}, Triton against grid_sample", fastest, in_float32, half, 30, "0.5"),
            *row(f"CUDA float32, {size}, deterministic against Triton", deterministic, fastest, exact, 10),
        ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
