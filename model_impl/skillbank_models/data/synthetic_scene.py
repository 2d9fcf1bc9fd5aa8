"""Made-up landscapes with things in them: pictures a small network can learn from, with exact masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from skillbank_models.data.categories import Category
from skillbank_models.data.run_lengths import polygon_mask

__all__ = ["CATEGORIES", "Part", "Scene", "draw_scene", "empty_scene"]

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

CATEGORIES = (
    Category(id=1, name="ball", color=(220, 60, 50), is_thing=True),
    Category(id=2, name="box", color=(240, 150, 40), is_thing=True),
    Category(id=3, name="tent", color=(150, 70, 190), is_thing=True),
    Category(id=4, name="star", color=(245, 215, 60), is_thing=True),
    Category(id=5, name="cross", color=(235, 100, 170), is_thing=True),
    Category(id=6, name="sky", color=(135, 185, 235), is_thing=False),
    Category(id=7, name="grass", color=(95, 165, 75), is_thing=False),
    Category(id=8, name="water", color=(45, 105, 170), is_thing=False),
)

_SKY, _GRASS, _WATER, _BALL = 6, 7, 8, 1
_LEAST_SEEN = 0.45  # of a thing that others cover
_TRIES = 12


@dataclass(slots=True)
class Part:
    """A thing, a crowd or a stretch of stuff.

    Attributes:
        mask: (H, W), what is seen of it.
        polygon: its outline x0, y0, x1, ..., when nothing of it is covered or cut off; else None.
    """

    category_id: int
    mask: Mask
    is_crowd: bool
    polygon: list[float] | None


@dataclass(slots=True)
class Scene:
    """A picture and its parts, which do not overlap; what no part has is unlabelled.

    Attributes:
        image: (H, W, 3) uint8 RGB.
    """

    image: NDArray[np.uint8]
    parts: list[Part]


@dataclass(slots=True)
class _Thing:
    category_id: int
    mask: Mask
    area: int
    polygon: list[float] | None
    is_crowd: bool = False


def empty_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Fog, with nothing in it that has a class."""
    fog = 150 + 40 * _clouds(rng, size)[..., None] + rng.normal(0, 4, (*size, 3))  # (H, W, 3)
    return Scene(_bytes(fog), [])


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Sky over grass and water, with two to seven things, now and then a crowd and an unlabelled patch."""
    image, stuff = _landscape(rng, size)
    if rng.random() < 0.25:
        _fog_patch(rng, image, stuff)
    things: list[_Thing] = []
    if rng.random() < 0.25:
        _add_crowd(rng, image, things)
    for _ in range(int(rng.integers(2, 8))):
        _add_thing(rng, image, things)
    image += rng.normal(0, 3, image.shape)
    parts = [Part(thing.category_id, thing.mask, thing.is_crowd, _whole_outline(thing)) for thing in things]
    covered = np.any([thing.mask for thing in things], axis=0) if things else np.zeros(size, np.bool_)
    for category_id in (_SKY, _GRASS, _WATER):
        mask = (stuff == category_id) & ~covered
        if mask.any():
            parts.append(Part(category_id, mask, False, None))
    return Scene(_bytes(image), parts)


def _landscape(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Pixels, NDArray[np.uint8]]:
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    stuff = np.full(size, _SKY, np.uint8)
    horizon = height * rng.uniform(0.3, 0.55)
    hills = y > horizon + _wave(rng, x, width, 0.07 * height)
    stuff[hills] = _GRASS
    if rng.random() < 0.7:
        # a lake or a shore: below a second wave, on one side of a third
        shore = y > height * rng.uniform(0.6, 0.8) + _wave(rng, x, width, 0.05 * height)
        side = x * rng.choice([-1, 1]) > rng.uniform(-0.8, 0.4) * width + _wave(rng, y, height, 0.1 * width)
        stuff[hills & shore & side] = _WATER
    clouds = _clouds(rng, size)
    depth = (y / height)[..., None]
    sky = np.array([120, 175, 235]) + depth * [110, 65, 15] + 45 * np.maximum(clouds, 0)[..., None]
    blades = cv2.blur(rng.normal(0, 1, size).astype(np.float32), (1, 5))
    grass = np.array([95, 160, 70]) - 25 * depth + (18 * clouds + 22 * blades)[..., None]
    ripples = np.sin(y * rng.uniform(0.5, 0.9) + 1.5 * clouds + x * 0.02)
    water = np.array([45, 105, 170]) + 20 * depth + (16 * ripples)[..., None]
    image = np.where((stuff == _SKY)[..., None], sky, np.where((stuff == _GRASS)[..., None], grass, water))
    return image.astype(np.float32), stuff  # (H, W, 3), (H, W)


def _fog_patch(rng: np.random.Generator, image: Pixels, stuff: NDArray[np.uint8]) -> None:
    """A grey patch that has no label."""
    height, width = stuff.shape
    center = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    radius = min(height, width) * rng.uniform(0.08, 0.16)
    y, x = np.mgrid[0:height, 0:width]
    ragged = radius * (1 + 0.35 * _clouds(rng, (height, width)))
    patch = (x - center[0]) ** 2 + (y - center[1]) ** 2 < ragged**2
    image[patch] = 140 + rng.normal(0, 12, (int(patch.sum()), 1))
    stuff[patch] = 0


def _add_thing(rng: np.random.Generator, image: Pixels, things: list[_Thing]) -> None:
    """Paint a thing over the picture, unless it would hide too much of those before it."""
    height, width = image.shape[:2]
    for _ in range(_TRIES):
        category_id = int(rng.integers(1, 6))
        radius = min(height, width) * rng.uniform(0.08, 0.2)
        # some are cut off by the edge
        place = rng.uniform([-0.2 * radius, 0], [width + 0.2 * radius, height])
        outline = place + radius * _outline(rng, category_id)  # (V, 2)
        mask = _filled(outline, (height, width))
        area = int(mask.sum())
        left = [int((thing.mask & ~mask).sum()) for thing in things]
        kept = all(rest >= _LEAST_SEEN * thing.area for rest, thing in zip(left, things, strict=True))
        if area < 0.5 * radius**2 or not kept:
            continue
        _shadow(image, outline, radius)
        _paint(rng, image, outline, CATEGORIES[category_id - 1], place, radius)
        for thing in things:
            thing.mask &= ~mask
        whole = bool((outline > 0).all() and (outline < [width, height]).all())
        flat = [round(float(value), 2) for value in outline.ravel()] if whole else None
        things.append(_Thing(category_id, mask, area, flat))
        return


def _add_crowd(rng: np.random.Generator, image: Pixels, things: list[_Thing]) -> None:
    """Many small balls on a heap, annotated as one crowd."""
    height, width = image.shape[:2]
    radius = max(min(height, width) * 0.025, 2.0)
    center = rng.uniform([0.15 * width, 0.5 * height], [0.85 * width, 0.9 * height])
    whole = np.zeros((height, width), np.bool_)
    for spot in center + rng.normal(0, 2.2 * radius, (18, 2)):
        outline = spot + radius * _outline(rng, _BALL)
        mask = _filled(outline, (height, width))
        if mask.any():
            _paint(rng, image, outline, CATEGORIES[_BALL - 1], spot, radius)
            whole |= mask
    if whole.any():
        things.append(_Thing(_BALL, whole, int(whole.sum()), None, is_crowd=True))


def _outline(rng: np.random.Generator, category_id: int) -> NDArray[np.float64]:
    """Corners of a thing of radius 1 around the origin, (V, 2)."""
    turn = rng.uniform(0, 2 * np.pi)
    if category_id == _BALL:
        return _ring(np.ones(40), turn)
    if category_id == 2:
        return _ring(np.ones(4), turn)
    if category_id == 3:
        return _ring(np.ones(3), -np.pi / 2 + rng.uniform(-0.3, 0.3))
    if category_id == 4:
        return _ring(np.tile([1.0, 0.45], 5), turn)
    arm = 0.35
    cross = np.array(
        [
            (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
            (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
        ]
    )  # fmt: skip
    cosine, sine = np.cos(turn), np.sin(turn)
    found: NDArray[np.float64] = cross @ np.array([[cosine, sine], [-sine, cosine]])
    return found


def _ring(radii: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
    angles = turn + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]  # (V, 2)


def _filled(outline: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """The mask that COCO's library makes of an outline, so that polygons and maps agree to the pixel."""
    flat = [round(float(value), 2) for value in outline.ravel()]
    return polygon_mask([flat], size).astype(np.bool_)  # (H, W)


