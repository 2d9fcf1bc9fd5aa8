"""A furnished room: its walls, what stands in it, and its light.

The room spans 0 to `size` along x, y and z, z up. Lengths are metres.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.rooms.furniture import BUILDERS
from skillbank_models.nvpanoptix3d.rooms.shell import Shell, build_shell
from skillbank_models.nvpanoptix3d.rooms.solids import Solid, corners

__all__ = ["LABELS", "Piece", "Room", "furnished_room"]

Random = np.random.Generator
Vector = NDArray[np.float64]

LABELS = {
    "wardrobe": 1, "bookcase": 1, "low cabinet": 1, "bed": 2, "chair": 3, "office chair": 3, "sofa": 4,
    "dining table": 5, "coffee table": 5, "desk": 6, "dresser": 7, "floor lamp": 8, "table lamp": 8,
    "hanging lamp": 8, "picture": 9, "plant": 9, "pouf": 9, "television": 9,
}  # fmt: skip

_GAP = 0.015  # between pieces, and to the walls
_TRIES = 40
_SIDES = (4.2, 3.2)  # longest and shortest wall; what a camera sees of such a room ends within 6 m
_TURN = np.pi / 2

# What stands along the walls comes first, as it has the least choice; a name with a "?" may be left out.
_THEMES: Sequence[Sequence[str]] = (
    ("bed", "wardrobe", "dresser", "table lamp on dresser", "desk?", "office chair at desk",
     "floor lamp?", "hanging lamp?", "pouf?", "plant?", "picture?"),
    ("sofa", "low cabinet", "television on low cabinet", "coffee table at sofa", "bookcase?", "dresser?",
     "office chair?", "floor lamp", "hanging lamp?", "plant?", "pouf?", "picture?", "picture?"),
    ("dining table", "chairs at dining table", "hanging lamp", "dresser?", "table lamp on dresser",
     "low cabinet?", "wardrobe?", "bookcase?", "plant?", "picture?", "floor lamp?"),
    ("sofa", "desk", "chair at desk", "table lamp on desk?", "bookcase?", "coffee table at sofa", "dresser?",
     "floor lamp?", "hanging lamp?", "plant?", "picture?"),
    ("sofa", "coffee table at sofa", "dining table?", "chairs at dining table", "wardrobe?", "dresser?",
     "table lamp on dresser", "hanging lamp?", "pouf?", "plant?", "picture?"),
    ("bed", "desk", "chair at desk", "dresser?", "table lamp on dresser", "office chair?", "coffee table?",
     "hanging lamp?", "floor lamp?", "plant?", "picture?"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A thing in a room.

    Attributes:
        name: kind of furniture.
        label: class, 1..9.
        solids: what it is made of.
        low: (3,) lowest corner of the box around it.
        high: (3,) highest corner.
        facing: (2,) where its front looks, x and y.
    """

    name: str
    label: int
    solids: tuple[Solid, ...]
    low: Vector
    high: Vector
    facing: Vector


@dataclass(slots=True)
class Room:
    """A room with its furniture."""

    shell: Shell
    pieces: list[Piece] = field(default_factory=list)


def furnished_room(rng: Random, *, empty: bool = False) -> Room:
    """A room with four to fifteen pieces of furniture.

    Args:
        empty: leave the furniture out.
    """
    long, short = rng.uniform(_SIDES[1] + 0.3, _SIDES[0]), rng.uniform(_SIDES[1], _SIDES[1] + 0.5)
    sides = (long, short) if rng.random() < 0.5 else (short, long)
    room = Room(build_shell(rng, (*sides, rng.uniform(2.4, 2.75))))
    if not empty:
        for word in _THEMES[int(rng.integers(len(_THEMES)))]:
            if not word.endswith("?") or rng.random() < 0.6:
                _add(rng, room, word.rstrip("?"))
    return room


def _add(rng: Random, room: Room, word: str) -> None:
    """Add what a theme names, if there is room for it."""
    if word == "chairs at dining table":
        for _ in range(int(rng.integers(2, 5))):
            _try(room, _beside(rng, room, "chair", "dining table"))
    elif " at " in word:
        name, host = word.split(" at ")
        _try(room, _beside(rng, room, name, host))
    elif " on " in word:
        name, host = word.split(" on ")
        _try(room, _on_top(rng, room, name, host))
    elif word == "hanging lamp":
        _try(room, _hanging(rng, room))
    elif word == "dining table":
        _try(room, (_free(rng, room, word) for _ in range(_TRIES)))
    else:
        _try(room, (_along_wall(rng, room, word) for _ in range(_TRIES)))


def _try(room: Room, pieces: Iterable[Piece]) -> None:
    """Add the first that fits."""
    fitting = next((piece for piece in pieces if _fits(room, piece)), None)
    if fitting is not None:
        room.pieces.append(fitting)


def _fits(room: Room, piece: Piece) -> bool:
    least, most = piece.low - _GAP, piece.high + _GAP
    if (piece.low[:2] < 0).any() or (piece.high > np.array(room.shell.size)).any():
        return False
    boxes = [(other.low, other.high) for other in room.pieces] + room.shell.kept_free
    return not any((least < high).all() and (most > low).all() for low, high in boxes)


