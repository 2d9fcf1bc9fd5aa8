import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from view_cases import view_of_side

from skillbank_models.nvpanoptix3d.frustum import frustum_mask, kept_voxels
from skillbank_models.nvpanoptix3d.planes import plane_target
from skillbank_models.nvpanoptix3d.views import to_metres

PLANE, BINS, FAR = (30, 40), 25, 6.0


def literal(occupied, view, inside, kept):
    """Voxel by voxel, and for the rule "measured" cell by cell."""
    target = np.zeros((BINS, *PLANE), bool)
    rows = zip(
        kept.coords.tolist(), kept.rows.tolist(), kept.columns.tolist(), kept.depth.tolist(), strict=True
    )
    for (x, y, z), v, u, depth in rows:
        if occupied[x, y, z] and inside[x, y, z]:
            target[min(int(depth * BINS / FAR), BINS - 1), v, u] = True
    if view.rule == "measured":
        camera = view.camera.scaled(PLANE[1], PLANE[0])
        for b, v, u in np.ndindex(*target.shape):
            depth = (b + 0.5) * FAR / BINS
            point = ((u - camera.cx) / camera.fx * depth, (v - camera.cy) / camera.fy * depth, depth)
            voxel = tuple(
                int(np.floor(p / view.grid.voxel + o + 0.5)) for p, o in zip(point, view.origin, strict=True)
            )
            if depth >= view.grid.near and occupied[voxel] and inside[voxel]:
                target[b, v, u] = True
    return binary_dilation(target, np.ones((3, 3, 3)))


@pytest.mark.parametrize("rule", ["measured", "published"])
def test_every_voxel_marks_its_bin(rule):
    view = view_of_side(64, rule)
    kept, inside = kept_voxels(view, PLANE, "cpu"), frustum_mask(view, "cpu")
    occupied = torch.rand(64, 64, 64, generator=torch.Generator().manual_seed(1)) < 0.003
    found = plane_target(occupied, kept, inside=inside, bins=BINS, far=FAR, plane=PLANE)
    wanted = literal(occupied.numpy(), view, inside.numpy(), kept)
    assert wanted.any()
    assert np.array_equal(found.numpy(), wanted)


def test_a_wall_near_the_camera_has_no_holes():
    view = view_of_side(64)
    plane = (120, 160)
    kept, inside = kept_voxels(view, plane, "cpu"), frustum_mask(view, "cpu")
    places = torch.stack(torch.meshgrid(*[torch.arange(64.0)] * 3, indexing="ij"), -1)
    depth = to_metres(places.view(-1, 3), view)[:, 2].view(64, 64, 64)
    occupied = (depth - 1.0).abs() < 0.13  # a wall at 1 m, where a voxel covers 17 pixels
    found = plane_target(occupied, kept, inside=inside, bins=100, far=FAR, plane=plane)
    assert found[16, 9:-9, 9:-9].all()  # at the border a voxel may be more outside than inside
    published = view_of_side(64, "published")
    holes = plane_target(
        occupied, kept_voxels(published, plane, "cpu"), inside=inside, bins=100, far=FAR, plane=plane
    )
    assert holes[14:19].any(0)[9:-9, 9:-9].float().mean() < 0.5


def test_nothing_occupied():
    view = view_of_side(64)
    kept, inside = kept_voxels(view, PLANE, "cpu"), frustum_mask(view, "cpu")
    nothing = torch.zeros_like(inside)
    assert not plane_target(nothing, kept, inside=inside, bins=BINS, far=FAR, plane=PLANE).any()
    assert not plane_target(inside, kept, inside=nothing, bins=BINS, far=FAR, plane=PLANE).any()
    everything = plane_target(inside, kept, inside=inside, bins=BINS, far=FAR, plane=PLANE)
    assert everything[2:, 1:-1, 1:-1].all()