def _whole_outline(thing: _Thing) -> list[float] | None:
    return thing.polygon if thing.polygon and int(thing.mask.sum()) == thing.area else None


def _paint(
    rng: np.random.Generator,
    image: Pixels,
    outline: NDArray[np.float64],
    category: Category,
    place: NDArray[np.float64],
    radius: float,
) -> None:
    """A thing in the colour of its class, lit from the upper left, plain, striped or dotted."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = (x - place[0]) / radius, (y - place[1]) / radius
    base = np.array(category.color) * rng.uniform(0.85, 1.1) + rng.normal(0, 10, 3)
    light = 1.0 - 0.22 * (dx + dy)
    kind = rng.integers(3)
    if kind == 1:
        angle = rng.uniform(0, np.pi)
        light += 0.18 * np.sign(np.sin(9 * (np.cos(angle) * dx + np.sin(angle) * dy)))
    elif kind == 2:
        light -= 0.25 * ((np.sin(8 * dx) * np.sin(8 * dy)) > 0.45)
    color = base * light[..., None]  # (H, W, 3)
    alpha = _coverage(outline, (height, width))[..., None]
    image += alpha * (color - image)


def _shadow(image: Pixels, outline: NDArray[np.float64], radius: float) -> None:
    size = image.shape[0], image.shape[1]
    soft = max(int(radius * 0.3) | 1, 3)
    dark = cv2.GaussianBlur(_coverage(outline + 0.12 * radius, size), (soft, soft), 0)
    image *= 1 - 0.3 * dark[..., None]


def _coverage(outline: NDArray[np.float64], size: tuple[int, int]) -> Pixels:
    """Share of each pixel that an outline covers, (H, W)."""
    canvas = np.zeros(size, np.uint8)
    # OpenCV counts from the middle of a pixel, in 1/256 pixel
    corners = np.rint((outline - 0.5) * 256).astype(np.int32)
    cv2.fillPoly(canvas, [corners], 255, lineType=cv2.LINE_AA, shift=8)
    return (canvas / np.float32(255)).astype(np.float32)


def _wave(rng: np.random.Generator, along: Pixels, length: int, height: float) -> Pixels:
    found = np.zeros_like(along)
    for number in range(1, 4):
        phase = rng.uniform(0, 2 * np.pi)
        found += height / number * np.sin(2 * np.pi * number * along / length * rng.uniform(0.6, 1.2) + phase)
    return found


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Soft noise of a few sizes, about -1 to 1, (H, W)."""
    found = np.zeros(size, np.float32)
    for cells, share in ((4, 0.6), (9, 0.3), (20, 0.15)):
        coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        found += share * cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return found


def _bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = image.clip(0, 255).astype(np.uint8)
    return found
