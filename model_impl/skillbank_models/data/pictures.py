"""Pictures of predictions and annotations for people: coloured masks, names, and a legend.

Letters: `H0 W0` image as stored, `H W` picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skillbank.errors import RuntimeMissingError
from skillbank_models.data.batch import Truth
from skillbank_models.data.categories import Categories
from skillbank_models.data.drawn_regions import DrawnRegion, regions_of_result, regions_of_truth
from skillbank_models.data.text_places import TextPlaces
from skillbank_models.ops.image_result import ImageResult

__all__ = [
    "INK",
    "PANEL_TEXT",
    "draw_regions",
    "draw_result",
    "draw_truth",
    "font_of",
    "in_a_grid",
    "side_by_side",
    "text_size",
    "with_legend",
]

Picture = NDArray[np.uint8]
Rgb = tuple[int, int, int]

LONG_SIDE = 1000  # smaller images are enlarged by a whole factor until names can be read
MOST_TIMES = 8
FILL, FILL_STUFF = 0.55, 0.5
PANEL_TEXT = 1.5  # panels are looked at smaller than single pictures
MIN_SCORE = 0.4  # instances below are not drawn; they are in the result files
PAPER: Rgb = (250, 250, 248)
INK: Rgb = (32, 34, 38)


def draw_result(
    image: Picture, result: ImageResult, categories: Categories, *, legend: bool = True
) -> Picture:
    """A prediction over its image.

    Args:
        image: (H0, W0, 3) RGB.
        result: prediction at that size.
        categories: names and colours.
        legend: add a panel with the classes below.

    Returns:
        (H, W, 3) RGB; small images are enlarged by a whole factor.
    """
    regions = regions_of_result(result, categories, min_score=MIN_SCORE)
    return draw_regions(image, regions, categories, legend=legend)


def draw_truth(image: Picture, truth: Truth, categories: Categories, *, legend: bool = True) -> Picture:
    """An annotation over its image; arguments and answer as `draw_result`."""
    return draw_regions(image, regions_of_truth(truth, categories), categories, legend=legend)


def side_by_side(
    image: Picture,
    result: ImageResult,
    truth: Truth | None,
    categories: Categories,
    *,
    titles: Sequence[str] = ("image", "prediction", "annotation"),
) -> Picture:
    """Image, prediction and annotation in one row with titles, above one legend.

    Args:
        image: (H0, W0, 3) RGB.
        result: prediction at that size.
        truth: annotation at that size; None leaves its panel out.
        categories: names and colours.
        titles: one for each panel.
    """
    found = regions_of_result(result, categories, min_score=MIN_SCORE)
    regions = [[], [replace(region, score=None) for region in found]]
    if truth is not None:
        regions.append(regions_of_truth(truth, categories))
    panels = [draw_regions(image, found, categories, legend=False, larger=PANEL_TEXT) for found in regions]
    text = PANEL_TEXT * text_size(panels[0].shape[1], panels[0].shape[0])
    row = in_a_grid(panels, titles, columns=len(panels), text=text)
    shown = [region for found in regions for region in found]
    return with_legend(row, shown, categories, counts=False, text=text)


def in_a_grid(panels: Sequence[Picture], titles: Sequence[str], *, columns: int, text: float) -> Picture:
    """Pictures of one size in rows, each below its title.

    Args:
        panels: (H, W, 3) RGB.
        titles: one for each panel.
        columns: panels in a row.
        text: height of names in the panels, pixels.
    """
    height, width = panels[0].shape[:2]
    gap, font = max(8, width // 80), font_of(text * 1.2)
    head = round(font.size * 2)
    rows = -(-len(panels) // columns)
    grid = Image.new("RGB", (columns * (width + gap) + gap, rows * (head + height) + gap), PAPER)
    pen = ImageDraw.Draw(grid)
    for place, (panel, title) in enumerate(zip(panels, titles, strict=False)):
        left, top = gap + place % columns * (width + gap), place // columns * (head + height)
        grid.paste(Image.fromarray(panel), (left, top + head))
        pen.text((left + width / 2, top + head / 2), title, font=font, fill=INK, anchor="mm")
    return np.asarray(grid)


def draw_regions(
    image: Picture,
    regions: Sequence[DrawnRegion],
    categories: Categories,
    *,
    legend: bool,
    larger: float = 1.0,
    long_side: int = LONG_SIDE,
) -> Picture:
    """Coloured masks with outlines and names over an image.

    Args:
        image: (H0, W0, 3) RGB.
        regions: what to draw, in order.
        categories: names, and the colours of the legend.
        legend: add a panel with the classes below.
        larger: factor on the size of names.
        long_side: images are enlarged by a whole factor until they have about this.

    Returns:
        (H, W, 3) RGB.
    """
    height, width = image.shape[:2]
    times = min(max(1, -(-long_side // (max(height, width) + 1))), MOST_TIMES) if max(height, width) else 1
    size = (width * times, height * times)
    canvas = np.array(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)  # (H, W, 3)
    text = larger * text_size(canvas.shape[1], canvas.shape[0])
    outlines = [_paint(canvas, region, times) for region in regions]
    for region, contours in zip(regions, outlines, strict=True):
        _outline(canvas, region, contours, thickness=max(1, round(text / 9)))
    drawn = _names(canvas, regions, categories, times, text) if regions else canvas
    return with_legend(drawn, regions, categories, counts=True, text=text) if legend else drawn


def text_size(width: int, height: int) -> float:
    """Height of names in a picture, pixels."""
    return min(max(11.0, 0.0145 * max(width, height)), 40.0)


@lru_cache(maxsize=16)  # Pillow unpacks the font anew on every call
def _sized(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType has one bitmap font
        raise RuntimeMissingError(
            "Pillow was built without FreeType, so names cannot be drawn",
            hint="python -m pip install --force-reinstall --only-binary :all: pillow",
        )
    return font


def font_of(size: float) -> ImageFont.FreeTypeFont:
    """The font of all pictures.

    Raises:
        RuntimeMissingError: Pillow cannot draw text.
    """
    return _sized(round(size))


def _paint(canvas: Picture, region: DrawnRegion, times: int) -> list[NDArray[np.int32]]:
    """Blend the colour in; the outlines of the mask in pixels of the canvas."""
    mask = np.pad(region.mask.astype(np.uint8), 1)  # (rows + 2, columns + 2)
    if times > 1:
        smooth = cv2.resize(mask * np.uint8(255), None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
        mask = (smooth > 127).astype(np.uint8)
    mask = mask[times:-times, times:-times]  # (rows, columns) x times
    top, left = region.top * times, region.left * times
    part = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
    share = FILL if region.is_thing else FILL_STUFF
    blend = np.arange(256)[:, None] * (1 - share) + np.asarray(region.color) * share  # (256, 3)
    blended = cv2.LUT(np.ascontiguousarray(part), blend.round().astype(np.uint8)[:, None])
    np.copyto(part, blended, where=mask.astype(bool)[..., None])
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))
    return [np.asarray(contour, np.int32) for contour in contours]


def _outline(
    canvas: Picture, region: DrawnRegion, contours: list[NDArray[np.int32]], *, thickness: int
) -> None:
    if region.is_thing:
        edge = _mixed(region.color, (255, 255, 255), 0.55)
        cv2.drawContours(canvas, contours, -1, edge, thickness, cv2.LINE_AA)
    else:
        edge = _mixed(region.color, (0, 0, 0), 0.35)
        cv2.drawContours(canvas, contours, -1, edge, 1, cv2.LINE_AA)


def _mixed(color: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _names(
    canvas: Picture, regions: Sequence[DrawnRegion], categories: Categories, times: int, text: float
) -> Picture:
    """Class and score in each region that has room; large things first, since few places suit them."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture, "RGBA")
    places = TextPlaces(picture.width, picture.height, gap=2)
    for region in sorted(regions, key=lambda one: (not one.is_thing, -one.area)):
        font = font_of(text if region.is_thing else text * 1.1)
        label = region.name or categories.name(region.label)
        if region.score is not None:
            label += f" {100 * region.score:.0f}%"
        size = round(font.getlength(label) + 0.8 * font.size), round(1.5 * font.size)
        box = places.place(region.mask, region.left, region.top, times, size)
        if box is None:
            continue
        back = _mixed(region.color, (12, 14, 18), 0.72)
        pen.rounded_rectangle(box, radius=0.3 * font.size, fill=(*back, 205))
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        pen.text(middle, label, font=font, fill=(255, 255, 255, 255), anchor="mm")
    return np.asarray(picture)


