"""COCO instance annotations: polygons or run lengths, which may overlap.

Source: the format description at https://cocodataset.org/#format-data, section "Object Detection".
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError, ShapeError
from skillbank_models.data.annotations import Record
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_files import CocoImage, check_category, read_coco_file
from skillbank_models.data.label_map import is_id, warn_text
from skillbank_models.data.problems import Problems, some
from skillbank_models.data.regions import MaskRegions
from skillbank_models.data.run_lengths import polygon_mask, runs_of, unpacked

__all__ = ["InstanceReader"]

log = logging.getLogger(__name__)


class InstanceReader:
    """Records of an instance JSON, and the regions of one of them.

    Images without annotations are kept: there is nothing in them.

    Args:
        annotations: the JSON.
        categories: whose ids the instances may have.
    """

    def __init__(self, *, annotations: Path, categories: Categories) -> None:
        self.annotations = annotations
        self.mask_folder: Path | None = None
        self._index_of = categories.index_of()
        self._categories = categories
        self._told_empty: set[int | str] = set()

    def records(self) -> list[Record]:
        """Read and check the JSON.

        Raises:
            MissingFilesError: no such file.
            AnnotationError: everything that is wrong with it.
        """
        file = read_coco_file(self.annotations)
        differ = warn_text(self._categories, file.categories, where=self.annotations)
        if differ:
            log.warning("%s", differ)
        problems = Problems(self.annotations)
        rows: dict[int | str, list[list[Any]]] = {number: [] for number in file.images}
        seen: set[int] = set()
        for place, item in enumerate(file.annotations):
            if not isinstance(item, dict):
                problems.add(f"annotation {place + 1} is {item!r}; each is an object with segmentation")
                continue
            number, image_id = item.get("id"), item.get("image_id")
            spot = f"annotation {number!r}"
            if not is_id(number):
                problems.add(f"annotation {place + 1} has id {number!r}; ids are whole numbers above 0")
                continue
            if number in seen:
                problems.add(f"the annotation id {number} is used twice", hint="number them anew")
                continue
            seen.add(number)
            image = file.images.get(image_id) if isinstance(image_id, int | str) else None
            if image is None:
                problems.add(f"{spot} has image_id {image_id!r}, which is not in the list of images")
                continue
            label = check_category(item.get("category_id"), spot, self._index_of, problems)
            fault = _fault(item, image)
            if fault:
                problems.add(f"{spot} (image {image.id!r}) {fault}")
            elif label is not None:
                crowd = int(bool(item.get("iscrowd", 0)))
                rows[image.id].append([number, label, crowd, item["segmentation"], item.get("area")])
        problems.check()
        return [
            Record(image.file_name, image.id, image.height, image.width, "", rows[image.id])
            for image in file.images.values()
        ]

    def load(self, record: Record, size: tuple[int, int]) -> MaskRegions:
        """Regions of an image; a warning names instances without a pixel, which teach nothing.

        Measures count these as missed, as the COCO evaluation does.

        Args:
            size: of the image, which the run lengths must have too.

        Raises:
            ShapeError: image and annotations differ in size.
        """
        if record.height and (record.height, record.width) != size:
            raise ShapeError(
                f"{self.annotations}: image {record.image_id} ({record.image}) has {size[0]} x {size[1]} "
                f"pixels (height x width), but {record.height} x {record.width} are annotated",
                hint="annotations refer to the upright picture, after its EXIF rotation",
                key=str(self.annotations),
            )
        planes = [self._plane(segment, record, size) for segment in record.segments]
        rows = record.segments
        empty = [row[0] for row, plane in zip(rows, planes, strict=True) if not plane.any()]
        if empty and record.image_id not in self._told_empty:
            self._told_empty.add(record.image_id)
            log.warning(
                "%s: annotations without a pixel teach nothing and count as missed (image %s): %s",
                self.annotations, record.image_id, some(empty),
            )  # fmt: skip
        stacked = np.zeros((len(rows), size[1], size[0]), np.uint8)  # (S, W0, H0): runs go down the columns
        for number, plane in enumerate(planes):
            stacked[number] = plane.T
        return MaskRegions(
            stacked.transpose(0, 2, 1),  # (S, H0, W0)
            [row[0] for row in rows],
            np.asarray([row[1] for row in rows], np.int64),
            np.asarray([row[2] for row in rows], np.bool_),
            [row[4] for row in rows],
        )

    def _plane(self, row: list[Any], record: Record, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Mask of one instance, (H0, W0), 0 or 1; its polygons are united."""
        segmentation = row[3]
        if isinstance(segmentation, list):
            return polygon_mask([[float(value) for value in polygon] for polygon in segmentation], size)
        if list(segmentation["size"]) != list(size):
            raise ShapeError(
                f"{self.annotations}: annotation {row[0]} has run lengths of size {segmentation['size']}, "
                f"image {record.image_id} has {list(size)}",
                hint="the size of run lengths is [height, width] of the image",
                key=str(self.annotations),
            )
        counts = segmentation["counts"]
        runs = np.asarray(counts, np.int64) if isinstance(counts, list) else runs_of(counts)
        if runs.sum() != size[0] * size[1] or (runs < 0).any():
            raise AnnotationError(
                f"{self.annotations}: the run lengths of annotation {row[0]} (image {record.image_id}) add "
                f"up to {runs.sum()} pixels, {size[0]} x {size[1]} has {size[0] * size[1]}",
                hint="encode the mask again with pycocotools.mask.encode",
                key=str(self.annotations),
            )
        return unpacked(runs, size)


def _fault(item: dict[str, Any], image: CocoImage) -> str:
    """What is wrong with an area or a segmentation; empty when nothing is."""
    area = item.get("area")
    if area is not None and not (isinstance(area, int | float) and math.isfinite(area) and area >= 0):
        return f"has the area {area!r}; it is a number of pixels from 0"
    found = item.get("segmentation")
    if isinstance(found, list):
        return _polygon_fault(found)
    if not isinstance(found, dict) or not isinstance(found.get("counts"), list | str):
        return f"has the segmentation {str(found)[:40]!r}; it is a list of polygons or run lengths"
    size = found.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(is_id(side) for side in size):
        return f"has run lengths of size {size!r}; it is [height, width]"
    if image.height and size != [image.height, image.width]:
        return f"has run lengths of size {size}, the image is listed with [{image.height}, {image.width}]"
    counts = found["counts"]
    if isinstance(counts, str):
        return "" if counts.isascii() else "has run lengths with letters that none can have"
    if not all(isinstance(run, int) and run >= 0 for run in counts):
        return "has run lengths that are no whole numbers from 0"
    if sum(counts) != size[0] * size[1]:
        return f"has run lengths that add up to {sum(counts)}, not to {size[0]} x {size[1]}"
    return ""


def _polygon_fault(polygons: list[Any]) -> str:
    if not polygons:
        return "has no polygon"
    for polygon in polygons:
        if not isinstance(polygon, list):
            return f"has the polygon {str(polygon)[:40]!r}; it is a list x0, y0, x1, y1, ..."
        if len(polygon) < 6 or len(polygon) % 2:
            return f"has a polygon of {len(polygon)} numbers; x and y of at least 3 points are needed"
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in polygon):
            return "has a polygon with something that is no number"
    return ""
