"""What a picture shows of a prediction or an annotation: masks with class, score and colour.

Letters: `H0 W0` image as stored.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skillbank_models.data.batch import Truth
from skillbank_models.data.categories import Categories
from skillbank_models.data.label_map import GOLDEN
from skillbank_models.data.run_lengths import runs_of, unpacked
from skillbank_models.ops.image_result import ImageResult, InstanceResult

__all__ = ["DrawnRegion", "instance_color", "regions_of_result", "regions_of_truth"]

Rgb = tuple[int, int, int]

HUE_RANGE, LIGHT_RANGE = 0.07, 0.44  # how far instances of one class are from its colour


@dataclass(frozen=True, slots=True)
class DrawnRegion:
    """One mask to draw.

    Attributes:
        top: row of the first pixel of `mask` in the image.
        left: column of the first pixel of `mask` in the image.
        mask: (rows, columns) bool, cut to what it covers.
        label: class index.
        score: 0 to 1; None where there is none.
        is_thing: whether it is one of several of its class.
        color: R, G, B; instances of one class differ.
        area: pixels.
        name: to write into it; None = that of its class.
    """

    top: int
    left: int
    mask: NDArray[np.bool_]
    label: int
    score: float | None
    is_thing: bool
    color: Rgb
    area: int
    name: str | None = None


def regions_of_result(result: ImageResult, categories: Categories, *, min_score: float) -> list[DrawnRegion]:
    """Masks of a prediction, large ones first: its segments, else its instances, else its classes.

    Args:
        result: prediction of one image.
        categories: names and colours.
        min_score: instances below it are left out.
    """
    rows: list[_Row] = []
    if result.panoptic is not None:
        segments = {segment.id: segment for segment in result.panoptic.segments}
        cut = _cut(result.panoptic.segment_map.numpy(), sorted(segments))
        for number, part in cut:
            rows.append((*part, segments[number].label, segments[number].score))
    elif result.instances is not None:
        rows.extend(_instances(result.instances, min_score))
    else:
        rows.extend((*part, label, None) for label, part in _classes(result.class_map.numpy()))
    countable = result.panoptic is not None or result.instances is not None
    return _colored(rows, categories, countable=countable)


def regions_of_truth(truth: Truth, categories: Categories) -> list[DrawnRegion]:
    """Masks of an annotation, large ones first; crowds are left out."""
    rows: list[_Row] = []
    if truth.segment_map is not None:
        segments = {segment.id: segment for segment in truth.segments if not segment.is_crowd}
        cut = _cut(truth.segment_map, sorted(segments))
        rows = [(*part, segments[number].label, None) for number, part in cut]
    elif any(segment.rle is not None for segment in truth.segments):
        for segment in truth.segments:
            if segment.rle is not None and not segment.is_crowd:
                height, width = segment.rle["size"]
                mask = unpacked(runs_of(segment.rle["counts"]), (height, width))
                part = _trimmed(mask.astype(bool))
                if part is not None:
                    rows.append((*part, segment.label, None))
    elif truth.class_map is not None:
        rows.extend((*part, label, None) for label, part in _classes(truth.class_map))
        return _colored(rows, categories, countable=False)
    return _colored(rows, categories, countable=True)


_Part = tuple[int, int, NDArray[np.bool_]]
_Row = tuple[int, int, NDArray[np.bool_], int, float | None]


def _cut(values: NDArray[np.int32], wanted: list[int]) -> Iterator[tuple[int, _Part]]:
    """The mask of each wanted value, cut to its bounding box."""
    if not wanted:
        return
    known = np.asarray(wanted)
    places = np.searchsorted(known, values).clip(max=len(known) - 1)  # (H0, W0)
    numbers = np.where(known[places] == values, places + 1, 0)  # (H0, W0)
    for place, box in enumerate(ndimage.find_objects(numbers, max_label=len(wanted))):
        if box is not None:
            yield wanted[place], (box[0].start, box[1].start, numbers[box] == place + 1)


def _classes(class_map: NDArray[np.int32]) -> Iterator[tuple[int, _Part]]:
    labels = np.unique(class_map)
    return _cut(class_map, labels[labels >= 0].tolist())


def _instances(found: InstanceResult, min_score: float) -> Iterator[_Row]:
    for label, score, mask in zip(found.labels.tolist(), found.scores.tolist(), found.masks, strict=True):
        part = _trimmed(mask.numpy()) if score >= min_score else None
        if part is not None:
            yield (*part, label, score)


def _trimmed(mask: NDArray[np.bool_]) -> _Part | None:
    """A mask (H0, W0) cut to its bounding box; None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1]


def _colored(rows: list[_Row], categories: Categories, *, countable: bool) -> list[DrawnRegion]:
    areas = [int(np.count_nonzero(row[2])) for row in rows]
    seen: dict[int, int] = {}
    regions = []
    for place in sorted(range(len(rows)), key=lambda place: -areas[place]):
        top, left, mask, label, score = rows[place]
        is_thing = countable and categories.is_thing(label)
        number = seen.get(label, 0)
        seen[label] = number + 1
        color = instance_color(categories.color(label), number) if is_thing else categories.color(label)
        regions.append(DrawnRegion(top, left, mask, label, score, is_thing, color, areas[place]))
    return regions


def instance_color(color: Rgb, number: int) -> Rgb:
    """The colour of the n-th instance of a class, from 0; the first has the colour of the class."""
    if number == 0:
        return color
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
    first, second = (number * GOLDEN) % 1 - 0.5, (number * GOLDEN**2 + 0.25) % 1 - 0.5
    light = min(max(light + LIGHT_RANGE * first, 0.25), 0.8)
    red, green, blue = colorsys.hls_to_rgb((hue + 2 * HUE_RANGE * second) % 1, light, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)
