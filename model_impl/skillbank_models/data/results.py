"""What inference leaves behind: files for programs in COCO's formats, and pictures for people.

Layout below the folder of the action, where ``<name>`` is the image relative to its folder without the ending
(with the ending where two images differ in nothing else):

- ``overlays/<name>.jpg``: the image with coloured masks, names and a legend, in every mode.
- semantic: ``semantic/<name>.png``, category ids, 0 = none, with a palette of the class colours (16 bits and
  no palette when an id is above 255); ``semantic.json`` lists images, their PNGs and the categories.
- panoptic: ``panoptic/<name>.png`` in COCO's encoding (id = R + 256 G + 65536 B, 0 = void); ``panoptic.json``
  with images, annotations (segments_info with category_id, isthing, score, area, bbox) and categories.
- instance: ``instances.json``, a COCO results list (image_id, category_id, bbox, score, segmentation as RLE);
  ``images.json`` with the images and categories, which the list needs to be loaded.

Classes are category ids of the dataset. An image id is the one of its annotation file; else its name where
all names are numbers, as in COCO; else its place in the sorted list. Every file is complete under its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skillbank_models.data.categories import Categories
from skillbank_models.data.pictures import draw_result
from skillbank_models.data.result_files import (
    OutputNames,
    categories_json,
    label_image,
    save_image,
    segment_image_file,
    write_rows,
)
from skillbank_models.data.result_records import RecordPlace, ResultRecords
from skillbank_models.ops.image_result import ImageResult, InstanceResult, PanopticResult
from skillbank_models.ops.instance_runs import encode_masks
from skillbank_models.ops.postprocess import Mode

__all__ = ["ResultWriter"]

JPEG = {"quality": 92, "subsampling": 0}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of the merged results: where its record is, and its id."""

    place: RecordPlace
    id: int | None
    height: int
    width: int


