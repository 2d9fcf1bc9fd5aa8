"""Geometry on the public samples: depth meets labels, and frusta meet the stored masks.

Source of the samples: "Panoptic 3D Scene Reconstruction from a Single RGB Image" (Dahnert et al. 2021), one
image of 3D-Front and one of Matterport3D, read here without our readers.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from view_cases import MATTERPORT_CAMERA, view_of_side

from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA
from skillbank_models.nvpanoptix3d.frustum import frustum_mask, kept_voxels
from skillbank_models.nvpanoptix3d.planes import plane_target
from skillbank_models.nvpanoptix3d.projection import band_of
from skillbank_models.nvpanoptix3d.views import backproject, camera_from_matrix, view_of

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
FRONT3D, MATTERPORT = DATA / "front3d_sample", DATA / "matterport_sample"
NAME = "4e8783c34d27454e95c4bedd4f62154f"
SIDES = (256, 128, 64)

front3d = pytest.mark.skipif(not FRONT3D.is_dir(), reason="the 3D-Front sample is not here")
matterport = pytest.mark.skipif(not MATTERPORT.is_dir(), reason="the Matterport3D sample is not here")


@cache
def stored(path, key="data"):
    with np.load(path) as file:
        return file[key]


@cache
def front3d_volumes():
    """Distance (256, 256, 256), classes (256, 256, 256) and mask, x right, y down, z forward."""
    folder = FRONT3D / "data" / "sample"
    distance = stored(folder / "geometry_0007.npz")[::-1, ::-1].astype(np.float32)
    classes = stored(folder / "segmentation_0007.mapped.npz")[0, ::-1, ::-1].astype(np.int16)
    return distance, classes, stored(FRONT3D / "meta" / "frustum_mask.npz", "mask")[::-1, ::-1]


@cache
def front3d_depth():
    """(240, 320) metres."""
    openexr = pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    with openexr.File(str(FRONT3D / "data" / "sample" / "depth_0007.exr")) as file:
        return torch.from_numpy(np.array(file.channels()["Z"].pixels))


def blocks(volume, side):
    """(side, r, side, r, side, r), the stored voxels of each voxel of a grid."""
    factor = 256 // side
    return volume.reshape(side, factor, side, factor, side, factor)


def voxels_of_pixels(view):
    """(N, 3) voxels and (N,) pixel numbers of the depth map."""
    depth = front3d_depth()
    valid = ((depth >= 0.4) & (depth <= 6.0)).view(-1)
    points = backproject(depth, FRONT3D_CAMERA).view(-1, 3)[valid].double()
    places = points / view.grid.voxel + torch.tensor(view.origin, dtype=torch.float64)
    return (places + 0.5).floor().long(), valid.nonzero().view(-1)


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


@front3d
def test_depth_lands_on_labels():
    distance = front3d_volumes()[0]
    voxels, _ = voxels_of_pixels(view_of_side(256))
    found = distance[tuple(voxels.T.numpy())]
    assert len(found) == 240 * 320
    assert (found < 1).mean() >= 0.99  # 0.995
    assert found.mean() < 0.5  # 0.352


@front3d
def test_published_rule_lands_beside_them():
    distance = front3d_volumes()[0]
    voxels, _ = voxels_of_pixels(view_of_side(256, "published"))
    found = distance[tuple(voxels.T.numpy())]
    assert (found < 1).mean() < 0.7
    assert found.mean() > 1.0


@front3d
def test_without_the_extra_quarter_voxel_fewer_labels_are_met():
    view = view_of(FRONT3D_CAMERA, view_of_side(256).grid, shifted=False, rule="measured")
    voxels, _ = voxels_of_pixels(view)
    assert (front3d_volumes()[0][tuple(voxels.T.numpy())] < 1).mean() < 0.98


@front3d
def test_classes_of_image_and_volume_agree():
    classes = front3d_volumes()[1]
    image = (
        stored(FRONT3D / "data" / "sample" / "segmap_0007.mapped.npz")[..., 0].reshape(-1).astype(np.int16)
    )
    voxels, pixels = voxels_of_pixels(view_of_side(256))
    labels, here = image[pixels.numpy()], classes[tuple(voxels.T.numpy())]
    both = (labels > 0) & (here > 0)
    assert both.mean() > 0.9
    assert (labels == here)[both].mean() > 0.98


@front3d
@pytest.mark.parametrize("side", SIDES)
def test_reduced_grids(side):
    distance, _, mask = front3d_volumes()
    view = view_of_side(side)
    voxels, _ = voxels_of_pixels(view)
    place = tuple(voxels.T.numpy())
    nearest = blocks(distance, side).min((1, 3, 5))
    assert (nearest[place] < 1).mean() >= 0.99  # some stored voxel of it is labelled: 0.995, 1.000, 1.000
    mean = blocks(distance, side).mean((1, 3, 5)) / (256 // side)
    assert mean[place].mean() < 0.5  # 0.352, 0.391, 0.423 voxels of the grid
    majority = blocks(mask, side).mean((1, 3, 5)) >= 0.5
    # 0.996, 0.992, 0.993; the surface of the frustum is a larger share of a coarse grid
    assert overlap(frustum_mask(view, "cpu").numpy(), majority) >= (0.995 if side == 256 else 0.99)


@front3d
@pytest.mark.parametrize(
    ("rule", "low", "high"), [("published", 2.61e6, 2.64e6), ("measured", 2.64e6, 2.66e6)]
)
def test_kept_voxels_within_the_stored_mask(rule, low, high):
    distance, _, mask = front3d_volumes()
    kept = kept_voxels(view_of_side(256, rule), (120, 160), "cpu")
    flat = torch.from_numpy(mask.copy()).view(-1)
    assert low < flat[kept.keys.long()].sum() < high
    if rule == "measured":
        labelled = torch.from_numpy(distance < 1).view(-1)
        missed = int(labelled.sum() - labelled[kept.keys.long()].sum())
        assert missed < 0.002 * labelled.sum()  # 75 of 65740, at the edge of the image


@front3d
def test_band_covers_the_labels_it_should():
    distance = torch.from_numpy(front3d_volumes()[0])
    depth = torch.nn.functional.interpolate(front3d_depth()[None, None], size=(120, 160), mode="bilinear")[0]
    found = band_of(depth, views=[view_of_side(256)], band=3)
    true = distance[found.sites.coords[:, 1:].long().unbind(1)]
    near = found.distance.abs() < 0.5
    assert (true[near] < 1).float().mean() > 0.95  # at the edges of objects the mean of two depths is nowhere
    # within the band the true distance cannot be larger than that along z, but for the rounding of places
    assert (true <= found.distance.abs() + 1.0).float().mean() > 0.95


@front3d
@pytest.mark.parametrize(("side", "least"), [(256, 0.999), (64, 0.99)])
def test_visible_surface_is_in_the_plane_target(side, least):
    distance, _, mask = front3d_volumes()
    plane = (120, 160)
    inside = torch.from_numpy(blocks(mask, side).mean((1, 3, 5)) >= 0.5)
    occupied = torch.from_numpy(blocks(distance, side).mean((1, 3, 5)) < 3 * (256 // side))
    depth_bin = (front3d_depth()[::2, ::2] / 6 * 100).long()[None]
    before = depth_bin > torch.arange(100)[:, None, None] + 4
    visible, free = {}, {}
    for rule in ("measured", "published"):
        kept = kept_voxels(view_of_side(side, rule), plane, "cpu")
        target = plane_target(occupied, kept, inside=inside, bins=100, far=6.0, plane=plane)
        visible[rule] = target.gather(0, depth_bin)[0].float().mean()
        free[rule] = target[before].float().mean()
    assert visible["measured"] >= least  # 1.000 and 0.998
    assert visible["published"] < visible["measured"]  # 0.984 and, with holes, 0.257
    if side == 256:
        assert free["measured"] < free["published"]  # floor seen at a flat angle: 0.070 and 0.087


@matterport
def test_matterport_mask_voxel_for_voxel():
    matrix = np.load(MATTERPORT / f"{NAME}_intrinsics_1.npy", allow_pickle=False)
    camera = camera_from_matrix(matrix, 320, 240)
    assert camera.fx == pytest.approx(MATTERPORT_CAMERA.fx)
    view = view_of(camera, view_of_side(256).grid, shifted=False, rule="measured")
    inside = ~stored(MATTERPORT / f"{NAME}_geometry1_4.npz", "mask")
    assert np.array_equal(frustum_mask(view, "cpu").numpy(), inside)


@matterport
@pytest.mark.parametrize("side", [128, 64])
def test_matterport_mask_reduced(side):
    inside = ~stored(MATTERPORT / f"{NAME}_geometry1_4.npz", "mask")
    view = view_of(MATTERPORT_CAMERA, view_of_side(side).grid, shifted=False, rule="measured")
    majority = blocks(inside, side).mean((1, 3, 5)) >= 0.5
    assert overlap(frustum_mask(view, "cpu").numpy(), majority) >= 0.99
