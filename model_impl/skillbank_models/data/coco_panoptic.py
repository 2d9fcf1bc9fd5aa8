"""COCO panoptic annotations: a JSON of segments and one PNG of segment ids for each image.

Source: the format description at https://cocodataset.org/#format-data, section "Panoptic Segmentation".
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError, ShapeError
from skillbank_models.data.annotations import Record
from skillbank_models.data.categories import Categories
from skillbank_models.data.coco_files import CocoFile, CocoImage, check_category, read_coco_file
from skillbank_models.data.images import read_ids
from skillbank_models.data.label_map import is_id, warn_text
from skillbank_models.data.problems import Problems, some
from skillbank_models.data.regions import MapRegions

__all__ = ["PanopticReader", "number_map"]

log = logging.getLogger(__name__)

_LARGEST_ID = 256**3 - 1


class PanopticReader:
    """Records of a panoptic JSON, and the regions of one of them.

    Args:
        annotations: the JSON.
        mask_folder: of the PNG files.
        categories: whose ids the segments may have.
    """

    def __init__(self, *, annotations: Path, mask_folder: Path, categories: Categories) -> None:
        self.annotations = annotations
        self.mask_folder = mask_folder
        self._index_of = categories.index_of()
        self._categories = categories

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
        found: dict[int | str, Record] = {}
        for place, item in enumerate(file.annotations):
            record = self._record(file, item, place, problems)
            if record is None:
                continue
            if record.image_id in found:
                problems.add(f"image {record.image_id!r} has two annotations; join their segments into one")
            found[record.image_id] = record
        problems.check()
        without = [number for number in file.images if number not in found]
        if without:
            log.warning(
                "%s: %d of %d images have no annotation and are left out: %s",
                self.annotations, len(without), len(file.images), some(without),
            )  # fmt: skip
        if not found:
            raise AnnotationError(
                f"{self.annotations}: no image has an annotation", key=str(self.annotations)
            )
        return list(found.values())

    def load(self, record: Record, size: tuple[int, int]) -> MapRegions:
        """Regions of an image.

        Args:
            size: of the image, which the PNG must have too.

        Raises:
            MissingFilesError: no PNG.
            ShapeError: image and PNG differ in size.
            AnnotationError: JSON and PNG differ in their segments.
            DataError: the PNG is damaged.
        """
        path = self.mask_folder / record.mask
        pixels = read_ids(path)  # (H0, W0)
        if pixels.shape != size:
            raise ShapeError(
                f"{path}: {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), but image "
                f"{record.image_id} has {size[0]} x {size[1]}",
                hint="the PNG of an image that was scaled must be scaled too, without interpolation",
                key=str(path),
            )
        ids = [segment[0] for segment in record.segments]
        numbers, unknown = number_map(pixels, ids)
        areas = np.bincount(numbers.ravel(), minlength=len(ids) + 1)[1:]  # (S,)
        absent = [number for number, area in zip(ids, areas, strict=True) if not area]
        if unknown or absent:
            said = []
            if absent:
                said.append(f"segments {some(absent)} of {self.annotations.name} have no pixel in the PNG")
            if unknown:
                said.append(f"ids {some(unknown)} of the PNG are not in {self.annotations.name}")
            raise AnnotationError(
                f"{path}: image {record.image_id}: {'; '.join(said)}",
                hint="JSON and PNG must come from the same export; ids are R + 256 G + 65536 B",
                key=str(path),
            )
        return MapRegions(
            numbers,
            ids,
            np.asarray([segment[1] for segment in record.segments], np.int64),
            np.asarray([segment[2] for segment in record.segments], np.bool_),
        )

    def _record(self, file: CocoFile, item: Any, place: int, problems: Problems) -> Record | None:
        if not isinstance(item, dict):
            problems.add(f"annotation {place + 1} is {item!r}; each is an object with segments_info")
            return None
        number = item.get("image_id")
        image = file.images.get(number) if isinstance(number, int | str) else None
        if image is None:
            problems.add(
                f"annotation {place + 1} has image_id {number!r}, which is not in the list of images"
            )
            return None
        name, segments = item.get("file_name"), item.get("segments_info")
        if not isinstance(name, str) or not name or not isinstance(segments, list):
            problems.add(
                f"annotation of image {number!r} needs file_name and the list segments_info",
                hint="set dataset.type to coco for a file of instances" if "segmentation" in item else "",
            )
            return None
        return self._with_segments(image, name, segments, problems)

    def _with_segments(
        self, image: CocoImage, mask: str, segments: list[Any], problems: Problems
    ) -> Record | None:
        rows: list[list[Any]] = []
        seen: set[int] = set()
        for item in segments:
            number = item.get("id") if isinstance(item, dict) else None
            spot = f"image {image.id!r}, segment {number!r}"
            if not is_id(number) or number > _LARGEST_ID:
                problems.add(f"{spot}: ids are whole numbers from 1 to {_LARGEST_ID}, 0 means unlabelled")
                continue
            if number in seen:
                problems.add(f"{spot} is listed twice")
                continue
            seen.add(number)
            label = check_category(item.get("category_id"), spot, self._index_of, problems)
            if label is None:
                continue
            if item.get("area") == 0:
                problems.add(f"{spot} has area 0", hint="leave out segments without pixels")
                continue
            rows.append([number, label, int(bool(item.get("iscrowd", 0)))])
        return Record(image.file_name, image.id, image.height, image.width, mask, rows)


def number_map(pixels: NDArray[Any], ids: list[int]) -> tuple[NDArray[np.uint16], list[int]]:
    """Places of pixel values in a list of ids.

    Args:
        pixels: (H, W), 0 = nothing.

    Returns:
        (H, W), place + 1, 0 for nothing and unknown; and the values that are not in the list.
    """
    flat = pixels.ravel()  # (H * W,)
    # maps are made of runs of equal pixels: look each run up, not each pixel
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([np.zeros(1, starts.dtype), starts])  # (R,)
    values = flat[starts].astype(np.int64)  # (R,)
    order = np.argsort(np.asarray(ids, np.int64), kind="stable")
    known = np.asarray(ids, np.int64)[order]  # (S,) ascending
    places = np.searchsorted(known, values)  # (R,)
    hit = np.zeros(len(values), np.bool_)
    inside = places < len(known)
    hit[inside] = known[places[inside]] == values[inside]
    numbers = np.zeros(len(values), np.uint16)
    numbers[hit] = order[places[hit]] + 1
    unknown = np.unique(values[~hit & (values != 0)]).tolist()
    lengths = np.diff(np.append(starts, flat.size))
    return np.repeat(numbers, lengths).reshape(pixels.shape), unknown  # (H, W)
