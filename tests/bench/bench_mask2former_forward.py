"""Forward pass of Mask2Former, Swin-T, one 512 x 512 image: ours and the one of transformers, same weights.

Both end with class and mask logits of the last layer. Measured in turn in one process, so that both meet the
same load; on a GPU also bfloat16, and the plain deterministic form of deformable attention against the fast
one.
"""

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# On a shared machine, threads that spin while they wait measure the neighbours; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

import torch

warnings.simplefilter("ignore")
from mask2former_pairs import model_spec, random_pair  # noqa: E402

SIZE = 512
ROUNDS = 7
ALLOWED = 0.7
SETTINGS = {"sem_seg_head.num_classes": 150, "backbone.swin.pretrain_img_size": 224}


def medians(runs: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """Seconds of each, one after the other in every round; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    """Print one row for each comparison."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hf, ours = random_pair(model_spec(SETTINGS), seed=0, spread=0.02)
    hf.config.output_auxiliary_logits = False
    hf, ours = hf.to(device), ours.to(device)
    images = torch.randn(1, 3, SIZE, SIZE, device=device)

    def forward() -> torch.Tensor:
        return ours(images, all_layers=False).mask_logits()

    def forward_bf16() -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return forward()

    def forward_precise() -> torch.Tensor:
        for layer in layers:
            layer.deterministic = True
        try:
            return forward()
        finally:
            for layer in layers:
                layer.deterministic = False

    layers = [module for module in ours.modules() if hasattr(module, "deterministic")]
    runs: dict[str, Callable[[], object]] = {
        "theirs": lambda: hf(images),
        "ours": forward,
        "bf16": forward_bf16,
    }
    if device == "cuda":
        runs["precise"] = forward_precise
    with torch.inference_mode():
        torch.testing.assert_close(forward(), hf(images).masks_queries_logits, rtol=0, atol=1e-3)
        found = medians(runs, device)
    command = f"Swin-T, 1 x 3 x {SIZE} x {SIZE}, {device}, {torch.get_num_threads()} threads"
    rows = [
        {
            "name": "Mask2Former forward, fp32, against transformers",
            "command": command,
            "median_s": found["ours"],
            "reference_s": found["theirs"],
            "ratio": found["ours"] / found["theirs"],
            "allowed": f"{ALLOWED} x reference",
        },
        {
            "name": "Mask2Former forward, bf16 autocast, against our fp32",
            "command": command,
            "median_s": found["bf16"],
            "reference_s": found["ours"],
            "ratio": found["bf16"] / found["ours"],
        },
    ]
    if device == "cuda":
        rows.append(
            {
                "name": "Mask2Former forward, fast deformable attention against precise_msda",
                "command": command,
                "median_s": found["ours"],
                "reference_s": found["precise"],
                "ratio": found["ours"] / found["precise"],
            }
        )
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
