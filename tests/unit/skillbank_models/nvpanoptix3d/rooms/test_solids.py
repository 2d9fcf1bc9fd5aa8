"""Rays and distances, against formulas in float64 that share nothing with the code."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skillbank_models.nvpanoptix3d.rooms.paints import Paint, paint
from skillbank_models.nvpanoptix3d.rooms.solids import (
    Solid,
    ball,
    box,
    corners,
    cylinder,
    entry,
    leaving,
    local,
    normals,
    signed_distance,
)

PAINT: Paint = paint(np.random.default_rng(0), "plain", (0.5, 0.5, 0.5))
SOLIDS = {
    "box": box((-0.4, -0.2, 0.1), (0.6, 0.5, 0.9), PAINT),
    "cylinder": cylinder(0.3, -0.1, 0.35, 0.2, 1.0, PAINT),
    "ball": ball(0.2, 0.1, 0.4, 0.5, PAINT),
}


def turned(solid: Solid) -> Solid:
    """The solid in a frame that is turned about all axes."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    return solid.moved(rotation * np.linalg.det(rotation), np.array([0.3, -0.2, 2.0]))


def surface(solid: Solid, count: int = 40) -> NDArray[np.float64]:
    """Points all over the surface, about 2 cm apart, (n, 3)."""
    line = np.linspace(-1, 1, count)
    one, other = (grid.ravel() for grid in np.meshgrid(line, line))
    if solid.shape == "box":
        ones = np.ones_like(one)
        sides = [
            np.stack(part, 1)
            for way in (ones, -ones)
            for part in ((way, one, other), (one, way, other), (one, other, way))
        ]
        own = np.concatenate(sides)
    elif solid.shape == "cylinder":
        turn = np.pi * one
        caps = [
            np.stack(
                [
                    np.sqrt((other + 1) / 2) * np.cos(turn),
                    np.sqrt((other + 1) / 2) * np.sin(turn),
                    np.full_like(one, way),
                ],
                1,
            )
            for way in (1, -1)
        ]
        own = np.concatenate([np.stack([np.cos(turn), np.sin(turn), other], 1), *caps])
    else:
        turn, height = np.pi * one, other
        around = np.sqrt(1 - height**2)
        own = np.stack([around * np.cos(turn), around * np.sin(turn), height], 1)
    found: NDArray[np.float64] = own * solid.half @ solid.axes.T + solid.center
    return found


@pytest.mark.parametrize("shape", SOLIDS)
def test_distance_is_that_to_the_nearest_point_of_the_surface(shape: str) -> None:
    solid = turned(SOLIDS[shape])
    points = np.random.default_rng(2).uniform(-1, 1, (400, 3)) + solid.center
    found = signed_distance(solid, *points.T.astype(np.float32))
    shell = surface(solid)
    nearest = np.min(np.linalg.norm(points[:, None] - shell, axis=2), axis=1)
    # the points of the surface are up to 5 cm apart, so the nearest is a little farther than the surface
    assert (np.abs(found) <= nearest + 1e-5).all()
    assert (np.abs(found) >= nearest - 0.06).all()
    assert np.abs(nearest - np.abs(found)).mean() < 0.005
    assert np.abs(signed_distance(solid, *shell.T.astype(np.float32))).max() < 1e-5
    assert signed_distance(solid, *solid.center.astype(np.float32)[:, None])[0] < -0.1
    assert (found > 0).any()
    assert (found < 0).any()


@pytest.mark.parametrize("shape", SOLIDS)
def test_rays_end_on_the_surface_and_nothing_is_before(shape: str) -> None:
    solid = turned(SOLIDS[shape])
    rays = np.random.default_rng(3).uniform(-0.5, 0.5, (3, 600)).astype(np.float32)
    rays[2] = 1
    found = entry(solid, np.zeros(3), rays)
    hit = np.isfinite(found)
    assert 50 < hit.sum() < 600
    ends = rays[:, hit] * found[hit]
    assert np.abs(signed_distance(solid, *ends)).max() < 1e-5
    steps = np.linspace(0.01, 0.999, 60)[:, None]
    before = [signed_distance(solid, *(axis * steps * found[hit] for axis in rays[:, hit]))]
    assert np.min(before) > 0
    along = np.linspace(0, 6, 500)[:, None]
    missed = signed_distance(solid, *(axis * along for axis in rays[:, ~hit]))
    assert missed.min() > 0
    facing = solid.axes.astype(np.float32) @ normals(solid, local(solid, ends))
    assert np.allclose(np.linalg.norm(facing, axis=0), 1, atol=1e-4)
    assert ((facing * rays[:, hit]).sum(0) < 1e-3).all()  # turned towards where the ray came from
    assert np.isinf(entry(solid, solid.center, rays)).all()


def test_a_room_is_left_through_the_face_in_the_way() -> None:
    room = box((0, 0, 0), (4, 3, 2.5), PAINT)
    ways = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], np.float32).T
    out, face = leaving(room, np.array([1.0, 1.0, 1.0]), ways)
    assert np.allclose(out, [1, 3, 1, 2, 1, 1.5])
    assert face.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_scaled_solid_is_as_far_in_voxels() -> None:
    solid = turned(SOLIDS["cylinder"])
    points = np.random.default_rng(4).uniform(-1, 3, (3, 200)).astype(np.float32)
    shift = np.array([128.0, 120.0, 20.0])
    voxels = solid.scaled(1 / 0.03, shift)
    places = (points / 0.03 + shift[:, None]).astype(np.float32)
    assert np.allclose(signed_distance(voxels, *places), signed_distance(solid, *points) / 0.03, atol=1e-3)
    assert np.allclose(corners(voxels), corners(solid) / 0.03 + shift)
