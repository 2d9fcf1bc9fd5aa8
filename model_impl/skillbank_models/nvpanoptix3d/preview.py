"""One picture of a result: the image, its instances, its classes and its depth.

Letters: `H0 W0` image as stored, `h w` maps of the result, `H W` a panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skillbank_models.data.categories import Categories
from skillbank_models.data.drawn_regions import DrawnRegion
from skillbank_models.data.pictures import (
    INK,
    PANEL_TEXT,
    draw_regions,
    font_of,
    in_a_grid,
    text_size,
    with_legend,
)
from skillbank_models.nvpanoptix3d.scene_segments import ShownSegment

__all__ = ["DepthRange", "depth_picture", "depth_ramp", "depth_range", "draw_preview"]

Picture = NDArray[np.uint8]

PANEL = 640  # pixels of the long side of a panel
TITLES = ("image", "instances", "classes", "depth")
UNKNOWN = (205, 207, 210)  # pixels without a depth
LIGHT_END, DARK_END = 246, 36  # part of the colour map for depth
OUTLIERS = 0.5  # percent of the depths at either end that do not stretch the colours


class DepthRange(NamedTuple):
    """Depths between which colours change, metres."""

    near: float
    far: float


def draw_preview(
    image: Picture,
    segment_map: NDArray[np.int32],
    segments: Sequence[ShownSegment],
    depth: NDArray[np.float32],
    categories: Categories,
) -> Picture:
    """Four panels with titles above one legend.

    Args:
        image: (H0, W0, 3) RGB.
        segment_map: (h, w) ids, 0 = none; h x w may be smaller than the image.
        segments: of the map.
        depth: (h, w) metres; what is not above 0 is unknown.
        categories: names and colours of the legend.

    Returns:
        RGB.
    """
    size = _panel_size(image.shape[1], image.shape[0])
    shrinks = size[0] < image.shape[1]
    plain = np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8
    )  # (H, W, 3)
    regions = _regions(segment_map, segments, size)
    classes = [
        replace(region, color=categories.color(region.label), is_thing=False, name=None) for region in regions
    ]
    text = PANEL_TEXT * text_size(*size)
    panels = [
        plain,
        _over(plain, [replace(region, score=None) for region in regions], categories),
        _over(plain, _merged(classes), categories),
        _with_bar(depth_picture(depth, depth_range(depth), size), depth_range(depth), text),
    ]
    grid = in_a_grid(panels, TITLES, columns=2, text=text)
    return with_legend(grid, regions, categories, counts=True, text=text)


def depth_range(depth: NDArray[np.float32]) -> DepthRange:
    """Nearest and farthest depth of a map (h, w), leaving outliers out; 0 to 1 where nothing is known."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    if not known.size:
        return DepthRange(0.0, 1.0)
    near, far = (float(value) for value in np.percentile(known, (OUTLIERS, 100 - OUTLIERS)))
    middle = (near + far) / 2
    return DepthRange(near, far) if far - near > 0.02 * middle else DepthRange(0.99 * middle, 1.01 * middle)


def depth_ramp() -> Picture:
    """(256, 3) RGB from near (light) to far (dark)."""
    # without the ends of the map, where black and near-white hide what differs
    steps = np.linspace(LIGHT_END, DARK_END, 256).round().astype(np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_MAGMA)[:, 0, ::-1], np.uint8)


def depth_picture(depth: NDArray[np.float32], limits: DepthRange, size: tuple[int, int]) -> Picture:
    """Depth (h, w) in colours, at `size` = (W, H)."""
    known = np.isfinite(depth) & (depth > 0)
    filled = np.where(known, depth, limits.far).astype(np.float32)
    smooth = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)  # (H, W)
    share = (smooth - limits.near) / (limits.far - limits.near)
    picture = depth_ramp()[(255 * share).clip(0, 255).astype(np.uint8)]  # (H, W, 3)
    unknown = cv2.resize((~known).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    picture[unknown > 0] = UNKNOWN
    return picture


def _panel_size(width: int, height: int) -> tuple[int, int]:
    share = PANEL / max(width, height)
    return max(1, round(width * share)), max(1, round(height * share))


def _over(plain: Picture, regions: Sequence[DrawnRegion], categories: Categories) -> Picture:
    return draw_regions(plain, regions, categories, legend=False, larger=PANEL_TEXT, long_side=1)


def _regions(
    segment_map: NDArray[np.int32], segments: Sequence[ShownSegment], size: tuple[int, int]
) -> list[DrawnRegion]:
    """The masks at the size of a panel, large ones first."""
    regions = []
    for segment in segments:
        mask = (segment_map == segment.id).astype(np.uint8) * np.uint8(255)  # (h, w)
        large = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) > 127  # (H, W)
        region = _region(large, segment)
        if region is not None:
            regions.append(region)
    return sorted(regions, key=lambda region: -region.area)


def _region(mask: NDArray[np.bool_], segment: ShownSegment) -> DrawnRegion | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    area = int(np.count_nonzero(part))
    return DrawnRegion(
        top, left, part, segment.label, segment.score, segment.is_thing, segment.color, area, segment.name
    )


def _merged(regions: Sequence[DrawnRegion]) -> list[DrawnRegion]:
    """One region for each class."""
    found: dict[int, list[DrawnRegion]] = {}
    for region in regions:
        found.setdefault(region.label, []).append(region)
    merged = []
    for group in found.values():
        top, left = min(one.top for one in group), min(one.left for one in group)
        bottom = max(one.top + one.mask.shape[0] for one in group)
        right = max(one.left + one.mask.shape[1] for one in group)
        mask = np.zeros((bottom - top, right - left), bool)
        for one in group:
            rows, columns = one.mask.shape
            y, x = one.top - top, one.left - left
            mask[y : y + rows, x : x + columns] |= one.mask
        area = int(np.count_nonzero(mask))
        merged.append(replace(group[0], top=top, left=left, mask=mask, score=None, area=area))
    return merged


def _with_bar(picture: Picture, limits: DepthRange, text: float) -> Picture:
    """The panel with its colour bar at the right, inside a light frame."""
    font = font_of(text)
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image, "RGBA")
    values = _ticks(limits)
    labels = [f"{value:g} m" for value in values]
    thick, pad = round(0.9 * font.size), round(0.6 * font.size)
    wide = thick + round(0.4 * font.size) + round(max(font.getlength(label) for label in labels))
    left, top = image.width - wide - 3 * pad, 2 * pad
    high = image.height - 4 * pad
    if left < 0 or high < 4 * font.size:  # a strip has no room for it
        return picture
    pen.rounded_rectangle(
        (left, top - pad, image.width - pad, top + high + pad), radius=pad, fill=(250, 250, 248, 225)
    )
    ramp = Image.fromarray(np.repeat(depth_ramp()[:, None], thick, axis=1)).resize((thick, high))
    image.paste(ramp, (left + pad, top))
    last = -math.inf
    for value, label in zip(values, labels, strict=True):
        y = top + (value - limits.near) / (limits.far - limits.near) * (high - 1)
        if y - last < 1.2 * font.size:
            continue
        last = y
        edge = left + pad + thick
        pen.line((edge - thick / 3, y, edge, y), fill=(*INK, 255), width=2)
        pen.text((edge + 0.4 * font.size, y), label, font=font, fill=(*INK, 255), anchor="lm")
    return np.asarray(image)


def _ticks(limits: DepthRange) -> list[float]:
    """Round values in the range, about five."""
    rough = (limits.far - limits.near) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first = math.ceil(limits.near / step - 1e-9)
    last = math.floor(limits.far / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
