from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from view_cases import room, view_of_side

from skillbank_models.nvpanoptix3d.lifting import lift
from skillbank_models.nvpanoptix3d.projection import band_of, multi_scale, project, sample_plane
from skillbank_models.nvpanoptix3d.views import backproject, coarser

PLANE, PADDED, SIZE = (30, 40), (64, 96), (60, 80)  # the plane shows 60 x 80 of a 64 x 96 input


def literal(depth, view, band):
    """Voxel -> (pixel, signed distance), pixel by pixel; the nearest point wins."""
    camera = view.camera.scaled(depth.shape[1], depth.shape[0])
    if view.rule == "published":
        across, down = depth.shape[1] / view.camera.width, depth.shape[0] / view.camera.height
        camera = replace(camera, cx=view.camera.cx * across, cy=view.camera.cy * down)
    best = {}
    for v, u in np.ndindex(*depth.shape):
        z = depth[v, u]
        if not view.grid.near <= z <= view.grid.far:
            continue
        point = ((u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z)
        place = np.array([p / view.grid.voxel + o for p, o in zip(point, view.origin, strict=True)])
        cell = np.floor(place + 0.5).astype(int)
        for offset in range(-band, band + 1):
            voxel = (*cell[:2], cell[2] + offset)
            if min(voxel) < 0 or max(voxel) >= view.grid.side:
                continue
            signed = offset + cell[2] - place[2]
            if view.rule == "published":
                signed = offset + (place[2] + 0.5) % 1
            away = ((cell - place)[:2] ** 2).sum() + signed**2
            if voxel not in best or away < best[voxel][0] - 1e-6:
                best[voxel] = (away, v * depth.shape[1] + u, signed)
    return best


def inputs(batch=1):
    depth, scores = room(PLANE)
    appearance = torch.rand(batch, 4, 13, 20, generator=torch.Generator().manual_seed(0))
    return depth.expand(batch, -1, -1).clone(), appearance, scores.expand(batch, -1, -1, -1).clone()


@pytest.mark.parametrize("rule", ["measured", "published"])
@pytest.mark.parametrize("side", [64, 128])
def test_band_of_every_pixel(side, rule):
    view = view_of_side(side, rule)
    depth = inputs()[0].double().float()
    depth[0, :4] = 0.2
    depth[0, :, -1] = 7.0
    found = band_of(depth, views=[view], band=3)
    wanted = literal(depth[0].double().numpy(), view, 3)
    assert found.sites.coords[:, 1:].tolist() == [list(voxel) for voxel in sorted(wanted)]
    away, pixels, signed = (np.array(part) for part in zip(*(wanted[v] for v in sorted(wanted)), strict=True))
    np.testing.assert_allclose(found.distance.numpy(), signed, atol=2e-4)  # 64 voxels in float32
    assert (found.pixels.numpy() == pixels).mean() > 0.999  # equally near points may change places
    assert len(away) > 2000


def test_the_surface_is_where_the_distance_is_zero():
    view = view_of_side(128)
    depth = inputs()[0]
    found = band_of(depth, views=[view], band=3)
    points = backproject(depth[0], view.camera).view(-1, 3)[found.pixels]
    place = points / view.grid.voxel + torch.tensor(view.origin)
    torch.testing.assert_close(
        place[:, 2] + found.distance, found.sites.coords[:, 3].float(), atol=1e-4, rtol=0
    )
    assert found.distance.abs().max() <= 3.5


def test_features_are_those_of_the_pixel():
    view = view_of_side(64)
    depth, _, scores = inputs()
    # maps that hold their own place, so that what is read tells where it was read
    rows, columns = torch.meshgrid(torch.arange(13) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    maps = torch.stack([rows / 13 * 64, columns / 20 * 96])[None]  # padded-input pixels, from the edge
    distance, appearance, classes = project(
        depth, maps, scores, views=[view], sizes=[SIZE], padded=PADDED, sign_channel=True
    )
    pixels = band_of(depth, views=[view], band=3).pixels
    assert distance.sites is appearance.sites is classes.sites
    assert len(appearance.table) == len(pixels.unique())
    wanted = torch.stack([(pixels // 40 + 0.5) * 2, (pixels % 40 + 0.5) * 2], 1)
    # beyond the outermost centres, 2.4 pixels from the edge, the map is continued
    wanted = wanted.clamp(min=wanted.new_tensor([64 / 26, 96 / 40]))
    torch.testing.assert_close(appearance.features, wanted, atol=1e-4, rtol=0)
    assert torch.equal(classes.features, scores[0].flatten(1).t()[pixels])
    assert torch.equal(distance.features[:, 0], distance.features[:, 0].sign())
    assert (distance.features[:, 1] >= 0).all()


def test_one_signed_channel():
    depth, appearance, scores = inputs()
    given = {"views": [view_of_side(64)], "sizes": [SIZE], "padded": PADDED}
    two = project(depth, appearance, scores, **given, sign_channel=True)[0].features
    one = project(depth, appearance, scores, **given, sign_channel=False)[0].features
    assert one.shape[1] == 1
    assert torch.equal(one[:, 0], two[:, 0] * two[:, 1])


def test_published_sampling_reads_corners():
    maps = torch.rand(1, 3, 16, 24)
    found = sample_plane(maps, PLANE, sizes=[SIZE], padded=PADDED, centred=False)
    x, y = (torch.arange(40) / 48), (torch.arange(30) / 32)  # x / (padded width / 2)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None] * 2 - 1
    wanted = F.grid_sample(maps, grid, align_corners=False)[0].flatten(1).t()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_batch_is_its_images():
    depth, appearance, scores = inputs(3)
    depth[1] *= 0.7
    depth[2] = 0.0  # nothing valid
    scores[1] = scores[1].flip(0)
    views = [view_of_side(64), view_of_side(64).mirrored("horizontal"), view_of_side(64)]
    sizes = [SIZE, (64, 90), SIZE]
    given = {"padded": PADDED, "sign_channel": True}
    together = project(depth, appearance, scores, views=views, sizes=sizes, **given)
    start = 0
    for image in range(3):
        part = slice(image, image + 1)
        alone = project(
            depth[part], appearance[part], scores[part], views=views[part], sizes=sizes[part], **given
        )
        end = start + alone[0].sites.num
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one.coords[:, 1:], all_.coords[start:end, 1:])
            assert (all_.coords[start:end, 0] == image).all()
            torch.testing.assert_close(one.features, all_.features[start:end])
        start = end
    assert start == together[0].sites.num


@pytest.mark.parametrize("value", [0.0, 9.0, float("nan")])
def test_no_valid_pixel(value):
    depth, appearance, scores = inputs()
    depth[:] = value
    view = view_of_side(64)
    distance, features, _ = project(
        depth, appearance, scores, views=[view], sizes=[SIZE], padded=PADDED, sign_channel=True
    )
    assert 4 <= distance.sites.num <= 7  # one pixel, less what is behind the camera
    assert torch.isfinite(features.features).all()
    assert band_of(depth, views=[view], band=3).pixels.unique().tolist() == [15 * 40 + 20]


def test_points_outside_the_grid_are_dropped():
    view = replace(view_of_side(64), origin=(31.0, 31.0, 35.0))
    depth = torch.full((1, *PLANE), 3.6)  # voxel 65 of 64, so two layers of the band are inside
    found = band_of(depth, views=[view], band=3)
    assert found.sites.coords[:, 3].unique().tolist() == [62, 63]
    nothing = band_of(depth + 2, views=[view], band=3)
    assert nothing.sites.num == len(nothing.pixels) == 0


def test_gradient_reaches_the_features():
    depth, appearance, scores = inputs()
    appearance.requires_grad_()
    _, found, _ = project(
        depth, appearance, scores, views=[view_of_side(64)], sizes=[SIZE], padded=PADDED, sign_channel=True
    )
    found.features.sum().backward()
    assert appearance.grad.sum().item() == pytest.approx(found.features.numel(), rel=1e-4)


def test_half_precision_features_stay_so():
    depth, appearance, scores = inputs()
    given = {"views": [view_of_side(64)], "sizes": [SIZE], "padded": PADDED, "sign_channel": True}
    exact = project(depth, appearance, scores, **given)[1].features
    found = project(depth, appearance.bfloat16(), scores, **given)[1].features
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0)  # rounded before and after


def scales(sampling, rule="measured"):
    depth, _, scores = inputs()
    view = view_of_side(64, rule)
    lifted = lift(
        depth,
        scores,
        torch.zeros(1, 25, *PLANE),
        views=[view],
        frusta=torch.ones(1, 64, 64, 64, dtype=torch.bool),
        room_masks=None,
        num_things=9,
        fill=True,
        far=6.0,
    )
    rows, columns = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    fine = torch.stack([rows / 16 * 64, columns / 24 * 96])[None]
    levels = [F.avg_pool2d(fine, 4), F.avg_pool2d(fine, 2), fine]
    found = multi_scale(
        depth,
        SimpleNamespace(levels=levels),
        lifted,
        views=[view],
        sizes=[SIZE],
        padded=PADDED,
        sampling=sampling,
    )
    return depth, view, lifted, found


def test_scales_are_aligned():
    depth, view, lifted, found = scales("aligned")
    assert [x.side for x in found] == [32, 16, 8]
    assert [x.features.shape[1] for x in found] == [2 + 16] * 3
    for stride, band, x in zip((2, 4, 8), (2, 1, 0), found, strict=True):
        near = band_of(depth, views=[coarser(view, stride)], band=band, stride=stride)
        here = torch.isin(x.sites.keys, near.sites.keys)
        width = -(-40 // stride)
        row, column = (near.pixels // width * stride, near.pixels % width * stride)
        wanted = torch.stack([(row + 0.5) * 2, (column + 0.5) * 2], 1)
        edge = wanted.new_tensor([64 / 16 * stride / 4, 96 / 24 * stride / 4])
        wanted = wanted.clamp(min=edge)
        torch.testing.assert_close(x.features[here, :2], wanted, atol=2e-4, rtol=0)
        assert (x.features[~here, :2] == 0).all()
    half = {tuple(c) for c in (lifted.coords[:, 1:] // 2).tolist()}
    assert half <= {tuple(c) for c in found[0].coords[:, 1:].tolist()}


def test_published_scales_read_elsewhere():
    _, view, _, found = scales("published", "published")
    # pixel 10 of 20 is read at 10 / (2 * 24) of a map 24 wide, instead of at a half of the content
    near = band_of(inputs()[0], views=[coarser(view, 2)], band=2, stride=2)
    here = torch.isin(found[0].sites.keys, near.sites.keys)
    column = (near.pixels % 20).float()
    inner = (column >= 1) & (near.pixels // 20 >= 1)
    wanted = column / 48 * 96
    torch.testing.assert_close(found[0].features[here, 1][inner], wanted[inner], atol=1e-3, rtol=0)
