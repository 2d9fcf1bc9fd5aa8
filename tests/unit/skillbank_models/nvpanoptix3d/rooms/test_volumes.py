"""Distances and owners in the grid, against formulas in float64 for single voxels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, STORED_SIDE
from skillbank_models.nvpanoptix3d.rooms.annotated import STORED_GRID, AnnotatedView, annotate, first_face_id
from skillbank_models.nvpanoptix3d.rooms.layout import Room, furnished_room
from skillbank_models.nvpanoptix3d.rooms.solids import Solid
from skillbank_models.nvpanoptix3d.views import view_of

VOXEL = 0.03


@pytest.fixture(scope="module")
def case() -> tuple[Room, AnnotatedView]:
    room = furnished_room(np.random.default_rng([7, 1]))
    view = view_of(FRONT3D_CAMERA.scaled(160, 120), STORED_GRID, shifted=True, rule="measured")
    return room, annotate(np.random.default_rng(8), room, view)


def to_surface(solid: Solid, point: NDArray[np.float64]) -> float:
    """Distance of a point to the surface of a solid, metres."""
    own = np.abs(solid.axes.T @ (point - solid.center))
    if solid.shape == "ball":
        return float(abs(np.linalg.norm(own) - solid.half[0]))
    if solid.shape == "cylinder":
        own, half = np.array([np.hypot(own[0], own[1]), own[2]]), solid.half[1:]
    else:
        half = solid.half
    if (own <= half).all():
        return float((half - own).min())
    return float(np.linalg.norm(own - np.minimum(own, half)))


def test_distances_and_owners_of_voxels(case: tuple[Room, AnnotatedView]) -> None:
    room, seen = case
    shown = set(np.unique(seen.instance).tolist())
    rng = np.random.default_rng(9)
    start = np.array([part.start for part in seen.place])
    inside = seen.inside[seen.place]
    near = np.argwhere(inside & (seen.distance < 11.9))
    far = np.argwhere(inside & (seen.distance == 12))
    first = first_face_id(room)
    size = np.array(room.shell.size)
    things = 0
    for voxel in [*near[rng.integers(len(near), size=300)], *far[rng.integers(len(far), size=60)]]:
        camera = (voxel + start - np.array(seen.view.origin)) * VOXEL
        point = seen.pose.rotation.T @ camera + seen.pose.place
        found = {
            number: min(to_surface(solid, point) for solid in piece.solids)
            for number, piece in enumerate(room.pieces, start=1)
            if number in shown
        }
        for axis in range(3):
            for side in (0, 1):
                # to the rectangle of the wall: outside of it, the edges of the room are nearest
                wall = np.clip(point, 0, size)
                wall[axis] = side * size[axis]
                found[first + 2 * axis + side] = float(np.linalg.norm(point - wall))
        nearest = min(found.values()) / VOXEL
        place = tuple(voxel)
        assert seen.distance[place] == pytest.approx(min(nearest, 12), abs=2e-3)
        if nearest < 11:
            assert found[int(seen.ids[place])] / VOXEL == pytest.approx(nearest, abs=2e-3)
            things += int(seen.classes[place] < 10)
    assert things > 30


def test_parts_of_the_grid(case: tuple[Room, AnnotatedView]) -> None:
    _, seen = case
    assert seen.inside.shape == (STORED_SIDE,) * 3
    part = np.zeros_like(seen.inside)
    part[seen.place] = True
    assert not (seen.inside & ~part).any()
    assert (seen.distance[~seen.inside[seen.place]] == 12).all()


def test_things_that_no_pixel_shows_are_not_in_the_volume(case: tuple[Room, AnnotatedView]) -> None:
    room, seen = case
    first = first_face_id(room)
    in_volume = set(np.unique(seen.ids[seen.distance < 1]).tolist())
    in_picture = set(np.unique(seen.instance).tolist())
    assert {number for number in in_volume if number < first} <= in_picture
    assert len(in_picture) >= 4


def test_hidden_voxels_are_behind_what_is_seen(case: tuple[Room, AnnotatedView]) -> None:
    _, seen = case
    view, camera = seen.view, seen.view.camera
    start = np.array([part.start for part in seen.place])
    inside = seen.inside[seen.place]
    for hidden in (True, False):
        voxels = np.argwhere(inside & (seen.is_hidden == hidden))
        assert len(voxels) > 10_000
        points = (voxels[::997] + start - np.array(view.origin)) * VOXEL
        columns = np.rint(camera.fx * points[:, 0] / points[:, 2] + camera.cx).clip(0, 159).astype(int)
        rows = np.rint(camera.fy * points[:, 1] / points[:, 2] + camera.cy).clip(0, 119).astype(int)
        assert ((points[:, 2] > seen.depth[rows, columns]) == hidden).all()


def test_pictures_are_lit_and_textured(case: tuple[Room, AnnotatedView]) -> None:
    _, seen = case
    assert seen.picture.shape == (120, 160, 3)
    assert seen.picture.dtype == np.uint8
    assert 60 < seen.picture.mean() < 215
    assert seen.picture.std() > 20
    assert len(np.unique(seen.picture.reshape(-1, 3), axis=0)) > 3000
