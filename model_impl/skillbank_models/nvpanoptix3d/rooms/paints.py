"""What surfaces are painted with: patterns as functions of the place on a surface.

Letters: `N` points; coordinates and colour channels come first, (3, N). Colours are sRGB 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Paint", "colors_at", "noise", "paint"]

Reals = NDArray[np.float32]
Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Paint:
    """A pattern of two colours.

    Attributes:
        kind: name of the pattern.
        first: main colour.
        second: the other one.
        size: metres, of what repeats.
        shift: (3,) metres, so that no two surfaces look alike.
        glow: light that it gives off, as a share of white paper in plain light.
    """

    kind: str
    first: Rgb
    second: Rgb
    size: float
    shift: Rgb
    glow: float


def paint(
    rng: np.random.Generator,
    kind: str,
    first: Rgb,
    second: Rgb | None = None,
    *,
    size: float = 0.1,
    glow: float = 0.0,
) -> Paint:
    """A pattern in about these colours; without a second, in two shades of the first."""
    drawn = np.clip(np.array(first) * rng.uniform(0.85, 1.1) + rng.normal(0, 0.03, 3), 0.02, 0.98)
    other = drawn * rng.uniform(0.7, 0.85) if second is None else np.array(second)
    shift = rng.uniform(0, 40, 3)
    return Paint(kind, _rgb(drawn), _rgb(other), size * rng.uniform(0.8, 1.25), _rgb(shift), glow)


def colors_at(pattern: Paint, own: Reals, normal: Reals, half: Reals) -> Reals:
    """Colours at points of a surface, (3, N).

    Args:
        pattern: of the surface.
        own: (3, N) metres from the middle of the solid, along its axes.
        normal: (3, N) along these axes too.
        half: (3,) half of the solid's extent.
    """
    share = _PATTERNS[pattern.kind](pattern, own, _across(own, normal), half)  # (N,)
    first, second = (np.array(color, np.float32)[:, None] for color in (pattern.first, pattern.second))
    found: Reals = (first + (second - first) * share).astype(np.float32)  # (3, N)
    return found


def noise(points: Reals) -> Reals:
    """Smooth noise with a grain of 1 at points (3, N): (N,) from 0 to 1."""
    from scipy.ndimage import map_coordinates

    found: Reals = map_coordinates(_grain(), points, order=1, mode="grid-wrap", prefilter=False)
    return found


@lru_cache(maxsize=1)
def _grain() -> Reals:
    return np.random.default_rng(0).random((32, 32, 32), np.float32)


def _across(own: Reals, normal: Reals) -> Reals:
    """The two coordinates along the surface, (2, N): across and up, or across and along when it lies flat."""
    facing = np.abs(normal).argmax(0)
    across = np.where(facing == 0, own[1], own[0])
    return np.stack([across, np.where(facing == 2, own[1], own[2])])  # (2, N)


Values = NDArray[Any]
Pattern = Callable[[Paint, Reals, Reals, Reals], Values]


def _placed(pattern: Paint, own: Reals) -> Reals:
    return own + np.array(pattern.shift, np.float32)[:, None]


def _plain(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    return 0.25 * noise(_placed(pattern, own) / 0.25)


def _fabric(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    place = _placed(pattern, own)
    return 0.55 * noise(place / 0.012) + 0.45 * noise(place / 0.09)


def _wood(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """Long streaks along the longest side."""
    stretch = np.full(3, 60.0, np.float32)
    stretch[int(np.argmax(half))] = 2.5
    place = _placed(pattern, own) * stretch[:, None]
    found: Values = (0.65 * noise(place) + 0.35 * noise(place * np.float32(0.3))) ** 1.5
    return found


def _stripes(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    return np.asarray(np.floor(flat[0] / pattern.size + 0.5) % 2, np.float32)


def _checks(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    one, other = np.floor(flat / pattern.size) % 2
    return np.asarray((one + other) / 2, np.float32)


def _dots(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    cell: Values = flat / pattern.size
    cell -= np.round(cell)
    return np.asarray(cell[0] ** 2 + cell[1] ** 2 < 0.07, np.float32)


def _marble(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    place = _placed(pattern, own)
    waves = np.sin(9 * (place[0] + 0.6 * place[1]) + 7 * noise(place / 0.3))
    found: Values = 0.8 * (1 - np.abs(waves)) ** 3 + 0.2 * noise(place / 0.05)
    return found


def _leaves(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    return np.asarray(noise(_placed(pattern, own) / 0.03) > 0.5, np.float32)


def _tiles(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """Squares that differ a little, with joints in the second colour."""
    cell = (flat + np.array(pattern.shift[:2], np.float32)[:, None]) / pattern.size
    within = cell - np.floor(cell)
    joint = (within < 0.008 / pattern.size).any(0)
    shade = noise(np.stack([*np.floor(cell) * 7.3, np.full(flat.shape[1], 3.0, np.float32)]))
    return np.where(joint, np.float32(1), 0.3 * shade).astype(np.float32)


def _planks(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """Boards of some length, each with a shade and a grain of its own."""
    place = flat + np.array(pattern.shift[:2], np.float32)[:, None]
    row = np.floor(place[0] / pattern.size)
    along = place[1] / (pattern.size * 8) + 0.37 * row
    board = np.floor(along)
    joint = (place[0] / pattern.size - row < 0.04) | (along - board < 0.006)
    shade = noise(np.stack([row * 5.7, board * 3.1, np.full_like(row, 1.5)]))
    grain = noise(np.stack([place[0] * 70, place[1] * 3, row * 9.1]))
    return np.where(joint, np.float32(1.2), 0.6 * shade + 0.35 * grain).astype(np.float32)


def _bricks(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    row = np.floor(flat[1] / 0.08)
    along = flat[0] / 0.22 + 0.5 * (row % 2)
    joint = (flat[1] / 0.08 - row < 0.12) | (along - np.floor(along) < 0.05)
    shade = noise(np.stack([np.floor(along) * 5.3, row * 3.7, np.full_like(row, 2.5)]))
    return np.where(joint, np.float32(1), 0.35 * shade).astype(np.float32)


def _picture(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """Blots within a border."""
    place = _placed(pattern, own)
    blots = noise(place / 0.12) + 0.4 * noise(place / 0.03)
    return np.asarray(blots > 0.7, np.float32)


def _fade(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """From the first colour at the bottom to the second on top."""
    height = max(float(half[2]), 1e-3)
    return np.asarray(np.clip(0.5 + 0.5 * own[2] / height, 0, 1), np.float32)


def _panes(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """A window: panes in the first colour between bars in the second."""
    share = np.stack([flat[0] / max(float(half[0]), 1e-3), flat[1] / max(float(half[2]), 1e-3)])
    frame = (np.abs(share) > 0.9).any(0) | (np.abs(share[0]) < 0.04) | (np.abs(share[1] - 0.3) < 0.03)
    return np.asarray(frame, np.float32)


def _panels(pattern: Paint, own: Reals, flat: Reals, half: Reals) -> Values:
    """A door: two panels with a groove around each."""
    across, up = np.abs(flat[0]) / max(float(half[0]), 1e-3), flat[1] / max(float(half[2]), 1e-3)
    groove = np.zeros(flat.shape[1], np.bool_)
    for middle, reach in ((-0.45, 0.4), (0.45, 0.4)):
        away = np.maximum(np.abs(up - middle) / reach, across / 0.7)
        groove |= (away > 0.9) & (away < 1.0)
    return np.asarray(groove, np.float32)


_PATTERNS: Mapping[str, Pattern] = {
    "bricks": _bricks,
    "checks": _checks,
    "dots": _dots,
    "fabric": _fabric,
    "fade": _fade,
    "leaves": _leaves,
    "marble": _marble,
    "panels": _panels,
    "panes": _panes,
    "picture": _picture,
    "plain": _plain,
    "planks": _planks,
    "stripes": _stripes,
    "tiles": _tiles,
    "wood": _wood,
}


def _rgb(values: NDArray[np.float64]) -> Rgb:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
