"""Losses of matched pairs: values and gradients against plain autograd."""

import pytest
import torch
from mask_cases import random_targets
from torch.nn import functional as F

from skillbank_models.layers.pair_losses import pair_losses
from skillbank_models.ops.point_sampling import sample_maps

PAIRS, WIDTH, POINTS = 7, 8, 30


def case(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(PAIRS, WIDTH, generator=draw, dtype=dtype).requires_grad_()
    features = torch.randn(WIDTH, 6, 5, generator=draw, dtype=dtype).requires_grad_()
    masks = random_targets((4,), classes=3, size=(24, 20))[0].masks
    rows = torch.tensor([0, 1, 2, 3, 3, 0, 2])
    points = torch.rand(PAIRS, POINTS, 2, generator=draw, dtype=dtype)
    return embeds, features, masks, rows, points


def handing_out(points):
    left = list(points)
    return lambda maps: torch.stack([left.pop(0) for _ in maps])


def plain(embeds, features, masks, rows, points):
    """The same in the words of the definition, for autograd."""
    maps = torch.einsum("nc,chw->nhw", embeds, features)
    logits = sample_maps(maps[:, None], points)[:, 0]
    truth = sample_maps(masks[rows][:, None].to(points.dtype), points)[:, 0]
    share = logits.sigmoid()
    dice = 1 - (2 * (share * truth).sum(1) + 1) / (share.sum(1) + truth.sum(1) + 1)
    return F.binary_cross_entropy(share, truth, reduction="none").mean(1), dice


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_values_and_gradients_are_those_of_plain_autograd(at_once):
    embeds, features, masks, rows, points = case()
    weights = torch.randn(2, PAIRS, dtype=torch.float64)  # of each loss of each pair
    found = pair_losses(embeds, features, masks, rows, choose=handing_out(points), at_once=at_once)
    wanted = plain(embeds, features, masks, rows, points)
    for own, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, reference)
    gradients = torch.autograd.grad(found, (embeds, features), tuple(weights))
    for own, reference in zip(
        gradients, torch.autograd.grad(wanted, (embeds, features), tuple(weights)), strict=True
    ):
        torch.testing.assert_close(own, reference)


def test_gradients_follow_small_changes():
    embeds, features, masks, rows, points = case()

    def both(embeds, features):
        return pair_losses(embeds, features, masks, rows, choose=handing_out(points), at_once=4)

    assert torch.autograd.gradcheck(both, (embeds, features))


def test_the_map_is_handed_over_to_choose_points():
    embeds, features, masks, rows, points = case()
    seen = []

    def choose(maps):
        seen.append(maps.clone())
        return points[: len(maps)]

    pair_losses(embeds, features, masks, rows, choose=choose, at_once=5)
    torch.testing.assert_close(torch.cat(seen), torch.einsum("nc,chw->nhw", embeds, features).detach())
    assert [len(maps) for maps in seen] == [5, 2]


def test_autocast_around_the_backward_pass_changes_nothing():
    def gradients(enabled):
        embeds, features, masks, rows, points = case(torch.float32)
        losses = pair_losses(embeds, features, masks, rows, choose=handing_out(points), at_once=4)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            return torch.autograd.grad(sum(part.sum() for part in losses), (embeds, features))

    assert all(torch.equal(a, b) for a, b in zip(gradients(True), gradients(False), strict=True))


def test_large_logits_have_finite_gradients():
    embeds, features, masks, rows, points = case()
    losses = pair_losses(embeds * 1e4, features, masks, rows, choose=handing_out(points), at_once=4)
    gradients = torch.autograd.grad(sum(part.sum() for part in losses), (embeds, features))
    assert all(part.isfinite().all() for part in (*losses, *gradients))
