from dataclasses import replace

import numpy as np
import pytest
import torch
from view_cases import MATTERPORT_CAMERA, grid_of_side, view_of_side

from skillbank.errors import DataError, ShapeError
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA
from skillbank_models.nvpanoptix3d.views import backproject, camera_from_matrix, coarser, to_metres, view_of


def points(count=4000):
    """(N, 3) metres in front of the camera, float64."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 5.9, count)
    return np.stack([rng.uniform(-0.5, 0.5, count) * depth, rng.uniform(-0.4, 0.4, count) * depth, depth], 1)


def voxels(view):
    return np.floor(points() / view.grid.voxel + view.origin + 0.5).astype(int)


def test_origin_of_3d_front():
    # box: -159.5 / 277.128 * 6 m / 0.03 m and 231 voxels in x, so 12 before; and so on
    x = 159.5 / 277.1281435 * 200 + 12
    y = 119.5 / 277.1281435 * 200 + 41
    measured, published = view_of_side(256), view_of_side(256, "published")
    assert measured.origin == pytest.approx((x, y + 0.75, 34 + 1 - 0.4 / 0.03 + 0.25), abs=1e-9)
    assert published.origin == pytest.approx((x - 0.5, y - 0.5, 34 - 0.4 / 0.03 - 0.5), abs=1e-9)


def test_origin_of_matterport_has_no_shift():
    view = view_of(MATTERPORT_CAMERA, grid_of_side(256), shifted=False, rule="measured")
    # the note's fit to the stored mask is (127.25, 132.0, 21.7)
    assert view.origin == pytest.approx((127.25, 132.0, 21.7), abs=0.11)


@pytest.mark.parametrize("rule", ["measured", "published"])
@pytest.mark.parametrize("side", [128, 64])
def test_coarse_grids_join_whole_voxels(side, rule):
    fine, coarse = view_of_side(256, rule), view_of_side(side, rule)
    assert np.array_equal(voxels(fine) // (256 // side), voxels(coarse))


def test_coarser_joins_whole_voxels():
    for stride in (2, 4, 8):
        assert np.array_equal(voxels(view_of_side(256)) // stride, voxels(coarser(view_of_side(256), stride)))
    assert coarser(view_of_side(128), 2) == view_of_side(64)


def test_published_coarse_box_has_its_own_margin():
    view = coarser(view_of_side(256, "published"), 2)
    # 116 x 87 x 94 voxels of 6 cm in 128: margins 6, 20 and 17
    wanted = (159.5 / 277.1281435 * 100 + 6, 119.5 / 277.1281435 * 100 + 20, 17 - 0.4 / 0.06)
    assert view.origin == pytest.approx([place - 0.5 for place in wanted], abs=1e-9)
    assert (view.grid.side, view.grid.voxel) == (128, 0.06)


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 0), ("vertical", 1)])
def test_mirrored_room(direction, axis):
    view = view_of_side(64)
    mirrored = view.mirrored(direction)
    there = points() * np.where(np.arange(3) == axis, -1, 1)
    got = np.floor(there / view.grid.voxel + mirrored.origin + 0.5).astype(int)
    wanted = voxels(view)
    wanted[:, axis] = 63 - wanted[:, axis]
    assert np.array_equal(got, wanted)
    assert mirrored.mirrored(direction).origin == pytest.approx(view.origin)


def test_metres_of_voxels():
    view = view_of_side(256)
    places = torch.tensor([view.origin, (0.0, 1.0, 2.0)], dtype=torch.float64)
    metres = to_metres(places, view)
    assert metres[0].abs().max() < 1e-12
    torch.testing.assert_close(metres / 0.03 + torch.tensor(view.origin, dtype=torch.float64), places)


@pytest.mark.parametrize("factor", [1, 2])
def test_backproject_and_back(factor):
    height, width = 240 // factor, 320 // factor
    depth = torch.rand(height, width) * 5 + 0.4
    found = backproject(depth, FRONT3D_CAMERA)
    assert torch.equal(found[..., 2], depth)
    camera = FRONT3D_CAMERA.scaled(width, height)
    columns = found[..., 0] / depth * camera.fx + camera.cx
    rows = found[..., 1] / depth * camera.fy + camera.cy
    torch.testing.assert_close(columns, torch.arange(width).float().expand(height, -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        rows, torch.arange(height).float()[:, None].expand(-1, width), atol=1e-3, rtol=0
    )
    assert torch.equal(backproject(torch.zeros(2, 3), FRONT3D_CAMERA), torch.zeros(2, 3, 3))


def test_a_single_pixel_seen_large_again():
    """Of a side of one pixel only the ends are known; the middle stays in the middle."""
    small = FRONT3D_CAMERA.scaled(1, 1)
    large = small.scaled(160, 120)
    assert (large.fx, large.fy) == pytest.approx((FRONT3D_CAMERA.fx / 2, FRONT3D_CAMERA.fy / 2))
    assert (large.cx, large.cy) == (79.5, 59.5)


def test_camera_from_any_matrix():
    three = FRONT3D_CAMERA.matrix()
    four = np.eye(4)
    four[:3, :3] = three
    for matrix in (three, three * 2, four, four.ravel(), three.tolist()):
        assert camera_from_matrix(matrix, 320, 240) == FRONT3D_CAMERA


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 0), -3.0, "fx is -3"),
        ((1, 1), 0.0, "fy is 0"),
        ((0, 1), 2.0, "skew 2"),
        ((0, 2), np.nan, "not all numbers are finite"),
        ((2, 2), 0.0, r"last row is \[0.0, 0.0, 0.0\]"),
    ],
)
def test_no_camera(place, value, message):
    matrix = FRONT3D_CAMERA.matrix()
    matrix[place] = value
    with pytest.raises(DataError, match=message) as caught:
        camera_from_matrix(matrix, 320, 240)
    assert "pixels" in caught.value.hint


def test_no_matrix():
    with pytest.raises(ShapeError, match=r"\(3, 2\)"):
        camera_from_matrix(np.zeros((3, 2)), 320, 240)


def test_views_are_keys():
    view = view_of_side(64)
    assert {view: 1}[view_of_side(64)] == 1
    assert replace(view, rule="published") != view
