"""Losses in 3D against their definitions in float64 on whole volumes."""

import math

import pytest
import torch
import torch.nn.functional as F

from skillbank.errors import ShapeError
from skillbank_models.layers.matcher import Match
from skillbank_models.nvpanoptix3d.batch import VolumeTarget
from skillbank_models.nvpanoptix3d.frustum_criterion import FrustumCriterion
from skillbank_models.nvpanoptix3d.outputs import FrustumLevel, FrustumOutput
from skillbank_models.sparse.tensor import Sites, SparseTensor

SIDE, QUERIES = 16, 6
LIMITS = (8.0, 6.0, 3.0)
LOSSES = [
    *(f"loss_occupancy_{side}" for side in (64, 128, 256)),
    "loss_geometry",
    *(f"loss_panoptic_{side}" for side in (64, 128, 256)),
]


def criterion() -> FrustumCriterion:
    return FrustumCriterion(
        truncation=3.0,
        occupied_below=LIMITS,
        occupancy_weights=(50.0, 25.0, 10.0),
        surface_weight=5.0,
        panoptic_weight=2.0,
    )


def voxels(side: int, channels: int, images: int, random: torch.Generator, *, empty: int | None = None):
    chosen = torch.rand(images, side, side, side, generator=random) > 0.7
    if empty is not None:
        chosen[empty] = False
    coords = chosen.nonzero().int()
    features = torch.randn(len(coords), channels, generator=random).requires_grad_()
    return SparseTensor(features, Sites(coords, side, images))


def output_of(images: int, seed: int = 0, *, empty: int | None = None) -> FrustumOutput:
    random = torch.Generator().manual_seed(seed)
    quarter, half = SIDE // 4, SIDE // 2
    inside = torch.rand(images, quarter, quarter, quarter, generator=random) > 0.4
    if empty is not None:
        inside[empty] = False
    occupancy = torch.randn(images, quarter, quarter, quarter, generator=random)
    embeds = torch.randn(images, 4, quarter, quarter, quarter, generator=random)
    queries = [torch.randn(images, QUERIES, width, generator=random) for width in (4, 3, 2)]
    kept = voxels(SIDE, 2, images, random, empty=empty)
    distance = kept.with_features(torch.rand(kept.sites.num, 1, generator=random) * 3)
    return FrustumOutput(
        occupancy.masked_fill(~inside, -math.inf).requires_grad_(),
        embeds.requires_grad_(),
        queries[0].requires_grad_(),
        inside,
        FrustumLevel(
            voxels(half, 1, images, random, empty=empty),
            voxels(half, 3, images, random, empty=empty),
            queries[1].requires_grad_(),
        ),
        FrustumLevel(voxels(SIDE, 1, images, random, empty=empty), kept, queries[2].requires_grad_()),
        distance.with_features(distance.features.requires_grad_()),
    )


def leaves(output: FrustumOutput) -> list[torch.Tensor]:
    found = [output.occupancy, output.embeds, output.queries, output.geometry.features]
    for level in (output.half, output.full):
        found += [level.occupancy.features, level.embeds.features, level.queries]
    return found


def target_of(seed: int) -> VolumeTarget:
    random = torch.Generator().manual_seed(100 + seed)
    return VolumeTarget(
        torch.rand((SIDE,) * 3, generator=random) * 12,
        torch.tensor([1, 2, 5, 10], dtype=torch.uint8)[torch.randint(0, 4, (SIDE,) * 3, generator=random)],
        torch.randint(-40, 4, (SIDE,) * 3, generator=random).clamp(min=0).to(torch.int16),
    )


def match_of(pairs: list[tuple[int, int]]) -> Match:
    """The last of two layers; the first one is nonsense that must not be looked at."""
    queries, rows = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return Match(torch.stack([queries * 0 + 5, queries]), torch.stack([rows * 0 + 2, rows]))


