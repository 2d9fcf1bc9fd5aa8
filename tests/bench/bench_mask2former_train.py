"""A whole training step of Mask2Former, Swin-T, 512 x 512, 10 masks an image: ours and that of transformers.

Forward, losses, backward and AdamW, the fused one on both sides; same weights, images, targets and threads,
in turn in one process. Peak memory is measured in a process for each side: the most that is resident during
a step, less what is resident before it with weights and optimiser state in place. On a GPU fp32 and bf16,
with the peak of the allocator counted the same way.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

import torch

warnings.simplefilter("ignore")
from mask2former_pairs import model_spec, random_pair  # noqa: E402
from mask_cases import random_targets  # noqa: E402

from skillbank.specs.common import Optim  # noqa: E402
from skillbank_models.layers.mask_criterion import MaskCriterion  # noqa: E402
from skillbank_models.optimisers import build_optimiser  # noqa: E402

SIZE, MASKS, CLASSES = 512, 10, 133
ROUNDS = 5
ALLOWED, ALLOWED_MEMORY = 0.7, 1.0
SETTINGS = {"sem_seg_head.num_classes": CLASSES, "backbone.swin.pretrain_img_size": 224}
GIB = 2**30

Step = Callable[[], None]


def criterion(former: Any) -> MaskCriterion:
    """The losses that a spec asks for."""
    return MaskCriterion(
        num_classes=CLASSES,
        class_weight=former.class_weight,
        mask_weight=former.mask_weight,
        dice_weight=former.dice_weight,
        no_object_weight=former.no_object_weight,
        num_points=former.train_num_points,
        oversample_ratio=former.oversample_ratio,
        importance_sample_ratio=former.importance_sample_ratio,
        deep_supervision=former.deep_supervision,
    )


def steps(batch: int, device: str, *, side: str = "both", half: bool = False) -> dict[str, Step]:
    """A step of theirs and one of ours, both warm; `side` builds one of them only."""
    model = model_spec(SETTINGS)
    hf, ours = random_pair(model, seed=0, spread=0.02)
    images = torch.randn(batch, 3, SIZE, SIZE, device=device)
    targets = [
        target._replace(labels=target.labels.to(device), masks=target.masks.to(device))
        for target in random_targets([MASKS] * batch, classes=CLASSES, size=(SIZE, SIZE))
    ]
    losses = criterion(model.mask_former).to(device)
    found: dict[str, Step] = {}
    if side in {"both", "theirs"}:
        hf = hf.to(device).train()
        theirs = torch.optim.AdamW(hf.parameters(), lr=1e-5, fused=True)
        masks = [target.masks.float() for target in targets]
        labels = [target.labels for target in targets]
        found["theirs"] = _step(
            lambda: hf(images, mask_labels=masks, class_labels=labels).loss.sum(), theirs, device, half
        )
    if side in {"both", "ours"}:
        ours = ours.to(device).train()
        optimiser = build_optimiser(ours, Optim.model_validate({"lr": 1e-5}))
        found["ours"] = _step(
            lambda: losses.total(losses(ours(images, all_layers=True), targets)), optimiser, device, half
        )
    return found


def _step(
    loss: Callable[[], torch.Tensor], optimiser: torch.optim.Optimizer, device: str, half: bool
) -> Step:
    def run() -> None:
        with torch.autocast(device, dtype=torch.bfloat16) if half else nullcontext():
            value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    run()
    return run


def medians(runs: dict[str, Step]) -> dict[str, float]:
    """Seconds of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak(run: Step, device: str) -> float:
    """GiB that a step takes beyond what is there before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / GIB
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / GIB


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def peaks(batch: int, device: str, half: bool) -> dict[str, float]:
    """Peak of each side in a process of its own."""
    found = {}
    for side in ("theirs", "ours"):
        command = [sys.executable, __file__, "--peak", side, str(batch), device, str(int(half))]
        # pages that were freed go back at once: a resident page is one in use
        environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found[side] = float(done.stdout)
    return found


def rows(batch: int, device: str, *, half: bool = False) -> list[dict[str, Any]]:
    """Time and memory of one setting."""
    precision = "bf16" if half else "fp32"
    command = f"Swin-T, {batch} x 3 x {SIZE} x {SIZE}, {device}, {torch.get_num_threads()} threads"
    time_s = medians(steps(batch, device, half=half))
    memory = peaks(batch, device, half)
    return [
        {
            "name": f"Mask2Former train step, {precision}, against transformers",
            "command": command,
            "median_s": time_s["ours"],
            "reference_s": time_s["theirs"],
            "ratio": time_s["ours"] / time_s["theirs"],
            "allowed": f"{ALLOWED} x reference",
        },
        {
            "name": f"peak memory of that step above weights and optimiser state, {precision}",
            "command": command,
            "unit": "GiB",
            "median_s": memory["ours"],
            "reference_s": memory["theirs"],
            "ratio": memory["ours"] / memory["theirs"],
            "allowed": f"{ALLOWED_MEMORY} x reference",
        },
    ]


def main() -> None:
    """Print two rows for each setting."""
    if sys.argv[1:2] == ["--peak"]:
        side, batch, device, half = sys.argv[2:]
        print(peak(steps(int(batch), device, side=side, half=bool(int(half)))[side], device))
        return
    found = rows(1, "cpu") + rows(2, "cpu")
    if torch.cuda.is_available():
        found += rows(4, "cuda") + rows(4, "cuda", half=True)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
