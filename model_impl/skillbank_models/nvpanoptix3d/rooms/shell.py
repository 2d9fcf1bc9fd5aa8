"""Walls, floor and ceiling of a room, and what is painted on them.

Faces are 0..5 = the walls at x = 0, x = size, y = 0, y = size, the floor, the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.rooms.colors import choice, hue
from skillbank_models.nvpanoptix3d.rooms.paints import Paint, Rgb, paint
from skillbank_models.nvpanoptix3d.rooms.solids import Solid, box

__all__ = ["FACES", "Decal", "Light", "Shell", "build_shell"]

Random = np.random.Generator
Vector = NDArray[np.float64]

FACES = (10, 10, 10, 10, 11, 12)  # their classes: wall, floor, ceiling


@dataclass(frozen=True, slots=True)
class Decal:
    """A rectangle painted on a face.

    Attributes:
        face: 0..5.
        middle: across and up (on the floor: x and y), metres from the middle of the face.
        half: half of its extent.
        paint: of it.
        is_glass: whether one looks through it.
    """

    face: int
    middle: tuple[float, float]
    half: tuple[float, float]
    paint: Paint
    is_glass: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """A lamp that is not seen.

    Attributes:
        place: (3,) metres.
        color: its light at one metre.
        radius: of the ball that gives the light; soft shadows come from it.
    """

    place: Vector
    color: Rgb
    radius: float

    def moved(self, rotation: Vector, shift: Vector) -> Light:
        """The light in the frame where a point x is ``rotation @ x + shift``."""
        return Light(rotation @ self.place + shift, self.color, self.radius)


@dataclass(frozen=True, slots=True, eq=False)
class Shell:
    """A room without furniture.

    Attributes:
        size: extents along x, y, z.
        paints: of the six faces.
        decals: on them, later ones over earlier ones.
        lights: lamps and windows.
        ambient: light from everywhere.
        kept_free: boxes, lowest and highest corner, that no furniture may reach into.
    """

    size: tuple[float, float, float]
    paints: Sequence[Paint]
    decals: Sequence[Decal]
    lights: Sequence[Light]
    ambient: Rgb
    kept_free: list[tuple[Vector, Vector]]

    def solid(self) -> Solid:
        """The inside of the room as a box."""
        return box((0.0, 0.0, 0.0), self.size, self.paints[0])


def build_shell(rng: Random, size: tuple[float, float, float]) -> Shell:
    """Paint a room, with a door, often a window and a rug."""
    walls, accent = _wall_paint(rng), _accent_paint(rng)
    paints = [walls] * 4
    if rng.random() < 0.4:
        paints[int(rng.integers(4))] = accent
    paints += [_floor_paint(rng), paint(rng, "plain", (0.95, 0.94, 0.92))]
    decals = [_skirting(rng, face, size) for face in range(4)]
    kept_free: list[tuple[Vector, Vector]] = []
    places = rng.permutation(4)
    if rng.random() < 0.8:
        height, middle = 2.02, _middle(rng, int(places[0]), size, 0.45)
        level = height / 2 - size[2] / 2
        door = paint(rng, "panels", choice(rng, ((0.90, 0.89, 0.86), (0.50, 0.33, 0.20), (0.75, 0.70, 0.62))))
        decals.append(Decal(int(places[0]), (middle, level), (0.42, height / 2), door))
        kept_free.append(_before(int(places[0]), (middle, level), (0.42, height / 2), size, 0.25))
    lights = [_ceiling_light(rng, size)]
    if rng.random() < 0.6:
        half = (rng.uniform(0.45, 0.8), rng.uniform(0.45, 0.6))
        face = int(places[1])
        middle, level = _middle(rng, face, size, half[0] + 0.05), 1.5 - size[2] / 2
        bright = hue(rng, 205, 8, 0.22, 0.98)
        panes = paint(rng, "panes", bright, (0.93, 0.93, 0.92), glow=rng.uniform(0.6, 0.95))
        decals.append(Decal(face, (middle, level), half, panes, is_glass=True))
        kept_free.append(_before(face, (middle, level), half, size, 0.05))
        lights.append(_window_light(rng, kept_free[-1], size))
    if rng.random() < 0.5:
        half = (rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.9))
        spot = (float(rng.normal(0, 0.25)), float(rng.normal(0, 0.25)))
        first = hue(rng, rng.uniform(0, 360), 0, 0.35, 0.7)
        pattern = str(rng.choice(["fabric", "stripes", "checks", "dots"]))
        decals.append(Decal(4, spot, half, paint(rng, "fabric", (0.9, 0.88, 0.82))))
        inner = (half[0] - 0.06, half[1] - 0.06)
        decals.append(Decal(4, spot, inner, paint(rng, pattern, first, size=0.15)))
    shade = rng.uniform(0.28, 0.42)
    return Shell(size, paints, decals, lights, (shade, shade, shade * 1.04), kept_free)


def _wall_paint(rng: Random) -> Paint:
    light = choice(rng, ((0.92, 0.91, 0.88), (0.88, 0.84, 0.76), (0.84, 0.87, 0.89), (0.86, 0.88, 0.82)))
    if rng.random() < 0.15:
        return paint(rng, "stripes", light, (light[0] * 0.93, light[1] * 0.93, light[2] * 0.95), size=0.12)
    return paint(rng, "plain", light, (light[0] * 0.97, light[1] * 0.97, light[2] * 0.97))


def _accent_paint(rng: Random) -> Paint:
    if rng.random() < 0.25:
        return paint(rng, "bricks", (0.66, 0.38, 0.30), (0.80, 0.77, 0.72))
    color = hue(rng, rng.uniform(0, 360), 0, 0.3, 0.72)
    return paint(rng, "plain", color, (color[0] * 0.96, color[1] * 0.96, color[2] * 0.96))


def _floor_paint(rng: Random) -> Paint:
    kind = rng.random()
    if kind < 0.55:
        boards = choice(rng, ((0.70, 0.52, 0.34), (0.52, 0.36, 0.22), (0.80, 0.68, 0.50), (0.60, 0.55, 0.50)))
        return paint(rng, "planks", boards, (boards[0] * 0.55, boards[1] * 0.5, boards[2] * 0.48), size=0.12)
    if kind < 0.8:
        tile = choice(rng, ((0.82, 0.80, 0.76), (0.62, 0.62, 0.62), (0.74, 0.66, 0.56)))
        return paint(rng, "tiles", tile, (tile[0] * 0.7, tile[1] * 0.7, tile[2] * 0.7), size=0.4)
    carpet = hue(rng, rng.uniform(0, 360), 0, 0.15, 0.6)
    return paint(rng, "fabric", carpet)


def _skirting(rng: Random, face: int, size: tuple[float, float, float]) -> Decal:
    across = size[1] if face < 2 else size[0]
    board = paint(rng, "plain", (0.94, 0.94, 0.92))
    return Decal(face, (0.0, 0.045 - size[2] / 2), (across / 2, 0.045), board)


def _middle(rng: Random, face: int, size: tuple[float, float, float], half: float) -> float:
    """Where along a wall the middle of something goes, from the middle of the wall."""
    free = (size[1] if face < 2 else size[0]) / 2 - half - 0.1
    return float(rng.uniform(-free, free))


def _before(
    face: int,
    middle: tuple[float, float],
    half: tuple[float, float],
    size: tuple[float, float, float],
    deep: float,
) -> tuple[Vector, Vector]:
    """The box before a part of a wall."""
    axis, along = face // 2, 1 - face // 2
    low, high = np.zeros(3), np.zeros(3)
    low[along], high[along] = (size[along] / 2 + middle[0] + way * half[0] for way in (-1, 1))
    low[2], high[2] = (size[2] / 2 + middle[1] + way * half[1] for way in (-1, 1))
    low[axis], high[axis] = (0.0, deep) if face % 2 == 0 else (size[axis] - deep, size[axis])
    return low, high


def _ceiling_light(rng: Random, size: tuple[float, float, float]) -> Light:
    place = np.array(size) * [*rng.uniform(0.35, 0.65, 2), 1.0] - [0, 0, 0.15]
    warm = rng.uniform(0, 1)
    power = rng.uniform(2.2, 3.4)
    return Light(place, (power, power * (0.98 - 0.08 * warm), power * (0.94 - 0.22 * warm)), 0.16)


def _window_light(rng: Random, window: tuple[Vector, Vector], size: tuple[float, float, float]) -> Light:
    middle = (window[0] + window[1]) / 2
    inward = np.sign(np.array(size) / 2 - middle) * [1, 1, 0]
    across = np.argmin(window[1] - window[0])
    middle[across] += 0.3 * inward[across]
    power = rng.uniform(1.2, 2.6)
    return Light(middle, (power * 0.92, power * 0.97, power), 0.4)