def by_definition(output, targets, matches, weights, counts):
    """Every level on its full grid, in float64, the way the targets are described."""
    levels: dict[str, list[torch.Tensor]] = {name: [] for name in LOSSES}
    for image, (target, match) in enumerate(zip(targets, matches, strict=True)):
        for name, limit, reduction, pool in (
            ("64", LIMITS[0], 4, (8, 4, 2)),
            ("128", LIMITS[1], 2, (4, 2, 1)),
            ("256", LIMITS[2], 1, (1, 1, 0)),
        ):

            def resized(volume: torch.Tensor, reduction: int = reduction) -> torch.Tensor:
                if reduction == 1:
                    return volume.double()
                return F.interpolate(
                    volume.double()[None, None],
                    scale_factor=1 / reduction,
                    mode="trilinear",
                    align_corners=True,
                )[0, 0]

            def masks(pool: tuple[int, int, int] = pool, target=target, match=match) -> torch.Tensor:
                fine = torch.stack([target.owner == row + 1 for row in match.rows[-1]]).double()
                return F.max_pool3d(fine[:, None], *pool)[:, 0]

            def rows(x: SparseTensor, image: int = image):
                here = x.coords[:, 0] == image
                return x.features[here].double(), tuple(x.coords[here, 1:].long().t())

            distance, weighting = resized(target.distance), resized(target.weighting)
            if name == "64":
                where = tuple(output.frustum[image].nonzero().t())
                logits = output.occupancy[image][where].double()
                embeds = output.embeds[image].double()[(slice(None), *where)].t()
                places, queries = where, output.queries[image].double()
            else:
                level = output.half if name == "128" else output.full
                logits, where = rows(level.occupancy)
                logits = logits[:, 0]
                embeds, places = rows(level.embeds)
                queries = level.queries[image].double()
            truth = (distance[where] < limit).double()
            entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            count = max(1, len(logits))
            levels[f"loss_occupancy_{name}"].append((entropy * weighting[where]).sum() / count)
            if match.rows.shape[1] and len(embeds):
                picked = queries[match.queries[-1]] @ embeds.t()
                entropy = F.binary_cross_entropy_with_logits(
                    picked, masks()[(slice(None), *places)], reduction="none"
                )
                levels[f"loss_panoptic_{name}"].append((entropy * weighting[places]).mean(1).sum())
            else:
                levels[f"loss_panoptic_{name}"].append(torch.zeros((), dtype=torch.float64))
        values, where = rows(output.geometry)
        error = (values[:, 0] - target.distance.double().clamp(max=3.0)[where]).abs()
        levels["loss_geometry"].append((error * target.weighting.double()[where]).sum() / max(1, len(values)))
    weights = weights.double()
    number = max(1.0, sum(float(w) * c for w, c in zip(weights, counts, strict=True)))
    return {
        name: (torch.stack(values) * weights).sum() / (number if "panoptic" in name else weights.sum())
        for name, values in levels.items()
    }


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 1.5)])
def test_losses_and_gradients_of_two_images(weights: tuple[float, float]) -> None:
    given = torch.tensor(weights)
    targets = [target_of(0), target_of(1)]
    matches, counts = [match_of([(0, 2), (3, 0)]), match_of([(1, 1)])], [3, 1]
    ours, exact = output_of(2), output_of(2)
    found = criterion()(ours, targets, matches, given, counts)
    expected = by_definition(exact, targets, matches, given, counts)
    assert list(found) == LOSSES
    for name in LOSSES:
        # means of up to 1200 terms in 32 bits
        torch.testing.assert_close(found[name], expected[name].float(), rtol=2e-5, atol=1e-6)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for mine, theirs in zip(leaves(ours), leaves(exact), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_a_pair_of_images_is_the_mean_of_the_two() -> None:
    output, targets = output_of(2), [target_of(0), target_of(1)]
    matches = [match_of([(0, 2), (3, 0)]), match_of([(1, 1), (2, 0)])]
    both = criterion()(output, targets, matches, torch.ones(2), [2, 2])

    def single(image: int) -> FrustumOutput:
        def part(x: SparseTensor) -> SparseTensor:
            here = x.coords[:, 0] == image
            coords = x.coords[here].clone()
            coords[:, 0] = 0
            return SparseTensor(x.features[here], Sites(coords, x.side, 1))

        own = slice(image, image + 1)
        return FrustumOutput(
            *(found[own] for found in output[:4]),
            *(
                FrustumLevel(part(level.occupancy), part(level.embeds), level.queries[own])
                for level in output[4:6]
            ),
            part(output.geometry),
        )

    one, two = (
        criterion()(single(image), [targets[image]], [matches[image]], torch.ones(1), [2]) for image in (0, 1)
    )
    for name in LOSSES:
        torch.testing.assert_close(both[name], (one[name] + two[name]) / 2)


def test_an_image_without_voxels_or_masks_adds_zero_and_lets_gradients_pass() -> None:
    output, targets = output_of(2, empty=1), [target_of(0), target_of(1)]
    matches, counts = [match_of([]), match_of([(1, 1)])], [0, 1]
    found = criterion()(output, targets, matches, torch.ones(2), counts)
    expected = by_definition(output, targets, matches, torch.ones(2), counts)
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name].float(), rtol=2e-5, atol=1e-6)
    assert found["loss_panoptic_256"] == 0
    sum(found.values()).backward()
    for leaf in leaves(output):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    assert output.full.queries.grad.abs().sum() == 0


def test_weights_of_zero_give_zero() -> None:
    found = criterion()(output_of(1), [target_of(0)], [match_of([(0, 0)])], torch.zeros(1), [1])
    assert [value.item() for value in found.values()] == [0.0] * 7


def test_total_uses_the_weight_of_each_loss() -> None:
    losses = {name: torch.tensor(10.0**place) for place, name in enumerate(LOSSES)}
    assert float(criterion().total(losses)) == 50 + 250 + 1000 + 5000 + 2 * (1e4 + 1e5 + 1e6)


def test_without_counts_the_matches_are_counted() -> None:
    output, matches = output_of(1), [match_of([(0, 2), (3, 0)])]
    given = criterion()(output, [target_of(0)], matches, torch.ones(1), [2])
    counted = criterion()(output, [target_of(0)], matches, torch.ones(1))
    assert given["loss_panoptic_64"] == counted["loss_panoptic_64"]


def test_half_precision_outputs_are_measured_in_32_bits() -> None:
    output = output_of(1)
    half = output._replace(embeds=output.embeds.bfloat16(), queries=output.queries.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = criterion()(half, [target_of(0)], [match_of([(0, 2)])], torch.ones(1), [1])
    assert all(value.dtype == torch.float32 for value in found.values())
    exact = half._replace(embeds=half.embeds.float(), queries=half.queries.float())
    expected = criterion()(exact, [target_of(0)], [match_of([(0, 2)])], torch.ones(1), [1])
    assert found["loss_panoptic_64"] == expected["loss_panoptic_64"]


def test_lists_of_another_batch_are_refused() -> None:
    with pytest.raises(ShapeError, match="1 targets, 3 counts for a batch of 2 images"):
        criterion()(output_of(2), [target_of(0)], [match_of([])] * 2, torch.ones(2), [1, 2, 3])
