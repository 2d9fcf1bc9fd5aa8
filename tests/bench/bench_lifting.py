"""Lifting and projection of one image at full size: 256 voxels per side, 160 x 120 pixels, 512 channels.

Memory is that of the whole process, as the kernel counts it: a child process builds the inputs, has its
high-water mark of resident memory reset, and runs once with empty caches. Python's own accounting does not
see tensors. It is compared with what the published way holds at once for the same voxels: the dense
voxel-to-pixel map and the fused tensor of 543 channels.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Grid
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.lifting import lift
from skillbank_models.nvpanoptix3d.projection import project
from skillbank_models.nvpanoptix3d.views import view_of

PLANE, CLASSES, CHANNELS, BINS, SIDE = (120, 160), 13, 512, 100, 256
FUSED = 2 + CHANNELS + CLASSES + CLASSES + 3
ROUNDS = 5
ALLOWED = 0.25


def room() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depth, class scores and occupancy of a box room 4.4 m deep with furniture along the walls and in it."""
    rng = np.random.default_rng(0)
    height, width = PLANE
    camera = FRONT3D_CAMERA.scaled(width, height)
    down, across = np.mgrid[0:height, 0:width].astype(float)
    across, down = (across - camera.cx) / camera.fx, (down - camera.cy) / camera.fy  # slopes of the rays
    planes = [(4.4 / np.ones_like(across), 10)]
    planes += [(reach / np.maximum(side, 1e-6), 10) for reach, side in ((1.8, -across), (2.0, across))]
    planes += [(1.2 / np.maximum(down, 1e-6), 11), (1.3 / np.maximum(-down, 1e-6), 12)]
    distances = np.stack([distance for distance, _ in planes])
    depth = distances.min(0)
    labels = np.array([label for _, label in planes])[distances.argmin(0)]
    for label in range(1, 10):
        left, near, wide, tall = rng.uniform((-1.6, 1.6, 0.3, 0.4), (1.4, 3.8, 1.0, 1.2))
        box = (across * near > left) & (across * near < left + wide)
        box &= (down * near < 1.2) & (down * near > 1.2 - tall) & (depth > near)
        depth[box], labels[box] = near, label
    scores = rng.uniform(0, 0.1, (CLASSES, *PLANE))
    np.put_along_axis(scores, labels[None], 0.9, 0)
    occupancy = rng.normal(size=(BINS, *PLANE))
    return tuple(torch.tensor(part[None]).float() for part in (depth, scores, occupancy))


def resident(field: str) -> int:
    """Bytes of this process; VmRSS now, VmHWM the most since the mark was reset."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1]) * 1024


def child() -> None:
    """Run once for the memory, then several times for the clock."""
    torch.set_num_threads(1)
    depth, scores, occupancy = room()
    appearance = torch.randn(1, CHANNELS, 104, 128)
    view = view_of(FRONT3D_CAMERA, Grid(SIDE, 0.03, 0.4, 6.0), shifted=True, rule="measured")
    frusta = frustum_mask(view, "cpu").unsqueeze(0)

    def run():
        surface = project(
            depth,
            appearance,
            scores,
            views=[view],
            sizes=[(240, 320)],
            padded=(256, 320),
            sign_channel=True,
        )
        lifted = lift(
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
        return surface, lifted

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start = time.perf_counter()
    surface, lifted = run()
    first = time.perf_counter() - start
    peak = resident("VmHWM") - before
    voxels = len(torch.unique(torch.cat((surface[0].sites.keys, lifted.sites.keys))))
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    zeros = int((lifted.features == 0).all(1).sum())
    counts = {
        "projected": surface[0].sites.num,
        "lifted": lifted.sites.num - zeros,
        "added": zeros,
        "union": voxels,
    }
    json.dump({"first_s": first, "seconds": seconds, "peak": peak, "counts": counts}, sys.stdout)


def main() -> None:
    """Report time and memory."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back at once
    done = subprocess.run(
        [sys.executable, __file__, "--child"], env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    counts = found["counts"]
    dense, fused = SIDE**3 * 5 * 4, counts["union"] * FUSED * 4
    name = "lifting and projection, 256 voxels per side, 512 channels, one image, one thread"
    report = [
        {
            "name": name,
            "command": "project and lift",
            "median_s": statistics.median(found["seconds"]),
            "first_s": found["first_s"],
        },
        {
            "name": f"peak memory of it; {counts}",
            "command": "resident memory of a process of its own",
            "unit": "MB",
            "median_s": found["peak"] / 1e6,
            "reference_s": (dense + fused) / 1e6,
            "reference": f"dense map {dense / 1e6:.0f} MB and {FUSED} channels of {counts['union']} voxels",
            "ratio": found["peak"] / (dense + fused),
            "allowed": ALLOWED,
        },
    ]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    child() if "--child" in sys.argv else main()
