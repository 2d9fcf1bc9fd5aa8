"""Results of one furnished room in a grid of 256^3: seconds on one thread, and what the files weigh.

The room has eight boxes, walls and floor; its mesh has about 320 000 triangles.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from nvpanoptix3d_scenes import CATEGORIES, room_scene

from skillbank_models.nvpanoptix3d.mesh_files import write_glb, write_ply
from skillbank_models.nvpanoptix3d.meshes import surface_of
from skillbank_models.nvpanoptix3d.page_mesh import packed
from skillbank_models.nvpanoptix3d.preview import draw_preview
from skillbank_models.nvpanoptix3d.scene_segments import scene_segments
from skillbank_models.nvpanoptix3d.scene_writer import SceneWriter

ROUNDS = 5
COMMAND = "python tests/bench/bench_scene_results.py"


def timed(work) -> float:
    """Median seconds of a few runs."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Print one row for each step, and one for each size."""
    image, scene, view = room_scene(256)
    image_segments, segments = scene_segments(scene, CATEGORIES)
    mesh = surface_of(scene, view, segments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def whole() -> None:
            writer = SceneWriter(folder, categories=CATEGORIES, rank=0, world=1)
            writer.add("room.png", "room.png", image, scene, view)
            writer.finish()

        steps = {
            "all files and the page": whole,
            f"mesh, {len(mesh.faces)} triangles": lambda: surface_of(scene, view, segments),
            "mesh packed for the page": lambda: packed(mesh, view.grid.voxel),
            "PLY": lambda: write_ply(folder / "mesh.ply", mesh),
            "GLB": lambda: write_glb(folder / "mesh.glb", mesh, view.camera),
            "preview": lambda: draw_preview(
                image, scene.segment_map, image_segments, scene.depth, CATEGORIES
            ),
        }
        rows = [
            {"name": f"results of a 256^3 room: {step}", "command": COMMAND, "median_s": timed(work)}
            for step, work in steps.items()
        ]
        for file in ("scenes/room_mesh.ply", "scenes/room_mesh.glb", "scenes/room_volumes.npz", "index.html"):
            size = (folder / file).stat().st_size / 1e6
            rows.append(
                {"name": f"size of {Path(file).name}", "command": COMMAND, "median_s": size, "unit": "MB"}
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
