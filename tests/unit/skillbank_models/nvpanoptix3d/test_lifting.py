import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion
from view_cases import room, view_of_side

from skillbank_models.nvpanoptix3d.frustum import frustum_mask, kept_voxels
from skillbank_models.nvpanoptix3d.lifting import _without_gaps, lift, room_depth

PLANE, BINS, FAR = (30, 40), 25, 6.0


def literal_gaps(values):
    """Zeros from left to right; what was filled counts from then on."""
    values = list(values)
    for place, value in enumerate(values):
        if value == 0:
            left = [other for other in values[:place] if other != 0]
            right = [other for other in values[place + 1 :] if other != 0]
            values[place] = max(min(left, default=0), min(right, default=0))
    return values


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_gaps_are_filled_as_from_left_to_right(values):
    assert _without_gaps(torch.tensor([values]).float())[0].tolist() == literal_gaps(values)


def literal_room(depth, stuff, fill):
    walls = np.where(stuff, depth, 0)
    rows, columns = walls.max(1), walls.max(0)
    if fill:

        def first(values):
            return next((value for value in values if value), 0)

        walls = walls.copy()
        original = walls.copy()
        for edge, scan in ((0, rows), (-1, rows[::-1])):
            walls[edge] = np.where(original[edge] == 0, first(scan), original[edge])
        for edge, scan in ((0, columns), (-1, columns[::-1])):
            walls[:, edge] = np.where(original[:, edge] == 0, first(scan), original[:, edge])
    columns, rows = literal_gaps(walls.max(0)), literal_gaps(walls.max(1))
    return np.minimum(np.array(columns)[None], np.array(rows)[:, None])


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.6])
def test_room_depth(share, fill):
    rng = np.random.default_rng(int(share * 100))
    depth = rng.uniform(0.5, 6, (3, 11, 14)).astype(np.float32)
    stuff = rng.uniform(size=depth.shape) < share
    found = room_depth(torch.tensor(depth), torch.tensor(stuff), fill=fill)
    for image in range(3):
        np.testing.assert_array_equal(found[image].numpy(), literal_room(depth[image], stuff[image], fill))


