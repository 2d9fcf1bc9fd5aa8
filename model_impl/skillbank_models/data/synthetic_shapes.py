"""A small made-up data set in the three annotation formats, in the layout of a dataset root.

images/                    pictures
annotations_panoptic.json  images_panoptic/    label_map_panoptic.json       coco_panoptic
annotations.json           label_map.json                                    coco
annotations.jsonl          masks/              label_map.json                ade
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skillbank_models.data.run_lengths import encode_mask
from skillbank_models.data.synthetic import Order, SyntheticData, new_folder
from skillbank_models.data.synthetic_scene import CATEGORIES, Part, Scene, draw_scene, empty_scene

__all__ = ["FORMATS", "SHAPES", "write_shapes"]

FORMATS = ("coco_panoptic", "coco", "ade")


class _Panoptic:
    """Writes ``annotations_panoptic.json`` and its PNG files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.annotations: list[dict[str, Any]] = []
        (folder / "images_panoptic").mkdir()

    def add(self, image_id: int, scene: Scene, rng: np.random.Generator) -> None:
        ids = np.zeros(scene.image.shape[:2], np.uint32)  # (H, W)
        segments: list[dict[str, Any]] = []
        for part in scene.parts:
            number = _segment_id(part, {segment["id"] for segment in segments}, rng)
            ids[part.mask] = number
            segments.append(
                {
                    "id": number,
                    "category_id": part.category_id,
                    "iscrowd": int(part.is_crowd),
                    **_measures(part),
                }
            )
        colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)  # (H, W, 3)
        name = f"{image_id:06d}.png"
        Image.fromarray(colors).save(self.folder / "images_panoptic" / name)
        self.annotations.append({"image_id": image_id, "file_name": name, "segments_info": segments})

    def finish(self, images: list[dict[str, Any]]) -> None:
        categories = _label_map()
        _dump(
            self.folder / "annotations_panoptic.json",
            {"images": images, "annotations": self.annotations, "categories": categories},
        )
        _dump(self.folder / "label_map_panoptic.json", categories)


class _Instances:
    """Writes ``annotations.json``: polygons, and run lengths of both kinds where a polygon would not do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.annotations: list[dict[str, Any]] = []

    def add(self, image_id: int, scene: Scene, rng: np.random.Generator) -> None:
        things = {category.id for category in CATEGORIES if category.is_thing}
        for part in scene.parts:
            if part.category_id in things:
                number = len(self.annotations) + 1
                self.annotations.append(
                    {
                        "id": number,
                        "image_id": image_id,
                        "category_id": part.category_id,
                        "iscrowd": int(part.is_crowd),
                        **_measures(part),
                        "segmentation": _segmentation(part, number),
                    }
                )

    def finish(self, images: list[dict[str, Any]]) -> None:
        categories = [item for item in _label_map() if item["isthing"]]
        _dump(
            self.folder / "annotations.json",
            {"images": images, "annotations": self.annotations, "categories": categories},
        )
        _dump(self.folder / "label_map.json", _label_map())


class _Lines:
    """Writes ``annotations.jsonl`` and its masks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        (folder / "masks").mkdir()

    def add(self, image_id: int, scene: Scene, rng: np.random.Generator) -> None:
        classes = np.zeros(scene.image.shape[:2], np.uint8)  # (H, W)
        for part in scene.parts:
            classes[part.mask] = part.category_id
        mask = f"masks/{image_id:06d}.png"
        Image.fromarray(classes).save(self.folder / mask)
        self.lines.append(json.dumps({"img": f"images/{image_id:06d}.jpg", "segm": mask}))

    def finish(self, images: list[dict[str, Any]]) -> None:
        (self.folder / "annotations.jsonl").write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        _dump(self.folder / "label_map.json", _label_map())


_WRITERS: Mapping[str, type[_Panoptic | _Instances | _Lines]] = {
    "coco_panoptic": _Panoptic,
    "coco": _Instances,
    "ade": _Lines,
}


def write_shapes(order: Order) -> dict[str, Any]:
    """Write a data set; see `Order`. The last images of it are those with nothing in them.

    Returns:
        What it holds: folder, formats, counts and the number of classes.

    Raises:
        DataError: the folder holds something already.
    """
    images: list[dict[str, Any]] = []
    parts = 0
    with new_folder(order.folder) as folder:
        (folder / "images").mkdir()
        writers = [_WRITERS[name](folder) for name in FORMATS if name in order.formats]
        for number in range(1, order.count + 1):
            # an image depends on seed and number alone, however many there are and in whatever format
            rng = np.random.default_rng([order.seed, number])
            is_empty = number > order.count - order.empty
            scene = empty_scene(rng, order.size) if is_empty else draw_scene(rng, order.size)
            name = f"{number:06d}.jpg"
            Image.fromarray(scene.image).save(folder / "images" / name, quality=92)
            height, width = order.size
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for writer in writers:
                writer.add(number, scene, rng)
            parts += len(scene.parts)
            order.progress(number)
        for writer in writers:
            writer.finish(images)
    return {
        "path": str(order.folder),
        "formats": [name for name in FORMATS if name in order.formats],
        "images": len(images),
        "segments": parts,
        "num_classes": len(CATEGORIES),
    }


SHAPES = SyntheticData(
    formats=FORMATS,
    formats_share_a_folder=True,
    size=(480, 640),
    unit="images",
    count=32,
    options=frozenset(),
    write=write_shapes,
)


def _segment_id(part: Part, used: set[int], rng: np.random.Generator) -> int:
    """A free id whose colour is near that of the class, which makes the PNG a picture too."""
    color = np.array(CATEGORIES[part.category_id - 1].color)
    while True:
        red, green, blue = (color + rng.integers(-25, 26, 3)).clip(1, 255).tolist()
        number: int = red + 256 * green + 65536 * blue
        if number not in used:
            return number


def _segmentation(part: Part, number: int) -> list[list[float]] | dict[str, Any]:
    if part.polygon is not None:
        return [part.polygon]
    if number % 2 and not part.is_crowd:
        return encode_mask(part.mask)
    flat = np.concatenate([[False], part.mask.T.ravel(), [False]])  # column by column
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [part.mask.size]]))
    if edges.size and edges[-1] == part.mask.size:
        counts = counts[:-1]  # the last run of zeros has no length
    return {"size": list(part.mask.shape), "counts": counts.tolist()}


def _measures(part: Part) -> dict[str, Any]:
    rows, columns = np.flatnonzero(part.mask.any(axis=1)), np.flatnonzero(part.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    xywh_px = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    return {"area": int(part.mask.sum()), "bbox": xywh_px}


def _label_map() -> list[dict[str, Any]]:
    return [
        {
            "id": category.id,
            "name": category.name,
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in CATEGORIES
    ]


def _dump(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