def _along_wall(rng: Random, room: Room, name: str) -> Piece:
    """A piece with its back to a wall; pictures hang."""
    wall = int(rng.integers(4))
    turn = wall * _TURN
    inward = np.array([-np.sin(turn), np.cos(turn)])  # wall 0 is y = 0, then x = size, y = size, x = 0
    solids = BUILDERS[name](rng)
    half = max(float(np.abs(corners(solid)[:, 0]).max()) for solid in solids)
    length = room.shell.size[wall % 2]
    along = rng.uniform(half + _GAP, max(length - half - _GAP, half + _GAP))
    starts = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))  # corners, each the right end of its wall
    corner = np.array(starts[wall]) * np.array(room.shell.size[:2])
    way = np.array([np.cos(turn), np.sin(turn)])
    level = rng.uniform(1.15, 1.5) if name == "picture" else 0.0
    spot = corner + along * way + _GAP * inward
    if name == "office chair":
        turn += rng.uniform(-0.5, 0.5)
        spot = spot + rng.uniform(0.15, 0.4) * inward
    return _placed(name, solids, spot, level, turn)


def _free(rng: Random, room: Room, name: str) -> Piece:
    """A piece in the middle of the room."""
    middle = np.array(room.shell.size[:2]) / 2 + rng.normal(0, 0.35, 2)
    turn = float(rng.integers(4)) * _TURN
    solids = BUILDERS[name](rng)
    depth = max(float(corners(solid)[:, 1].max()) for solid in solids)
    return _placed(name, solids, middle - depth / 2 * np.array([-np.sin(turn), np.cos(turn)]), 0.0, turn)


def _beside(rng: Random, room: Room, name: str, host: str) -> Iterator[Piece]:
    """Something before a desk or sofa, or at a side of a table, turned towards it."""
    for piece in [piece for piece in room.pieces if piece.name == host][-1:] * _TRIES:
        middle, reach = (piece.low + piece.high)[:2] / 2, (piece.high - piece.low)[:2] / 2
        way = piece.facing
        if host == "dining table":
            turn = float(rng.integers(4)) * _TURN
            way = np.array([-np.sin(turn), np.cos(turn)])
        gap = rng.uniform(0.3, 0.45) if name == "coffee table" else rng.uniform(0.04, 0.2)
        side = np.array([way[1], -way[0]])
        spot = (
            middle + way * (_extent(reach, way) + gap) + side * _extent(reach, side) * rng.uniform(-0.6, 0.6)
        )
        turn = _turn_to(way)
        solids = BUILDERS[name](rng)
        if name != "coffee table":  # the front of a chair is at the host, the back of a coffee table
            spot = spot + way * (max(float(corners(solid)[:, 1].max()) for solid in solids) + 0.03)
            turn += np.pi + rng.uniform(-0.2, 0.2)
        yield _placed(name, solids, spot, 0.0, turn)


def _on_top(rng: Random, room: Room, name: str, host: str) -> Iterator[Piece]:
    """Something on the flat top of a piece."""
    for piece in [piece for piece in room.pieces if piece.name == host][-1:] * _TRIES:
        middle, reach = (piece.low + piece.high)[:2] / 2, (piece.high - piece.low)[:2] / 2
        solids = BUILDERS[name](rng)
        side = np.array([piece.facing[1], -piece.facing[0]])
        free = max(
            _extent(reach, side) - max(float(np.abs(corners(solid)[:, 0]).max()) for solid in solids), 0
        )
        spot = middle + (0.05 - _extent(reach, piece.facing)) * piece.facing + side * rng.uniform(-free, free)
        found = _placed(name, solids, spot, float(piece.high[2]) + _GAP + 1e-6, _turn_to(piece.facing))
        if (found.low[:2] > piece.low[:2] - 0.02).all() and (found.high[:2] < piece.high[:2] + 0.02).all():
            yield found


def _hanging(rng: Random, room: Room) -> Iterator[Piece]:
    """A lamp over the dining table, or in the middle of the room."""
    size = np.array(room.shell.size)
    tables = [piece for piece in room.pieces if piece.name == "dining table"]
    middle = (tables[-1].low + tables[-1].high)[:2] / 2 if tables else size[:2] / 2
    for _ in range(_TRIES):
        solids, spot = BUILDERS["hanging lamp"](rng), middle + rng.normal(0, 0.1, 2)
        yield _placed("hanging lamp", solids, spot, float(size[2]) - 1, 0.0)


def _extent(reach: Vector, way: Vector) -> float:
    """Half of a box's extent along one of its axes."""
    return float(np.abs(way) @ reach)


def _turn_to(way: Vector) -> float:
    """Turn of a piece that faces that way."""
    return float(np.arctan2(-way[0], way[1]))


def _placed(name: str, solids: Sequence[Solid], spot: Vector, level: float, turn: float) -> Piece:
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    moved = tuple(solid.moved(rotation, np.array([*spot, level])) for solid in solids)
    points = np.concatenate([corners(solid) for solid in moved])
    return Piece(name, LABELS[name], moved, points.min(0), points.max(0), np.array([-sine, cosine]))
