"""Reading one room image for stage 2 at 256 voxels per side: from its files, and with small copies of them.

The real 3D-Front sample where it is there, else a made-up room with files of the same kind and size. Pairs
are measured in turn, in one process; the first reading, which makes the copies, is left out.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from front3d_files import FRONT3D_SAMPLE, make_front3d, split_block, write_json
from scene_cases import tiny_spec

from skillbank_models.nvpanoptix3d.data import NVPanoptix3DData

ROUNDS = 7


def sample_set(base: Path, rows: Path, *, validation: bool, **dotted: Any) -> Any:
    """The images of a split."""
    splits = {f"dataset__{name}": split_block(base, rows) for name in ("train", "val", "test")}
    data = NVPanoptix3DData(
        tiny_spec(
            **splits, train__checkpoint_2d="stage1.pth", dataset__enable_3d=True,
            dataset__target_size=[320, 240], model__frustum3d__grid_dimensions=256, **dotted,
        )
    )  # fmt: skip
    data.setup("fit")
    return (data.val_dataloader() if validation else data.train_dataloader()).dataset


def seconds(dataset: Any) -> float:
    """Time of one reading."""
    begin = time.perf_counter()
    dataset[0]
    return time.perf_counter() - begin


def main() -> None:
    """Medians over rounds."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = FRONT3D_SAMPLE
        row = {"scene_id": "sample", "image_id": "0007", "height": 240, "width": 320}
        if not base.is_dir():
            base = make_front3d(root / "made", {"sample": "0007"}, size=(320, 240), wide=True)
        rows = write_json(root / "rows.json", [row])
        for validation in (False, True):
            plain = sample_set(base, rows, validation=validation)
            copied = sample_set(base, rows, validation=validation, dataset__cache_dir=str(root / "cache"))
            seconds(plain), seconds(copied)
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(seconds(copied))
                theirs.append(seconds(plain))
            median, reference = statistics.median(ours), statistics.median(theirs)
            found.append(
                {
                    "name": f"room_data_{'validation' if validation else 'training'}_with_small_copies",
                    "command": "python tests/bench/bench_room_data.py",
                    "median_s": round(median, 4),
                    "reference_s": round(reference, 4),
                    "ratio": round(median / reference, 4),
                    "allowed": 0.2,
                }
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
