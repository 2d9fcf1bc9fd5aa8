"""Furniture of the thing classes, built of boxes, cylinders and balls.

A piece stands in its own frame: x across, from -width/2; y away from its back, which is at 0; z up from the
floor. Lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from skillbank_models.nvpanoptix3d.rooms.accessories import (
    floor_lamp,
    hanging_lamp,
    picture,
    plant,
    pouf,
    table_lamp,
    television,
)
from skillbank_models.nvpanoptix3d.rooms.colors import cloth, hue, metal, wood
from skillbank_models.nvpanoptix3d.rooms.paints import Paint, Rgb, paint
from skillbank_models.nvpanoptix3d.rooms.solids import Solid, ball, box, cylinder

__all__ = ["BUILDERS"]

Random = np.random.Generator
Builder = Callable[[Random], list[Solid]]

_CABINETS: tuple[Rgb, ...] = ((0.86, 0.83, 0.77), (0.66, 0.47, 0.28), (0.50, 0.33, 0.20), (0.72, 0.70, 0.66))
_DRESSERS: tuple[Rgb, ...] = ((0.42, 0.20, 0.12), (0.55, 0.25, 0.14), (0.34, 0.46, 0.44), (0.90, 0.88, 0.84))
_DESKS: tuple[Rgb, ...] = ((0.88, 0.86, 0.82), (0.78, 0.64, 0.44), (0.25, 0.25, 0.27))
_TABLES: tuple[Rgb, ...] = ((0.70, 0.46, 0.22), (0.56, 0.35, 0.18), (0.80, 0.66, 0.46))


def wardrobe(rng: Random) -> list[Solid]:
    """A tall cabinet with doors."""
    width, depth, height = rng.uniform(0.8, 1.6), rng.uniform(0.42, 0.58), rng.uniform(1.6, 2.1)
    coat, knob = wood(rng, _CABINETS), metal(rng)
    found = [box((-width / 2, 0, 0), (width / 2, depth, height), coat)]
    count = 2 if width < 1.2 else 3
    step, front = width / count, paint(rng, coat.kind, coat.first)
    for number in range(count):
        left = -width / 2 + number * step
        found.append(
            box((left + 0.012, depth, 0.07), (left + step - 0.012, depth + 0.018, height - 0.02), front)
        )
        side = left + (step - 0.06 if number % 2 == 0 else 0.06)
        found.append(box((side - 0.01, depth + 0.018, 0.9), (side + 0.01, depth + 0.045, 1.15), knob))
    return found


def bookcase(rng: Random) -> list[Solid]:
    """An open cabinet with shelves and books."""
    width, depth, height = rng.uniform(0.7, 1.3), rng.uniform(0.28, 0.36), rng.uniform(1.2, 2.0)
    coat, board = wood(rng, _CABINETS), 0.03
    half = width / 2
    found = [
        box((-half, 0, 0), (-half + board, depth, height), coat),
        box((half - board, 0, 0), (half, depth, height), coat),
        box((-half + board, 0, 0), (half - board, 0.015, height), coat),
    ]
    count = int(rng.integers(3, 6))
    for number in range(count + 1):
        low = number * (height - board) / count
        found.append(box((-half + board, 0.015, low), (half - board, depth, low + board), coat))
        room, place = (height - board) / count - board, -half + board + 0.01
        while number < count and place < half - 0.25:
            wide, tall = rng.uniform(0.08, 0.22), room * rng.uniform(0.55, 0.85)
            color = hue(rng, rng.uniform(0, 360), 0, 0.5, 0.6)
            if rng.random() < 0.6:
                spine = paint(rng, "stripes", color, size=0.025)
                found.append(
                    box((place, 0.03, low + board), (place + wide, depth - 0.05, low + board + tall), spine)
                )
            place += wide + 0.02
    return found


def low_cabinet(rng: Random) -> list[Solid]:
    """A sideboard, with a television of its own kind put on it elsewhere."""
    width, depth, height = rng.uniform(1.1, 1.7), rng.uniform(0.35, 0.45), rng.uniform(0.45, 0.7)
    coat = wood(rng, _CABINETS)
    found = _legs(width - 0.1, depth - 0.1, 0.12, 0.04, metal(rng), front=0.05)
    found.append(box((-width / 2, 0, 0.12), (width / 2, depth, height), coat))
    step, front = width / 3, paint(rng, coat.kind, coat.first)
    for number in range(3):
        left = -width / 2 + number * step
        found.append(
            box((left + 0.015, depth, 0.15), (left + step - 0.015, depth + 0.016, height - 0.03), front)
        )
    return found


def bed(rng: Random) -> list[Solid]:
    """Frame, mattress, blanket, pillows and headboard; the head is at the back."""
    width, length = float(rng.choice([0.95, 1.4, 1.6, 1.8])), rng.uniform(1.95, 2.1)
    frame, half = wood(rng), width / 2
    color = hue(rng, float(rng.choice([0, 25, 345, 220])), 15, 0.55, 0.75)
    sheet = paint(rng, "fabric", (0.93, 0.92, 0.90))
    head = cloth(rng, color, patterned=0) if rng.random() < 0.5 else frame
    found = [
        box((-half, 0, 0), (half, 0.07, rng.uniform(0.85, 1.15)), head),
        box((-half, 0.07, 0.06), (half, length, 0.28), frame),
        box((-half + 0.02, 0.07, 0.28), (half - 0.02, length - 0.03, 0.48), sheet),
        box((-half, 0.75, 0.40), (half, length, 0.53), cloth(rng, color, patterned=0.6)),
    ]
    count = 1 if width < 1.2 else 2
    for number in range(count):
        middle = (number - (count - 1) / 2) * width / count
        pillow = box((middle - 0.29, 0.12, 0.48), (middle + 0.29, 0.52, 0.60), cloth(rng, (0.9, 0.88, 0.85)))
        found.append(_tilted(pillow, 0.25))
    return found


def chair(rng: Random) -> list[Solid]:
    """A dining chair."""
    width, depth, seat = rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.5), rng.uniform(0.43, 0.48)
    frame, back = wood(rng) if rng.random() < 0.6 else metal(rng), rng.uniform(0.82, 1.0)
    color = hue(rng, float(rng.choice([205, 175, 45])), 15, 0.6, 0.65)
    cover = cloth(rng, color)
    found = _legs(width, depth, seat - 0.05, 0.04, frame)
    found.append(box((-width / 2, 0, seat - 0.05), (width / 2, depth, seat), cover))
    if rng.random() < 0.5:
        found.append(box((-width / 2, 0, seat), (width / 2, 0.05, back), cover))
    else:
        for x in (-width / 2, -0.02, width / 2 - 0.04):
            found.append(box((x, 0, seat), (x + 0.04, 0.04, back - 0.1), frame))
        found.append(box((-width / 2, 0, back - 0.1), (width / 2, 0.045, back), frame))
    return found


def office_chair(rng: Random) -> list[Solid]:
    """A swivel chair, or a padded armchair."""
    color = hue(rng, float(rng.choice([205, 175, 215])), 15, 0.55, 0.55)
    cover, foot = cloth(rng, color, patterned=0.15), metal(rng)
    if rng.random() < 0.5:
        width = rng.uniform(0.62, 0.75)
        half = width / 2
        return [
            *_legs(width - 0.06, 0.64, 0.14, 0.05, wood(rng), front=0.03),
            box((-half, 0, 0.14), (half, 0.7, 0.32), cover),
            box((-half + 0.12, 0.16, 0.32), (half - 0.12, 0.7, 0.44), cover),
            box((-half + 0.12, 0, 0.32), (half - 0.12, 0.16, rng.uniform(0.75, 0.9)), cover),
            box((-half, 0, 0.32), (-half + 0.12, 0.68, 0.6), cover),
            box((half - 0.12, 0, 0.32), (half, 0.68, 0.6), cover),
        ]
    return [
        cylinder(0, 0.3, 0.27, 0, 0.05, foot),
        cylinder(0, 0.3, 0.03, 0.05, 0.42, foot),
        box((-0.25, 0.06, 0.42), (0.25, 0.54, 0.50), cover),
        box((-0.03, 0.02, 0.42), (0.03, 0.06, 0.66), foot),
        box((-0.22, 0.02, 0.60), (0.22, 0.08, rng.uniform(0.95, 1.15)), cover),
    ]


def sofa(rng: Random) -> list[Solid]:
    """A sofa of two or three seats with cushions."""
    seats = int(rng.integers(2, 4))
    width, depth, back = (
        seats * rng.uniform(0.55, 0.65) + 0.4,
        rng.uniform(0.8, 0.95),
        rng.uniform(0.72, 0.88),
    )
    color = hue(rng, float(rng.choice([95, 120, 80, 140])), 15, float(rng.choice([0.15, 0.4, 0.5])), 0.6)
    cover, half, arm = cloth(rng, color, patterned=0.15), width / 2, 0.17
    found = _legs(width - 0.1, depth - 0.1, 0.1, 0.05, wood(rng), front=0.05)
    found += [
        box((-half, 0, 0.1), (half, depth, 0.28), cover),
        box((-half + arm, 0, 0.28), (half - arm, 0.2, back), cover),
        box((-half, 0, 0.28), (-half + arm, depth, 0.6), cover),
        box((half - arm, 0, 0.28), (half, depth, 0.6), cover),
    ]
    step = (width - 2 * arm) / seats
    for number in range(seats):
        left = -half + arm + number * step
        found.append(box((left + 0.008, 0.2, 0.28), (left + step - 0.008, depth + 0.02, 0.43), cover))
        if rng.random() < 0.6:
            cushion = cloth(rng, hue(rng, rng.uniform(0, 360), 0, 0.6, 0.8), patterned=0.6)
            middle = left + step * rng.uniform(0.4, 0.6)
            found.append(
                _tilted(box((middle - 0.19, 0.24, 0.45), (middle + 0.19, 0.34, 0.80), cushion), -0.25)
            )
    return found


def dining_table(rng: Random) -> list[Solid]:
    """A table at the height of a chair; round ones have one foot."""
    coat, height = wood(rng, _TABLES), rng.uniform(0.72, 0.77)
    if rng.random() < 0.35:
        radius = rng.uniform(0.45, 0.6)
        return [
            cylinder(0, radius, radius, height - 0.04, height, coat),
            cylinder(0, radius, 0.05, 0.04, height - 0.04, coat),
            cylinder(0, radius, 0.28, 0, 0.04, coat),
        ]
    width, depth = rng.uniform(1.1, 1.7), rng.uniform(0.75, 0.95)
    top = box((-width / 2, 0, height - 0.04), (width / 2, depth, height), coat)
    return [*_legs(width - 0.08, depth - 0.08, height - 0.04, 0.06, coat, front=0.04), top]


def coffee_table(rng: Random) -> list[Solid]:
    """A low table, some with a lower board."""
    height, coat = rng.uniform(0.35, 0.46), wood(rng, _TABLES)
    top = paint(rng, "marble", (0.85, 0.84, 0.82), (0.5, 0.5, 0.52)) if rng.random() < 0.3 else coat
    if rng.random() < 0.4:
        radius = rng.uniform(0.32, 0.48)
        around = [
            (0.7 * radius * np.cos(turn), radius + 0.7 * radius * np.sin(turn)) for turn in (0.5, 2.6, 4.7)
        ]
        feet = [cylinder(float(x), float(y), 0.025, 0, height - 0.04, coat) for x, y in around]
        return [*feet, cylinder(0, radius, radius, height - 0.04, height, top)]
    width, depth = rng.uniform(0.8, 1.2), rng.uniform(0.5, 0.65)
    found = _legs(width, depth, height - 0.05, 0.05, coat)
    found.append(box((-width / 2, 0, height - 0.05), (width / 2, depth, height), top))
    if rng.random() < 0.5:
        found.append(box((-width / 2 + 0.05, 0.05, 0.12), (width / 2 - 0.05, depth - 0.05, 0.15), coat))
    return found


def desk(rng: Random) -> list[Solid]:
    """A writing desk with drawers on one side and a panel on the other."""
    width, depth, height = rng.uniform(1.1, 1.5), rng.uniform(0.55, 0.7), rng.uniform(0.72, 0.76)
    coat, half, side = wood(rng, _DESKS), width / 2, float(rng.choice([-1, 1]))
    inner = half - 0.4
    found = [
        box((-half, 0, height - 0.035), (half, depth, height), coat),
        box((-half + 0.03, 0.02, 0.35), (half - 0.03, 0.04, height - 0.035), coat),
        _between(side * inner, side * half, (0.04, depth - 0.03), (0, height - 0.035), coat),
        _between(-side * half, -side * (half - 0.03), (0.04, depth), (0, height - 0.035), coat),
    ]
    front, knob = paint(rng, "wood", coat.first), metal(rng)
    step = (height - 0.1) / 3
    for number in range(3):
        low, ends = 0.04 + number * step, (depth - 0.03, depth - 0.01)
        found.append(
            _between(
                side * (inner + 0.015), side * (half - 0.015), ends, (low + 0.01, low + step - 0.01), front
            )
        )
        middle = side * (inner + half) / 2
        grip = (low + step * 0.5 - 0.01, low + step * 0.5 + 0.01)
        found.append(_between(middle - 0.06, middle + 0.06, (depth - 0.01, depth + 0.012), grip, knob))
    return found


def dresser(rng: Random) -> list[Solid]:
    """A chest with rows of drawers."""
    width, depth, height = rng.uniform(0.75, 1.25), rng.uniform(0.4, 0.5), rng.uniform(0.75, 1.05)
    coat, knob, rows = wood(rng, _DRESSERS), metal(rng), int(rng.integers(3, 5))
    front, columns = paint(rng, "wood", coat.first), 1 if width < 0.9 else 2
    found = _legs(width - 0.04, depth - 0.04, 0.09, 0.05, coat, front=0.02)
    found += [
        box((-width / 2, 0, 0.09), (width / 2, depth, height - 0.025), coat),
        box((-width / 2 - 0.015, 0, height - 0.025), (width / 2 + 0.015, depth + 0.02, height), coat),
    ]
    step, rise = width / columns, (height - 0.13) / rows
    for row in range(rows):
        for column in range(columns):
            left, low = -width / 2 + column * step, 0.1 + row * rise
            high, right = low + rise - 0.015, left + step - 0.02
            found.append(box((left + 0.02, depth, low + 0.015), (right, depth + 0.018, high), front))
            middle, level = left + step / 2, low + rise / 2
            found.append(ball(middle, depth + 0.03, level, 0.02, knob))
    return found


def _legs(
    width: float, depth: float, top: float, thick: float, coat: Paint, *, front: float = 0.0
) -> list[Solid]:
    """Four legs under a top of that size, from `front` behind its back edge."""
    return [
        box((x, y, 0), (x + thick, y + thick, top), coat)
        for x in (-width / 2, width / 2 - thick)
        for y in (front, front + depth - thick)
    ]


def _between(
    one: float, other: float, along: tuple[float, float], up: tuple[float, float], coat: Paint
) -> Solid:
    """A box whose sides along x come in either order."""
    return box((min(one, other), along[0], up[0]), (max(one, other), along[1], up[1]), coat)


def _tilted(solid: Solid, angle: float) -> Solid:
    """Turned about its own middle, along x."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return solid.moved(turn, solid.center - turn @ solid.center)


BUILDERS: Mapping[str, Builder] = {
    "bed": bed,
    "bookcase": bookcase,
    "chair": chair,
    "coffee table": coffee_table,
    "desk": desk,
    "dining table": dining_table,
    "dresser": dresser,
    "floor lamp": floor_lamp,
    "hanging lamp": hanging_lamp,
    "low cabinet": low_cabinet,
    "office chair": office_chair,
    "picture": picture,
    "plant": plant,
    "pouf": pouf,
    "sofa": sofa,
    "table lamp": table_lamp,
    "television": television,
    "wardrobe": wardrobe,
}