class ResultWriter:
    """Writes the results of images as they come, and joins those of all processes at the end.

    Args:
        folder: of the action; it is made when missing. With several processes all must see it.
        mode: task, which selects the files.
        categories: class index -> category.
        rank: number of this process.
        world: how many processes write.
        overlays: draw pictures.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Mode,
        categories: Categories,
        rank: int,
        world: int,
        overlays: bool = True,
    ) -> None:
        self.folder = folder
        self.mode = mode
        self.categories = categories
        self._rank = rank
        self._overlays = overlays
        self._names = OutputNames()
        self._records = ResultRecords(folder, rank=rank, world=world)

    def add(
        self,
        file_name: str,
        relative_name: str,
        image: NDArray[np.uint8],
        result: ImageResult,
        *,
        image_id: int | str | None = None,
    ) -> None:
        """Write what belongs to one image.

        Args:
            file_name: path of the image.
            relative_name: the image relative to its folder.
            image: (H0, W0, 3) RGB.
            result: prediction at that size.
            image_id: number in an annotation file; a path or None means that there is none.

        Raises:
            StorageError: a file cannot be written.
        """
        name = self._names.of(file_name, relative_name)
        rows: list[dict[str, Any]] = []
        written = ""
        if self.mode == "semantic":
            written = f"{name}.png"
            picture = label_image(result.class_map.numpy(), self.categories)
            save_image(self.folder / "semantic" / written, picture)
        elif self.mode == "panoptic" and result.panoptic is not None:
            written = f"{name}.png"
            segment_map = result.panoptic.segment_map.numpy()
            save_image(self.folder / "panoptic" / written, segment_image_file(segment_map))
            rows = _segment_rows(result.panoptic, self.categories)
        elif self.mode == "instance" and result.instances is not None:
            rows = _instance_rows(result.instances, self.categories)
        if self._overlays:
            drawn = draw_result(image, result, self.categories)
            save_image(self.folder / "overlays" / f"{name}.jpg", Image.fromarray(drawn), **JPEG)
        height, width = image.shape[:2]
        number = image_id if isinstance(image_id, int) else None
        record = {"name": relative_name, "id": number, "height": height, "width": width}
        self._records.add({**record, "file": written, "rows": rows})

    def finish(self) -> list[tuple[Path, str]]:
        """Join the records of all processes; every process calls it, after its last image.

        Returns:
            Finished files that list the results, each with its kind.

        Raises:
            StorageError: records of a process are missing, or a file cannot be written.
        """
        self._records.end()
        if self._rank == 0:
            self._write(self._entries())
            self._records.remove()
        self._records.wait()
        names = {
            "semantic": ("semantic.json",),
            "panoptic": ("panoptic.json",),
            "instance": ("instances.json", "images.json"),
        }[self.mode]
        return [(self.folder / name, "predictions") for name in names]

    def _entries(self) -> list[_Entry]:
        places = self._records.places(keep=("id", "height", "width"))
        return _numbered([_Entry(place, **place.kept) for place in places])

    def _read(self, entries: list[_Entry]) -> Iterator[tuple[_Entry, dict[str, Any]]]:
        return zip(entries, self._records.read(entry.place for entry in entries), strict=True)

    def _write(self, entries: list[_Entry]) -> None:
        categories = categories_json(self.categories)
        images = [
            {"id": entry.id, "file_name": entry.place.name, "height": entry.height, "width": entry.width}
            for entry in entries
        ]
        records = self._read(entries)
        if self.mode == "instance":
            rows = ({"image_id": entry.id, **row} for entry, record in records for row in record["rows"])
            write_rows(self.folder / "instances.json", rows)
            write_rows(self.folder / "images.json", {"images": images, "categories": categories})
        elif self.mode == "panoptic":
            annotations = (
                {"image_id": entry.id, "file_name": record["file"], "segments_info": record["rows"]}
                for entry, record in records
            )
            lists = {"images": images, "annotations": annotations, "categories": categories}
            write_rows(self.folder / "panoptic.json", lists)
        else:
            annotations = ({"image_id": entry.id, "file_name": record["file"]} for entry, record in records)
            lists = {"images": images, "annotations": annotations, "categories": categories}
            write_rows(self.folder / "semantic.json", lists)


def _numbered(entries: list[_Entry]) -> list[_Entry]:
    """The same with an id for every image."""
    if all(entry.id is not None for entry in entries):
        return entries
    stems = [PurePosixPath(entry.place.name).stem for entry in entries]
    numbers = [int(stem) if stem.isascii() and stem.isdecimal() else 0 for stem in stems]
    if 0 in numbers or len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(entries) + 1))
    return [replace(entry, id=number) for entry, number in zip(entries, numbers, strict=True)]


def _segment_rows(result: PanopticResult, categories: Categories) -> list[dict[str, Any]]:
    boxes = ndimage.find_objects(result.segment_map.numpy())  # by id, from 1
    rows = []
    for segment in result.segments:
        rows_of, columns_of = boxes[segment.id - 1]
        left, top = columns_of.start, rows_of.start
        rows.append(
            {
                "id": segment.id,
                "category_id": categories.category_id(segment.label),
                "isthing": int(segment.is_thing),
                "iscrowd": 0,
                "score": round(segment.score, 6),
                "area": segment.area,
                "bbox": [left, top, columns_of.stop - left, rows_of.stop - top],
            }
        )
    return rows


def _instance_rows(result: InstanceResult, categories: Categories) -> list[dict[str, Any]]:
    from pycocotools import mask as coco

    masks = encode_masks(result)
    boxes = coco.toBbox(masks).tolist() if masks else []
    return [
        {
            "category_id": categories.category_id(label),
            "bbox": box,
            "score": round(score, 6),
            "segmentation": mask,
        }
        for label, score, mask, box in zip(
            result.labels.tolist(), result.scores.tolist(), masks, boxes, strict=True
        )
    ]
