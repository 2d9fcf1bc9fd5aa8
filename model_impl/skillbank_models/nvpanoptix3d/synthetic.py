"""Made-up data for NVPanoptix3D: furnished rooms in the layout of a dataset root.

data/<scene>/...                                      pictures, labels, depth and volumes, by format
depth_gen/<scene>/...  room_mask/<scene>/...          of format matterport
meta/train.json  meta/val.json  meta/test.json        the splits
meta/frustum_mask.npz  meta/colormap.json
images/                                               pictures of the test split, as inference takes them
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from skillbank.errors import UsageError
from skillbank_models.data.synthetic import Order, SyntheticData, new_folder
from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.classes import ROOM_CLASSES
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.rooms.annotated import STORED_GRID
from skillbank_models.nvpanoptix3d.rooms.making import Made, Task, make_all
from skillbank_models.nvpanoptix3d.rooms.store import STORES, write_mask
from skillbank_models.nvpanoptix3d.views import view_of

__all__ = ["FORMATS", "SYNTHETIC", "split_scenes", "write_rooms"]

FORMATS = ("front3d", "matterport")

_MOST_SCENES = 100_000  # names of scenes have five digits


def write_rooms(order: Order) -> dict[str, Any]:
    """Write a data set; see `Order`. The last scenes of it are rooms without furniture.

    Returns:
        What it holds: folder, format, counts by split and by class of things.

    Raises:
        UsageError: more than one format, or more scenes than there are names.
        DataError: the folder holds something already.
        OutOfMemoryError: there is no memory for that many processes.
    """
    layout = _layout(order)
    with new_folder(order.folder) as folder:
        tasks = [
            Task(folder, layout, order.seed, scene, image, order.size, scene >= order.count - order.empty)
            for scene in range(order.count)
            for image in range(order.images_per_scene)
        ]
        made = make_all(tasks, workers=order.workers or _processors(), progress=order.progress)
        splits = split_scenes(order.count, order.held_out)
        rows = {name: _rows(tasks, made, scenes) for name, scenes in splits.items()}
        _write_meta(folder, layout, order.size, rows)
        _write_photos(folder, tasks, made, splits["test"])
    counted = Counter(label for one in made for label in one.labels)
    return {
        "path": str(order.folder),
        "format": layout,
        "scenes": order.count,
        "images": len(made),
        "splits": {name: len(found) for name, found in rows.items()},
        "things": {category.name: counted[category.id] for category in ROOM_CLASSES if category.is_thing},
        "num_classes": len(ROOM_CLASSES) + 1,
    }


def split_scenes(count: int, held_out: float) -> dict[str, range]:
    """Which scenes each split has.

    With `held_out` 0 every split has all of them, for a root that serves one purpose. Else validation and
    test have that share each, at least one scene, and training has the rest. Where there are too few for
    that, two scenes are one for training and one for the others, and a single one is in all.
    """
    if held_out == 0 or count == 1:
        return dict.fromkeys(("train", "val", "test"), range(count))
    if count == 2:
        return {"train": range(1), "val": range(1, 2), "test": range(1, 2)}
    each = min(max(round(held_out * count), 1), (count - 1) // 2)
    ends = count - 2 * each, count - each
    return {"train": range(ends[0]), "val": range(*ends), "test": range(ends[1], count)}


SYNTHETIC = SyntheticData(
    formats=FORMATS,
    formats_share_a_folder=False,
    size=(240, 320),
    unit="scenes",
    count=20,
    options=frozenset({"images_per_scene", "held_out", "workers"}),
    write=write_rooms,
)


def _layout(order: Order) -> str:
    if len(order.formats) != 1:
        raise UsageError(
            f"--format: {', '.join(order.formats)} do not fit into one folder; use one: {', '.join(FORMATS)}",
            hint=f"--format {FORMATS[0]}",
            key="--format",
            value=list(order.formats),
            allowed=list(FORMATS),
        )
    if order.count > _MOST_SCENES:
        raise UsageError(
            f"--scenes: {order.count} are too many; at most {_MOST_SCENES} fit into one data set",
            hint=f"--scenes {_MOST_SCENES}",
            key="--scenes",
            value=order.count,
        )
    return order.formats[0]


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rows(tasks: list[Task], made: list[Made], scenes: range) -> list[dict[str, Any]]:
    return [
        {"scene_id": task.scene_id, "image_id": one.image_id, "height": task.size[0], "width": task.size[1]}
        for task, one in zip(tasks, made, strict=True)
        if task.scene in scenes
    ]


def _write_meta(
    folder: Path, layout: str, size: tuple[int, int], splits: dict[str, list[dict[str, Any]]]
) -> None:
    meta = folder / "meta"
    meta.mkdir()
    for name, rows in splits.items():
        (meta / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    colors = [{"id": 0, "trainId": 0, "name": "void", "isthing": 0, "color": [0, 0, 0]}]
    colors += [
        {
            "id": category.id,
            "trainId": category.id,
            "name": category.name,
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in ROOM_CLASSES
    ]
    (meta / "colormap.json").write_text(json.dumps(colors, indent=1) + "\n", encoding="utf-8")
    store = STORES[layout]
    view = view_of(_usual_camera(layout, size), STORED_GRID, shifted=store.shifted, rule="measured")
    write_mask(meta / "frustum_mask.npz", frustum_mask(view, "cpu").numpy())


def _usual_camera(layout: str, size: tuple[int, int]) -> Camera:
    """The camera of all images; where each has its own, the one of the first that could have been drawn."""
    return STORES[layout].camera(np.random.default_rng(0), size)


def _write_photos(folder: Path, tasks: list[Task], made: list[Made], scenes: range) -> None:
    """Copies of pictures without anything that tells what is in them."""
    (folder / "images").mkdir()
    for task, one in zip(tasks, made, strict=True):
        if task.scene in scenes:
            source = folder / one.picture
            shutil.copyfile(source, folder / "images" / f"{task.scene_id}_{one.image_id}{source.suffix}")
