"""Reading maps and masks at points, and the choice of the points."""

import pytest
import torch
from torch.nn import functional as F

from skillbank_models.ops import point_sampling
from skillbank_models.ops.point_sampling import (
    sample_maps,
    sample_masks,
    spread_to_maps,
    uncertain_points,
    uniform_points,
)


def places(*shape, seed=0):
    return torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed))


def test_a_value_sits_at_the_centre_of_its_pixel():
    maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])  # (1, 1, 2, 2)
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]])
    assert sample_maps(maps, points).tolist() == [[[1.0, 3.0, 5.0, 4.0]]]


def test_half_of_a_corner_lies_outside_where_all_is_zero():
    maps = torch.ones(1, 1, 4, 4)
    assert sample_maps(maps, torch.tensor([[[0.0, 0.5], [0.0, 0.0]]])).tolist() == [[[0.5, 0.25]]]
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    assert sample_masks(masks, torch.tensor([[0.0, 0.5], [0.0, 0.0], [1.0, 1.0]])).tolist() == [
        [0.5, 0.25, 0.25]
    ]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 1), (2, 2), (33, 50), (64, 64)], ids=str)
def test_masks_give_what_their_floating_point_form_gives(size, dtype):
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) > 0.5
    points = torch.cat([places(500), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.999999, 1e-7]])])
    wanted = sample_maps(masks[None].float(), points[None])[0]
    # a position of up to 64 pixels is known to about 4e-6
    torch.testing.assert_close(sample_masks(masks.to(dtype), points), wanted, rtol=0, atol=1e-5)


def test_rows_pick_the_mask_of_each_set_of_points():
    masks = torch.rand(4, 20, 30, generator=torch.Generator().manual_seed(2)) > 0.5
    rows = torch.tensor([3, 0, 0, 2, 3])
    points = places(5, 100)
    wanted = sample_maps(masks[rows][:, None].float(), points)[:, 0]
    torch.testing.assert_close(sample_masks(masks, points, rows), wanted, rtol=0, atol=1e-5)
    swapped = sample_masks(masks, points, rows.flip(0))
    assert not torch.allclose(swapped, wanted, atol=1e-2)


def test_masks_too_many_for_short_indices_are_read_alike(monkeypatch):
    masks = torch.rand(4, 20, 30, generator=torch.Generator().manual_seed(2)) > 0.5
    points, rows = places(5, 100), torch.tensor([3, 0, 0, 2, 3])
    short = sample_masks(masks, points, rows)
    monkeypatch.setattr(point_sampling, "_INT32_LIMIT", 0)
    assert torch.equal(sample_masks(masks, points, rows), short)


def test_masks_may_be_views():
    masks = torch.rand(30, 20, 4, generator=torch.Generator().manual_seed(2)).permute(2, 1, 0) > 0.5
    points, rows = places(5, 100), torch.tensor([3, 0, 0, 2, 3])
    assert not masks.is_contiguous()
    assert torch.equal(sample_masks(masks, points, rows), sample_masks(masks.contiguous(), points, rows))


def test_no_masks_give_no_rows():
    assert sample_masks(torch.zeros(0, 8, 8, dtype=torch.bool), places(10)).shape == (0, 10)


def test_gradients_of_maps_are_those_of_the_formula():
    maps = torch.randn(2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    points = places(2, 7).double()
    assert torch.autograd.gradcheck(lambda x: sample_maps(x, points), maps.requires_grad_())


def test_spreading_is_the_gradient_of_reading():
    maps = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
    points, values = places(2, 7), torch.randn(2, 3, 7)
    (wanted,) = torch.autograd.grad(sample_maps(maps, points), maps, values)
    torch.testing.assert_close(spread_to_maps(values, points, (5, 6)), wanted)


def test_uncertain_points_lie_where_the_logit_is_small():
    ramp = torch.linspace(-8, 8, 64).expand(3, 64, 64).contiguous()  # zero in the middle
    torch.manual_seed(0)
    points = uncertain_points(ramp, num_points=400, oversample_ratio=3.0, importance_sample_ratio=0.75)
    assert points.shape == (3, 400, 2)
    distance = (points[..., 0] - 0.5).abs()
    # the best 300 of 1200 even candidates lie within an eighth of the middle, give or take, but for those at
    # the edges, where the zeros outside make logits smaller
    assert distance[:, :300].quantile(0.95) < 0.14
    assert distance[:, 300:].mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("share", "asked"), [(0.0, [(5, 40)]), (1.0, [(5, 120)])])
def test_all_or_no_uncertain_points_ask_once(share, asked):
    calls = []

    def source(rows, points, device):
        calls.append((rows, points))
        return uniform_points(rows, points, device)

    found = uncertain_points(
        torch.randn(5, 8, 8),
        num_points=40,
        oversample_ratio=3.0,
        importance_sample_ratio=share,
        source=source,
    )
    assert found.shape == (5, 40, 2)
    assert calls == asked


def test_the_candidates_with_the_smallest_logits_are_kept():
    maps = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(4))
    drawn = []

    def source(rows, points, device):
        drawn.append(places(rows, points, seed=len(drawn)))
        return drawn[-1]

    found = uncertain_points(
        maps, num_points=20, oversample_ratio=2.0, importance_sample_ratio=0.5, source=source
    )
    candidates, rest = drawn
    assert candidates.shape == (5, 40, 2)
    logits = F.grid_sample(maps[:, None], (2 * candidates - 1)[:, :, None], align_corners=False)[:, 0, :, 0]
    order = logits.abs().argsort(dim=1)[:, :10]
    wanted = candidates.gather(1, order[..., None].expand(-1, -1, 2))
    for row in range(5):
        assert {tuple(p) for p in found[row, :10].tolist()} == {tuple(p) for p in wanted[row].tolist()}
    assert torch.equal(found[:, 10:], rest)


def test_no_maps_give_no_points():
    found = uncertain_points(
        torch.zeros(0, 8, 8), num_points=20, oversample_ratio=2.0, importance_sample_ratio=0.5
    )
    assert found.shape == (0, 20, 2)


def test_uniform_points_follow_the_ordinary_generator():
    torch.manual_seed(5)
    first = uniform_points(2, 3, torch.device("cpu"))
    torch.manual_seed(5)
    assert torch.equal(uniform_points(2, 3, torch.device("cpu")), first)
    assert first.shape == (2, 3, 2)
