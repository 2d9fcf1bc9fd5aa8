"""Lamps and what else makes a room: plants, pictures, televisions, poufs.

The frame is that of `furniture`: x across, from -width/2; y away from the back, which is at 0; z up. Lengths
are metres.
"""

from __future__ import annotations

import numpy as np

from skillbank_models.nvpanoptix3d.rooms.colors import choice, cloth, hue, metal, wood
from skillbank_models.nvpanoptix3d.rooms.paints import Paint, paint
from skillbank_models.nvpanoptix3d.rooms.solids import Solid, ball, box, cylinder

__all__ = ["floor_lamp", "hanging_lamp", "picture", "plant", "pouf", "table_lamp", "television"]

Random = np.random.Generator


def floor_lamp(rng: Random) -> list[Solid]:
    """A foot, a pole and a lit shade."""
    height, radius, coat = rng.uniform(1.35, 1.7), rng.uniform(0.16, 0.24), metal(rng)
    return [
        cylinder(0, radius, 0.14, 0, 0.03, coat),
        cylinder(0, radius, 0.018, 0.03, height - 0.27, coat),
        cylinder(0, radius, radius, height - 0.27, height, _shade(rng)),
    ]


def table_lamp(rng: Random) -> list[Solid]:
    """A small lamp to stand on something."""
    height, radius = rng.uniform(0.4, 0.55), rng.uniform(0.12, 0.17)
    body = paint(rng, "plain", hue(rng, rng.uniform(0, 360), 0, 0.5, 0.6))
    return [
        cylinder(0, radius, 0.08, 0, 0.02, body),
        ball(0, radius, 0.09, 0.075, body),
        cylinder(0, radius, 0.015, 0.15, height - 0.2, body),
        cylinder(0, radius, radius, height - 0.2, height, _shade(rng)),
    ]


def hanging_lamp(rng: Random) -> list[Solid]:
    """A lamp on a cord; its top, at height 1, is at the ceiling."""
    drop, radius, coat = rng.uniform(0.4, 0.75), rng.uniform(0.15, 0.26), metal(rng)
    found = [
        cylinder(0, radius, 0.05, 0.97, 1, coat),
        cylinder(0, radius, 0.01, 1 - drop, 0.97, coat),
    ]
    if rng.random() < 0.4:
        return [*found, ball(0, radius, 1 - drop - radius * 0.7, radius * 0.7, _shade(rng))]
    return [*found, cylinder(0, radius, radius, 1 - drop - 0.18, 1 - drop, _shade(rng))]


def plant(rng: Random) -> list[Solid]:
    """A pot with leaves."""
    pot = paint(rng, "plain", choice(rng, ((0.75, 0.45, 0.30), (0.9, 0.9, 0.88), (0.2, 0.22, 0.25))))
    green, radius, height = hue(rng, 115, 20, 0.6, 0.45), rng.uniform(0.13, 0.18), rng.uniform(0.25, 0.35)
    leaves = paint(rng, "leaves", green, (green[0] * 0.5, green[1] * 0.55, green[2] * 0.5))
    found = [cylinder(0, 0.26, radius, 0, height, pot)]
    stem = height + rng.uniform(0.1, 0.3)
    found.append(cylinder(0, 0.26, 0.02, height, stem + 0.1, wood(rng)))
    for _ in range(int(rng.integers(4, 7))):
        x, y = rng.uniform(-0.14, 0.14, 2)
        found.append(
            ball(float(x), 0.26 + float(y), stem + rng.uniform(0.05, 0.4), rng.uniform(0.09, 0.15), leaves)
        )
    return found


def picture(rng: Random) -> list[Solid]:
    """A framed picture to hang on a wall; its bottom is at 0."""
    width, height = rng.uniform(0.4, 1.0), rng.uniform(0.35, 0.7)
    first, second = hue(rng, rng.uniform(0, 360), 0, 0.5, 0.75), hue(rng, rng.uniform(0, 360), 0, 0.6, 0.6)
    frame = wood(rng)
    return [
        box((-width / 2, 0, 0), (width / 2, 0.03, height), frame),
        box(
            (-width / 2 + 0.04, 0.03, 0.04),
            (width / 2 - 0.04, 0.035, height - 0.04),
            paint(rng, "picture", first, second),
        ),
    ]


def television(rng: Random) -> list[Solid]:
    """A screen on a foot."""
    width = rng.uniform(0.8, 1.15)
    height, dark = width * 0.56, paint(rng, "plain", (0.06, 0.06, 0.07))
    screen = paint(rng, "fade", (0.04, 0.05, 0.08), (0.16, 0.19, 0.26))
    return [
        box((-0.15, 0.02, 0), (0.15, 0.2, 0.02), dark),
        box((-0.02, 0.1, 0.02), (0.02, 0.13, 0.1), dark),
        box((-width / 2, 0.09, 0.1), (width / 2, 0.13, 0.1 + height), dark),
        box((-width / 2 + 0.02, 0.13, 0.12), (width / 2 - 0.02, 0.134, 0.08 + height), screen),
    ]


def pouf(rng: Random) -> list[Solid]:
    """A round or square stool without a back, or a box."""
    color = hue(rng, float(rng.choice([285, 300, 50])), 20, 0.5, 0.7)
    size, height = rng.uniform(0.36, 0.5), rng.uniform(0.32, 0.45)
    cover = cloth(rng, color, patterned=0.5)
    if rng.random() < 0.5:
        return [cylinder(0, size / 2, size / 2, 0, height, cover)]
    return [box((-size / 2, 0, 0), (size / 2, size, height), cover)]


def _shade(rng: Random) -> Paint:
    return paint(rng, "fade", (1.0, 0.93, 0.76), (1.0, 0.86, 0.62), glow=rng.uniform(0.45, 0.75))