def literal_lift(depth, scores, occupancy, view, frustum, room_mask, fill):
    """Voxel by voxel: {voxel: features}, and the set of added ones."""
    bins, height, width = occupancy.shape
    depth = np.minimum(depth, np.float32(FAR))
    stuff = binary_erosion(scores.argmax(0) > 9, np.ones((5, 5)), border_value=1)
    limit = literal_room(depth, stuff, fill)
    if fill:
        limit = np.maximum(limit, depth)
    surface, wall = ((part / np.float32(FAR) * np.float32(bins)).astype(int) for part in (depth, limit))
    before, behind = (3, 5) if bins == 100 else (2, 2)  # 0.18 m and 0.3 m, at least 2 bins
    kept = kept_voxels(view, (height, width), "cpu")
    side = view.grid.side
    allowed = np.zeros((side,) * 3, bool)
    chosen = {}
    depth_bins = kept.bins(bins, FAR).tolist()
    for voxel, v, u, b in zip(
        map(tuple, kept.coords.tolist()), kept.rows.tolist(), kept.columns.tolist(), depth_bins, strict=True
    ):
        if not frustum[voxel]:
            continue
        allowed[voxel] = True
        if surface[v, u] - before < b < wall[v, u] + behind and room_mask[v, u]:
            away = (b - surface[v, u]) * FAR / bins
            sigmoid = 1 / (1 + np.exp(-occupancy[b, v, u]))
            chosen[voxel] = [*scores[:, v, u], sigmoid, np.sign(away), abs(away)]
    taken = np.zeros_like(allowed)
    for voxel in chosen:
        taken[voxel] = True
    added = binary_dilation(taken, np.ones((5, 5, 5))) & allowed & ~taken
    zero = {tuple(int(c) // 2 * 2 for c in voxel) for voxel in np.argwhere(added)}
    if not chosen:
        zero = {(side // 2 - 2,) * 3}
    shift = 1 if view.rule == "published" and side == 256 else 0
    rows = {voxel: [0.0] * (len(scores) + 3) for voxel in zero} | chosen
    moved = {tuple(c - shift for c in voxel): row for voxel, row in rows.items()}
    return {v: row for v, row in moved.items() if not shift or (min(v) >= 0 and max(v) < side - 1)}


def inputs(batch=1, bins=BINS, plane=PLANE):
    depth, scores = room(plane)
    occupancy = torch.randn(batch, bins, *plane, generator=torch.Generator().manual_seed(2))
    return depth.expand(batch, -1, -1).clone(), scores.expand(batch, -1, -1, -1).clone(), occupancy


def run(depth, scores, occupancy, views, *, frusta=None, room_masks=None, fill=True):
    if frusta is None:
        frusta = torch.stack([frustum_mask(view, "cpu") for view in views])
    return lift(
        depth,
        scores,
        occupancy,
        views=views,
        frusta=frusta,
        room_masks=room_masks,
        num_things=9,
        fill=fill,
        far=FAR,
    )


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("rule", ["measured", "published"])
@pytest.mark.parametrize("bins", [25, 100])
def test_voxel_by_voxel(rule, fill, bins):
    view = view_of_side(64, rule)
    depth, scores, occupancy = inputs(bins=bins)
    room_masks = torch.ones(1, *PLANE, dtype=torch.bool)
    room_masks[0, :, :6] = False
    found = run(depth, scores, occupancy, [view], room_masks=room_masks, fill=fill)
    wanted = literal_lift(
        depth[0].numpy(),
        scores[0].numpy(),
        occupancy[0].numpy(),
        view,
        frustum_mask(view, "cpu").numpy(),
        room_masks[0].numpy(),
        fill,
    )
    assert found.coords[:, 1:].tolist() == [list(voxel) for voxel in sorted(wanted)]
    rows = np.array([wanted[voxel] for voxel in sorted(wanted)])
    np.testing.assert_allclose(found.features.numpy(), rows, atol=1e-5)
    empty = (rows == 0).all(1)
    assert 100 < empty.sum() < len(rows) / 2


def test_published_voxels_are_one_lower():
    plane = (12, 16)
    depth, scores, occupancy = inputs(bins=100, plane=plane)
    view = view_of_side(256, "published")
    frusta = torch.zeros(1, 256, 256, 256, dtype=torch.bool)
    frusta[0, 120:136, 110:130, 60:150] = True  # a part of it, since every voxel is walked through
    found = run(depth, scores, occupancy, [view], frusta=frusta, fill=False)
    kept = torch.zeros(256**3, dtype=torch.bool)
    kept[kept_voxels(view, plane, "cpu").keys.long()] = True
    inside = (frusta[0] & kept.view(256, 256, 256)).nonzero()
    full = found.coords[found.features.abs().sum(1) > 0, 1:].long() + 1
    assert len(full) > 500
    assert {tuple(c) for c in full.tolist()} <= {tuple(c) for c in inside.tolist()}
    added = found.coords[found.features.abs().sum(1) == 0, 1:]
    assert (added % 2 == 1).all()  # even places, moved by one


def test_a_batch_is_its_images():
    depth, scores, occupancy = inputs(3)
    depth[1] *= 0.8
    scores[1] = scores[1].flip(2)
    depth[2] = 3.0
    views = [view_of_side(64), view_of_side(64).mirrored("horizontal"), view_of_side(64)]
    frusta = torch.stack([frustum_mask(view, "cpu") for view in views])
    frusta[2] = False
    room_masks = torch.rand(3, *PLANE, generator=torch.Generator().manual_seed(3)) < 0.9
    together = run(depth, scores, occupancy, views, frusta=frusta, room_masks=room_masks)
    start = 0
    for image in range(3):
        part = slice(image, image + 1)
        alone = run(
            depth[part],
            scores[part],
            occupancy[part],
            views[part],
            frusta=frusta[part],
            room_masks=room_masks[part],
        )
        end = start + alone.sites.num
        assert torch.equal(alone.coords[:, 1:], together.coords[start:end, 1:])
        assert (together.coords[start:end, 0] == image).all()
        assert torch.equal(alone.features, together.features[start:end])
        start = end
    assert start == together.sites.num
    assert together.sites.counts[2] == 1
    assert together.coords[-1].tolist() == [2, 30, 30, 30]
    assert (together.features[-1] == 0).all()


def test_no_wall_anywhere():
    depth, scores, occupancy = inputs()
    scores[:] = 0  # no query was sure enough
    view = view_of_side(64)
    found = run(depth, scores, occupancy, [view])
    full = found.coords[found.features[:, 13] > 0, 1:]
    assert len(full) > 300  # the visible surface at least
    published = run(depth, scores, occupancy, [view], fill=False)
    assert published.sites.num < len(full)


def test_wider_than_the_last_bin():
    depth, scores, occupancy = inputs()
    depth[:] = 40.0
    found = run(depth, scores, occupancy, [view_of_side(64)])
    assert found.sites.num > 0
    assert found.features[:, -1].max() <= 3 * FAR / BINS


def test_gradient_reaches_scores_and_occupancy():
    depth, scores, occupancy = inputs()
    scores.requires_grad_()
    occupancy.requires_grad_()
    found = run(depth, scores, occupancy, [view_of_side(64)])
    found.features[:, :14].sum().backward()
    assert scores.grad.abs().sum() > 0
    assert occupancy.grad.abs().sum() > 0
    assert not found.features[:, 14:].requires_grad or found.features.grad_fn is not None


def test_same_every_time():
    given = inputs()
    first, second = run(*given, [view_of_side(64)]), run(*given, [view_of_side(64)])
    assert torch.equal(first.coords, second.coords)
    assert torch.equal(first.features, second.features)
