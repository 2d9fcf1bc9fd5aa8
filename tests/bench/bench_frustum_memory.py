"""Peak memory of the 3D part of one image: 256 voxels per side, 512 projected channels, full width.

Memory is that of a whole process, as the kernel counts it: each case has a child process, which builds
weights, 2D results and annotations, takes a small step so that libraries are there, has its high-water mark
of resident memory reset, and then lifts, completes the volume, and in training measures the losses and goes
backward. What is resident before does not count. The
yardstick is what the published way holds at once for the same voxels: the dense voxel-to-pixel map and the
fused tensor of 543 channels.

The occupancy of an untrained network keeps nearly all voxels. So the annotation is added to its logits: as
many voxels survive as with a trained one.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

import torch
from bench_lifting import CHANNELS, CLASSES, FUSED, SIDE, resident, room
from frustum_cases import room as small_room
from frustum_cases import small_decoder
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from skillbank_models.layers.matcher import Match
from skillbank_models.nvpanoptix3d.batch import VolumeTarget
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Grid
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.frustum_criterion import FrustumCriterion
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder
from skillbank_models.nvpanoptix3d.lifting import lift
from skillbank_models.nvpanoptix3d.outputs import FrustumInputs
from skillbank_models.nvpanoptix3d.projection import band_of, project
from skillbank_models.nvpanoptix3d.views import view_of
from skillbank_models.nvpanoptix3d.volume_targets import values_at

QUERIES, MASKS, MAX_VOXELS = 100, 10, 700_000
ALLOWED = 0.25
# name -> (what runs, training, recomputation, bfloat16)
CASES = {
    "input stage, training": ("inputs", True, True, False),
    "input stage, training, nothing recomputed": ("inputs", True, False, False),
    "whole, inference": ("whole", False, False, False),
    "whole, training": ("whole", True, True, False),
    "whole, training, bfloat16": ("whole", True, True, True),
    "whole, training, nothing recomputed": ("whole", True, False, False),
}
BOUND = ("input stage, training",)


def annotated(depth: Tensor, view: Any) -> VolumeTarget:
    """Distance to the visible surface, as if nothing were behind it; ten masks by place."""
    surface = torch.ones(SIDE, SIDE, SIDE, dtype=torch.bool)
    x, y, z = band_of(depth, views=[view], band=0).sites.coords[:, 1:].long().unbind(1)
    surface[x, y, z] = False
    distance = torch.from_numpy(distance_transform_edt(surface.numpy())).float().clamp_(max=12.0)
    place = torch.arange(SIDE) * MASKS // SIDE + 1
    owner = torch.where(distance < 1.0, place[:, None, None], 0).to(torch.int16)
    return VolumeTarget(distance, torch.full((SIDE,) * 3, 5, dtype=torch.uint8), owner)


def follow(decoder: FrustumDecoder, target: VolumeTarget) -> None:
    """Let the annotation decide which voxels survive."""

    def of_grid(_module: nn.Module, _given: Any, logits: Tensor) -> Tensor:
        cells = torch.ones(logits.shape[-3:]).nonzero()
        near = values_at(target.distance, cells, logits.shape[-1]) < 8.0
        return logits + (near.view(logits.shape[-3:]) * 100.0 - 50.0)

    def of_voxels(_module: nn.Module, _given: Any, found: Any) -> Any:
        near = values_at(target.distance, found.coords[:, 1:], found.side)
        near = near < (6.0 if found.side < SIDE else 3.0)
        return found.with_features(found.features + (near[:, None] * 100.0 - 50.0))

    decoder.coarse.occupancy.register_forward_hook(of_grid)
    decoder.middle.occupancy.register_forward_hook(of_voxels)
    decoder.fine.occupancy.register_forward_hook(of_voxels)


def build(recompute: bool) -> FrustumDecoder:
    """The decoder of the default settings."""
    return FrustumDecoder(
        sign_channel=True,
        appearance_channels=CHANNELS,
        num_classes=CLASSES,
        query_dim=256,
        features=16,
        out_channels=16,
        side=SIDE,
        truncation=3.0,
        norm="instance",
        multi_scale=False,
        scale_channels=256,
        max_voxels=MAX_VOXELS,
        use_checkpoint=recompute,
    )


def warm_up(half: bool) -> None:
    """A step of a decoder of few voxels, so that what libraries load at their first use is there."""
    inputs, queries, frusta = small_room(shared=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = small_decoder(use_checkpoint=True)(inputs, queries, frusta)
    (output.geometry.features.sum() + output.full.occupancy.features.sum()).backward()


def child(name: str) -> None:
    """One case: peak and seconds."""
    part, training, recompute, half = CASES[name]
    torch.manual_seed(0)
    depth, scores, occupancy = room()
    view = view_of(FRONT3D_CAMERA, Grid(SIDE, 0.03, 0.4, 6.0), shifted=True, rule="measured")
    frusta = frustum_mask(view, "cpu").unsqueeze(0)
    decoder = build(recompute).train(training)
    target = annotated(depth, view)
    follow(decoder, target)
    maps = torch.randn(1, CHANNELS, 104, 128).requires_grad_(training)
    queries = torch.randn(1, QUERIES, 256)
    pairs = torch.arange(MASKS)[None]
    criterion = FrustumCriterion(
        truncation=3.0,
        occupied_below=(8.0, 6.0, 3.0),
        occupancy_weights=(50.0, 25.0, 10.0),
        surface_weight=5.0,
        panoptic_weight=25.0,
    )
    counts: dict[str, int] = {}

    def lifted() -> FrustumInputs:
        surface = project(
            depth, maps, scores, views=[view], sizes=[(240, 320)], padded=(256, 320), sign_channel=True
        )
        filled = lift(
            depth,
            scores,
            occupancy,
            views=[view],
            frusta=frusta,
            room_masks=None,
            num_things=9,
            fill=True,
            far=6.0,
        )
        counts.update(projected=surface[0].sites.num, lifted=filled.sites.num)
        return FrustumInputs(*surface, filled, [])

    def run() -> None:
        if part == "inputs":
            joined = decoder.encoder.join(lifted())
            joined.features.float().square().mean().backward()
            return
        output = decoder(lifted(), queries, frusta, all_levels=training)
        counts.update(
            half=output.half.occupancy.sites.num,
            full=output.full.occupancy.sites.num,
            kept=output.geometry.sites.num,
        )
        if training:
            losses = criterion(output, [target], [Match(pairs, pairs)], torch.ones(1), [MASKS])
            criterion.total(losses).backward()

    for parameter in decoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    warm_up(half)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), torch.set_grad_enabled(training):
        run()
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") - before
    with torch.no_grad():
        inputs = lifted()
        counts["union"] = len(torch.unique(torch.cat((inputs.distance.sites.keys, inputs.lifted.sites.keys))))
    json.dump({"peak": peak, "seconds": seconds, "counts": counts}, sys.stdout)


def main() -> None:
    """Report each case."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back at once
    rows: list[dict[str, Any]] = []
    for name in sys.argv[1:] or CASES:
        done = subprocess.run(
            [sys.executable, __file__, "--child", name],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = json.loads(done.stdout)
        dense, fused = SIDE**3 * 5 * 4, found["counts"]["union"] * FUSED * 4
        row = {
            "name": f"3D part, {name}: peak memory; voxels {found['counts']}, {found['seconds']:.1f} s",
            "command": "resident memory of a process of its own",
            "unit": "MB",
            "median_s": found["peak"] / 1e6,
            "reference_s": (dense + fused) / 1e6,
            "reference": f"dense map {dense / 1e6:.0f} MB and {FUSED} channels of the union",
            "ratio": found["peak"] / (dense + fused),
        }
        rows.append({**row, "allowed": ALLOWED} if name in BOUND else row)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    child(sys.argv[2]) if sys.argv[1:2] == ["--child"] else main()
