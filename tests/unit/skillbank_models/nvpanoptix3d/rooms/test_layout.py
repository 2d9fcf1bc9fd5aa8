"""Furniture and where it stands."""

from collections import Counter

import numpy as np
import pytest

from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA
from skillbank_models.nvpanoptix3d.rooms.furniture import BUILDERS
from skillbank_models.nvpanoptix3d.rooms.layout import LABELS, Piece, Room, furnished_room
from skillbank_models.nvpanoptix3d.rooms.paints import _PATTERNS, colors_at, paint
from skillbank_models.nvpanoptix3d.rooms.poses import take_shot
from skillbank_models.nvpanoptix3d.rooms.solids import corners


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [furnished_room(np.random.default_rng([1, number])) for number in range(25)]


def test_every_class_occurs_and_rooms_differ(rooms: list[Room]) -> None:
    found = Counter(piece.label for room in rooms for piece in room.pieces)
    assert set(found) == set(range(1, 10))
    assert min(found.values()) >= 3
    assert len({tuple(piece.name for piece in room.pieces) for room in rooms}) > 15
    assert min(len(room.pieces) for room in rooms) >= 3


def test_pieces_stand_in_the_room_and_not_in_each_other(rooms: list[Room]) -> None:
    pairs = 0
    for room in rooms:
        size = np.array(room.shell.size)
        for number, piece in enumerate(room.pieces):
            assert (piece.low > -1e-9).all()
            assert (piece.high < size + 1e-9).all()
            for other in room.pieces[:number]:
                pairs += 1
                assert (piece.low >= other.high).any() or (piece.high <= other.low).any(), (
                    piece.name,
                    other.name,
                )
    assert pairs > 300


def rests(piece: Piece, room: Room) -> bool:
    """On the floor, on a top, at a wall, or at the ceiling."""
    if piece.name == "picture":
        return bool(np.min([*piece.low[:2], *(np.array(room.shell.size[:2]) - piece.high[:2])]) < 0.03)
    if piece.name == "hanging lamp":
        return abs(piece.high[2] - room.shell.size[2]) < 0.01
    tops = [0.0, *(float(other.high[2]) for other in room.pieces if other is not piece)]
    return any(abs(piece.low[2] - top) < 0.03 for top in tops)


def test_nothing_floats(rooms: list[Room]) -> None:
    assert not [piece.name for room in rooms for piece in room.pieces if not rests(piece, room)]


@pytest.mark.parametrize("name", BUILDERS)
def test_pieces_have_the_size_of_their_kind(name: str) -> None:
    for seed in range(6):
        solids = BUILDERS[name](np.random.default_rng(seed))
        points = np.concatenate([corners(solid) for solid in solids])
        extent = points.max(0) - points.min(0)
        assert (extent > 0.02).all()
        assert extent.max() < 2.45
        assert points[:, 2].min() > -1e-9
        assert points[:, 1].min() > -0.01
        assert all((solid.half > 0).all() for solid in solids)
    assert name in LABELS


def test_patterns_give_colours() -> None:
    rng = np.random.default_rng(0)
    own = rng.uniform(-1, 1, (3, 500)).astype(np.float32)
    normal = np.zeros_like(own)
    normal[rng.integers(3, size=500), np.arange(500)] = 1
    for kind in _PATTERNS:
        found = colors_at(
            paint(rng, kind, (0.8, 0.5, 0.2), (0.1, 0.2, 0.3)), own, normal, np.ones(3, np.float32)
        )
        assert found.shape == (3, 500)
        assert np.isfinite(found).all()
        assert found.std() > 0.01


def test_a_camera_sees_things_within_the_frustum() -> None:
    camera = FRONT3D_CAMERA.scaled(80, 60)
    seen = []
    for number in range(8):
        rng = np.random.default_rng([2, number])
        shot = take_shot(rng, furnished_room(rng), camera, lambda sight: 1.0)
        assert shot.sight.depth.min() > 0.4
        assert shot.sight.depth.max() < 6.0
        seen.append(len(np.unique(shot.sight.body[shot.sight.body >= 0])))
        place = shot.pose.place
        assert (place > 0).all()
        assert (place < shot.scenery.room.shell.size).all()
    assert np.mean(seen) >= 4


def test_an_empty_room() -> None:
    room = furnished_room(np.random.default_rng(5), empty=True)
    assert room.pieces == []
    shot = take_shot(np.random.default_rng(5), room, FRONT3D_CAMERA.scaled(80, 60), lambda sight: 1.0)
    assert (shot.sight.body < 0).all()


def test_poses_whose_surfaces_leave_the_frustum_are_passed_over() -> None:
    room, camera = furnished_room(np.random.default_rng(6)), FRONT3D_CAMERA.scaled(80, 60)
    shares = iter([0.5, 0.98, 0.995, 1.0])
    shot = take_shot(np.random.default_rng(6), room, camera, lambda sight: next(shares))
    assert list(shares) == [1.0]
    other = take_shot(np.random.default_rng(6), room, camera, lambda sight: 0.5)  # none will do
    assert (other.pose.place != shot.pose.place).any()