def with_legend(
    picture: Picture, regions: Sequence[DrawnRegion], categories: Categories, *, counts: bool, text: float
) -> Picture:
    """The picture above a panel with the classes that are shown, things first, common ones first.

    Args:
        picture: (H, W, 3) RGB.
        regions: what is shown.
        categories: names and colours.
        counts: tell how many things of a class there are.
        text: height of names in the picture, pixels.
    """
    area: dict[int, int] = {}
    number: dict[int, int] = {}
    things: set[int] = set()
    for region in regions:
        area[region.label] = area.get(region.label, 0) + region.area
        number[region.label] = number.get(region.label, 0) + 1
        if region.is_thing:
            things.add(region.label)
    if not area:
        return picture
    labels = sorted(area, key=lambda label: (label not in things, -area[label]))
    font = font_of(text * 1.1)
    swatch, pad = round(font.size), round(font.size * 0.9)
    line = round(font.size * 1.8)
    width = picture.shape[1]
    cells: list[tuple[float, int, int, str]] = []
    x, row = float(pad), 0
    for label in labels:
        times = f" ({number[label]})" if counts and label in things and number[label] > 1 else ""
        name = categories.name(label) + times
        needs = swatch + 0.4 * font.size + font.getlength(name)
        if x > pad and x + needs > width - pad:
            x, row = float(pad), row + 1
        cells.append((x, row, label, name))
        x += needs + 1.3 * font.size
    panel = Image.new("RGB", (width, (row + 1) * line + pad), PAPER)
    pen = ImageDraw.Draw(panel)
    for x, row, label, name in cells:
        middle = pad / 2 + (row + 0.5) * line
        square = (x, middle - swatch / 2, x + swatch, middle + swatch / 2)
        color = categories.color(label)
        pen.rounded_rectangle(square, radius=swatch / 4, fill=color, outline=_mixed(color, (0, 0, 0), 0.3))
        pen.text((x + swatch + 0.4 * font.size, middle), name, font=font, fill=INK, anchor="lm")
    return np.concatenate([picture, np.asarray(panel)])  # (H, W, 3)
