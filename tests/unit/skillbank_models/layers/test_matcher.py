"""Costs and assignment of queries to ground-truth masks."""

import logging
from itertools import permutations

import pytest
import torch
from mask_cases import random_predictions, random_targets

from skillbank.errors import ShapeError
from skillbank_models.layers import matcher as matcher_module
from skillbank_models.layers.matcher import HungarianMatcher, pair_costs
from skillbank_models.layers.predictions import MaskPredictions

POINTS = 200


def matcher(**changes):
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "num_points": POINTS}
    return HungarianMatcher(**{**weights, **changes})


def predictions(images=1, queries=6, layers=2, **changes):
    return random_predictions(
        layers=layers, images=images, queries=queries, classes=4, width=16, size=(16, 16), **changes
    )


def direct_costs(embeds, features, truth, mask_weight, dice_weight):
    """The definition, pair by pair, in float64."""
    out = torch.zeros(len(embeds), len(truth), dtype=torch.float64)
    for n, embed in enumerate(embeds.double()):
        p = torch.sigmoid(embed @ features.double())
        for m, t in enumerate(truth.double()):
            entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            out[n, m] = mask_weight * entropy + dice_weight * dice
    return out


def test_costs_follow_the_definition():
    draw = torch.Generator().manual_seed(0)
    embeds, features = torch.randn(7, 8, generator=draw), torch.randn(8, 50, generator=draw)
    truth = torch.rand(3, 50, generator=draw)
    found = pair_costs(embeds, features, truth, mask_weight=5.0, dice_weight=3.0)
    wanted = direct_costs(embeds, features, truth, 5.0, 3.0)
    # float32 sums of 50 terms
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_costs_do_not_depend_on_how_many_rows_go_at_once(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    embeds, features = torch.randn(7, 8, generator=draw), torch.randn(8, 50, generator=draw)
    truth = torch.rand(3, 50, generator=draw).round()
    whole = pair_costs(embeds, features, truth, mask_weight=5.0, dice_weight=5.0)
    monkeypatch.setattr(matcher_module, "CHUNK", 100)
    parts = pair_costs(embeds, features, truth, mask_weight=5.0, dice_weight=5.0)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_large_logits_stay_finite():
    embeds, features = torch.tensor([[300.0], [-300.0]]), torch.ones(1, 10)
    found = pair_costs(embeds, features, torch.ones(1, 10), mask_weight=1.0, dice_weight=0.0)
    assert found[:, 0].tolist() == pytest.approx([0.0, 300.0], abs=1e-4)


def test_the_assignment_is_the_cheapest_of_all():
    from skillbank_models.ops.point_sampling import sample_maps, sample_masks

    points = torch.rand(1, POINTS, 2, generator=torch.Generator().manual_seed(1))
    given = MaskPredictions(*(tensor.detach() for tensor in predictions()))
    targets = random_targets((3,), classes=4, size=(32, 32))
    (found,) = matcher(points=lambda rows, count, device: points)(given, targets)
    truth = sample_masks(targets[0].masks, points[0])
    features = sample_maps(given.mask_features, points)[0]
    for layer in range(2):
        cost = direct_costs(given.mask_embeds[layer, 0], features, truth, 5.0, 5.0)
        cost -= 2.0 * given.class_logits[layer, 0].double().softmax(-1)[:, targets[0].labels]
        best = min(permutations(range(6), 3), key=lambda order: float(cost[list(order), range(3)].sum()))
        pairs = dict(zip(found.rows[layer].tolist(), found.queries[layer].tolist(), strict=True))
        assert tuple(pairs[row] for row in range(3)) == best


def test_images_without_and_with_more_masks_than_queries():
    targets = random_targets((0, 9, 2), classes=4, size=(32, 32))
    found = matcher()(predictions(images=3), targets)
    assert [tuple(match.queries.shape) for match in found] == [(2, 0), (2, 6), (2, 2)]
    for layer in range(2):
        assert found[1].queries[layer].tolist() == list(range(6))
        assert len(set(found[1].rows[layer].tolist())) == 6


def test_nothing_to_match_needs_no_points():
    def refuse(rows, count, device):
        raise AssertionError

    found = matcher(points=refuse)(predictions(images=2), random_targets((0, 0), classes=4, size=(32, 32)))
    assert [tuple(match.rows.shape) for match in found] == [(2, 0), (2, 0)]


def test_half_precision_predictions_are_matched_in_full():
    targets = random_targets((3,), classes=4, size=(32, 32))
    given = MaskPredictions(*(tensor.detach().bfloat16() for tensor in predictions()))
    full = MaskPredictions(*(tensor.float() for tensor in given))
    points = torch.rand(1, POINTS, 2)
    own = matcher(points=lambda rows, count, device: points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = own(given, targets)[0]
    assert torch.equal(half.queries, own(full, targets)[0].queries)


def test_a_query_that_is_not_a_number_is_matched_last_and_named(caplog):
    given = predictions()
    embeds = given.mask_embeds.detach().clone()
    embeds[1, 0, 2] = float("nan")
    embeds[1, 0, 4, 0] = float("inf")
    targets = random_targets((4,), classes=4, size=(32, 32))
    with caplog.at_level(logging.WARNING):
        (found,) = matcher()(given._replace(mask_embeds=embeds), targets)
    assert set(found.queries[1].tolist()) == {0, 1, 3, 5}
    assert "not finite in layer 1, image 0 (8 of 24)" in caplog.text
    assert "train.optim.lr" in caplog.text


def test_the_others_are_matched_as_well_as_without_it():
    given = predictions(queries=6, layers=1)
    targets = random_targets((4,), classes=4, size=(32, 32))
    points = torch.rand(1, POINTS, 2)
    own = matcher(points=lambda rows, count, device: points)
    kept = [0, 1, 3, 4, 5]
    alone = given._replace(
        mask_embeds=given.mask_embeds[:, :, kept], class_logits=given.class_logits[:, :, kept]
    )
    embeds = given.mask_embeds.detach().clone()
    embeds[0, 0, 2] = float("nan")
    (found,), (wanted,) = own(given._replace(mask_embeds=embeds), targets), own(alone, targets)
    assert found.queries[0].tolist() == [kept[query] for query in wanted.queries[0].tolist()]
    assert torch.equal(found.rows, wanted.rows)


def test_predictions_that_are_all_not_numbers_still_give_pairs(caplog):
    given = predictions(images=12, layers=2)
    embeds = torch.full_like(given.mask_embeds, float("nan"))
    found = matcher()(given._replace(mask_embeds=embeds), random_targets([2] * 12, classes=4, size=(32, 32)))
    assert all(match.queries.shape == (2, 2) for match in found)
    assert "and 14 more" in caplog.text  # ten of 24 places are named


def test_targets_that_do_not_fit_are_named():
    targets = random_targets((2,), classes=4, size=(32, 32))
    with pytest.raises(ShapeError, match="1 for a batch of 2 images"):
        matcher()(predictions(images=2), targets)
    broken = targets[0]._replace(labels=targets[0].labels[:1])
    with pytest.raises(ShapeError, match=r"targets\[0\]: masks of shape \(2, 32, 32\) with 1 labels"):
        matcher()(predictions(), [broken])
