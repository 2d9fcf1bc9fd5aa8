from dataclasses import replace

import numpy as np
import pytest
import torch
from view_cases import MATTERPORT_CAMERA, grid_of_side, view_of_side

from skillbank.errors import DataError
from skillbank_models.nvpanoptix3d import frustum
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Camera, Grid
from skillbank_models.nvpanoptix3d.frustum import check_camera, frustum_mask, kept_voxels
from skillbank_models.nvpanoptix3d.views import lattice_origin

PLANE = (30, 40)


def centres(side, origin, voxel):
    """(G, G, G, 3) metres."""
    index = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1)
    return (index - np.array(origin)) * voxel


def seen(points, camera):
    """Column, row and depth of points, nan behind the camera."""
    depth = np.where(points[..., 2] > 0, points[..., 2], np.nan)
    column = points[..., 0] / depth * camera.fx + camera.cx
    return column, points[..., 1] / depth * camera.fy + camera.cy, depth


@pytest.mark.parametrize("camera", [FRONT3D_CAMERA, MATTERPORT_CAMERA])
def test_mask_of_every_voxel(camera):
    view = view_of_side(64, camera=camera)
    u, v, z = seen(centres(64, lattice_origin(view), 0.12), camera)
    inside = (u >= 0) & (u <= 320) & (v >= 0) & (v <= 240) & (z >= 0.4) & (z <= 6.0)
    assert np.array_equal(frustum_mask(view, "cpu").numpy(), inside)


def test_published_mask_has_the_published_count():
    assert frustum_mask(view_of_side(256, "published"), "cpu").sum() == 2672341


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_mask_of_a_mirrored_view(direction):
    view = view_of_side(128)
    mirrored = frustum_mask(view.mirrored(direction), "cpu").flip(0 if direction == "horizontal" else 1)
    mask = frustum_mask(view, "cpu")
    # the image spans 0..width from the first pixel's centre, so a mirrored one lies a pixel aside
    assert (mask & mirrored).sum() / (mask | mirrored).sum() > 0.985


def test_kept_voxels_and_their_pixels():
    view = view_of_side(64)
    u, v, z = seen(centres(64, view.origin, 0.12), FRONT3D_CAMERA.scaled(40, 30))
    column, row = np.floor(u + 0.5), np.floor(v + 0.5)
    inside = (column >= 0) & (column < 40) & (row >= 0) & (row < 30) & (z >= 0.4) & (z <= 6)
    kept = kept_voxels(view, PLANE, "cpu")
    assert np.array_equal(kept.coords.numpy(), np.argwhere(inside))
    assert np.array_equal(kept.columns.numpy(), column[inside])
    assert np.array_equal(kept.rows.numpy(), row[inside])
    np.testing.assert_allclose(kept.depth.numpy(), z[inside], rtol=1e-6)


def test_kept_voxels_as_published():
    view = view_of_side(256, "published")
    half = FRONT3D_CAMERA.scaled(160, 120)
    # box of the half-size camera, halves of a voxel kept, and one voxel further
    origin = (79.5 / half.fx * 200 + 12.5 + 1, 59.5 / half.fy * 200 + 41 + 1, 34.5 + 1 - 0.4 / 0.03)
    index = np.random.default_rng(0).integers(0, 256, (200000, 3))
    u, v, z = seen((index - np.array(origin)) * 0.03, half)
    inside = (u >= 0) & (u < 160) & (v >= 0) & (v < 120) & (z >= 0.4) & (z <= 6)
    kept = kept_voxels(view, (120, 160), "cpu")
    row_of = torch.full((256**3,), -1)
    row_of[kept.keys.long()] = torch.arange(len(kept.keys))
    found = row_of.view(256, 256, 256)[tuple(index.T)].numpy()
    assert np.array_equal(found >= 0, inside)
    assert inside.sum() > 10000
    pixels = v[inside].astype(int) * 160 + u[inside].astype(int)
    assert np.array_equal(kept.pixels.numpy()[found[inside]], pixels)


def test_full_size_is_small():
    kept = kept_voxels(view_of_side(256), (120, 160), "cpu")
    assert 2.6e6 < len(kept.keys) < 2.7e6
    size = sum(part.numel() * part.element_size() for part in (kept.keys, kept.pixels, kept.depth))
    assert size < 34e6
    assert kept.coords.dtype == kept.rows.dtype == kept.columns.dtype == torch.int16
    assert (kept.keys[1:] > kept.keys[:-1]).all()


def test_bins_reach_the_end():
    kept = kept_voxels(view_of_side(64), PLANE, "cpu")
    found = kept.bins(25, 6.0)
    assert found.dtype == torch.int16
    assert np.array_equal(found.numpy(), np.minimum((kept.depth.double().numpy() * 25 / 6).astype(int), 24))
    assert kept.bins(10, 3.0).max() == 9


def test_computed_once_and_forgotten_in_the_end():
    view = view_of_side(64)
    assert kept_voxels(view, PLANE, "cpu") is kept_voxels(view_of_side(64), PLANE, torch.device("cpu"))
    assert frustum_mask(view, "cpu") is frustum_mask(view, "cpu")
    first = frustum_mask(view, "cpu")
    for width in range(300, 310):
        frustum_mask(replace(view, camera=replace(view.camera, width=width)), "cpu")
    assert frustum._mask.cache_info().currsize == frustum._mask.cache_info().maxsize <= 4
    assert frustum_mask(view, "cpu") is not first


def test_what_is_kept_in_inference_serves_training():
    view = replace(view_of_side(64), origin=(31.0, 31.0, 5.0))
    with torch.inference_mode():
        kept, mask = kept_voxels(view, PLANE, "cpu"), frustum_mask(view, "cpu")
    for tensor in (kept.keys, kept.pixels, kept.depth, mask):
        assert not tensor.is_inference()
    scores = torch.rand(PLANE[0] * PLANE[1], requires_grad=True)
    scores.index_select(0, kept.pixels).sum().backward()
    assert scores.grad.sum() == len(kept.pixels)


@pytest.mark.parametrize("side", [256, 64])
def test_cameras_that_fit(side):
    check_camera(FRONT3D_CAMERA, grid_of_side(side))
    check_camera(MATTERPORT_CAMERA, grid_of_side(side))


@pytest.mark.parametrize("side", [256, 64])
def test_wide_camera(side):
    wide = Camera(200.0, 277.0, 159.5, 119.5, 320, 240)
    with pytest.raises(DataError, match=r"320 x 174 x 187 voxels of 0\.03 m") as caught:
        check_camera(wide, grid_of_side(side))
    message, hint = caught.value.message, caught.value.hint
    assert "fx 200" in message
    assert "256 along each axis" in message
    assert "a width of 256 px" in hint
    assert "height" not in hint
    wanted = float(hint.split("voxel_size=")[1].split(",")[0])
    check_camera(wide, Grid(side, wanted * 256 / side, 0.4, 6.0))  # the hint works
    check_camera(replace(wide, width=256, cx=127.5), grid_of_side(side))


def test_deep_grid():
    with pytest.raises(DataError, match="12 m it sees 160 x 120 x 387 voxels") as caught:
        check_camera(Camera(800.0, 800.0, 159.5, 119.5, 320, 240), Grid(256, 0.03, 0.4, 12.0))
    assert "dataset.depth_max=8.08" in caught.value.hint
    assert "width" not in caught.value.hint
