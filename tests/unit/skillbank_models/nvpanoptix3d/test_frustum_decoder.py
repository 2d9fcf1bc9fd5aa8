"""The frustum decoder against the same network over full grids, and what holds for its outputs."""

from typing import Any

import pytest
import torch
from frustum_cases import SMALL, DenseDecoder, dense, dense_block, room, small_decoder

from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder
from skillbank_models.nvpanoptix3d.frustum_pruning import coarse_frustum
from skillbank_models.nvpanoptix3d.outputs import FrustumInputs, FrustumOutput
from skillbank_models.sparse.tensor import Sites, SparseTensor

EXACT = {"rtol": 1e-7, "atol": 1e-8}  # both sides in float64; what differs is the order of sums


def in_64_bits(x: Any) -> Any:
    return x.with_features(x.features.double())


def double_case(**changes: Any) -> tuple[FrustumDecoder, FrustumInputs, torch.Tensor, torch.Tensor]:
    inputs, queries, frusta = room(multi_scale=bool(changes.get("multi_scale")))
    decoder = small_decoder(**changes).double()
    moved = FrustumInputs(*(in_64_bits(x) for x in inputs[:4]), [in_64_bits(x) for x in inputs.scales])
    return decoder, moved, queries.double(), frusta


def assert_voxels(x: SparseTensor, values: torch.Tensor, where: torch.Tensor) -> None:
    found, active = dense(x)
    assert torch.equal(active, where)
    torch.testing.assert_close(found, values * where, **EXACT)


@torch.no_grad()
def test_every_level_exactly_as_over_full_grids() -> None:
    decoder, inputs, queries, frusta = double_case(multi_scale=True)
    truth = DenseDecoder(decoder)
    inside = coarse_frustum(frusta, 4)

    pyramid = decoder.encoder(inputs)
    half, quarter, grids = truth.pyramid(inputs)
    assert_voxels(pyramid.half, *half)
    assert_voxels(pyramid.quarter, *quarter)
    for found, expected in zip(pyramid.grids, grids, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)

    output = decoder(inputs, queries, frusta)
    x, logits, embeds = truth.coarse(grids, inside)
    torch.testing.assert_close(output.occupancy, logits, **EXACT)
    torch.testing.assert_close(output.embeds, embeds, **EXACT)
    assert torch.equal(output.frustum, inside)

    keep = ((logits > 0) & inside)[:, None]
    assert 0 < keep.sum() < inside.sum()  # some cells are pruned, not all
    parents = torch.cat([x * keep, quarter[0]], 1), keep | quarter[1]
    occupancy, joined, embeds_half = truth.half(parents, half, coarse_frustum(frusta, 2))
    assert_voxels(output.half.occupancy, *occupancy)
    assert_voxels(output.half.embeds, *embeds_half)

    occupancy, (distance, embeds_full, kept) = truth.full(joined, frusta)
    assert_voxels(output.full.occupancy, *occupancy)
    assert_voxels(output.geometry, distance, kept)
    assert_voxels(output.full.embeds, embeds_full, kept)
    assert 0 < kept.sum() < occupancy[1].sum()
    torch.testing.assert_close(output.full.queries, decoder.fine.query(queries))


@torch.no_grad()
def test_published_norm_exactly_normalises_each_voxel() -> None:
    decoder, inputs, *_ = double_case(norm="voxel")
    truth = DenseDecoder(decoder)
    encoder, active = decoder.encoder, [dense(inputs.distance)[1], dense(inputs.lifted)[1]]
    parts = [
        dense_block(*dense(getattr(inputs, name)), getattr(encoder, name))[0]
        for name in ("distance", "appearance", "classes", "lifted")
    ]
    half = dense_block(torch.cat(parts, 1), active[0] | active[1], encoder.to_half, stride=2)
    half = dense_block(*half, encoder.at_half)
    assert_voxels(encoder(inputs).half, *half)
    dense_norms = [name for name, _ in decoder.named_parameters() if "norm" in name]
    assert dense_norms == []
    assert truth.full_norm(torch.randn(1, 2, 2, 2, 2), decoder.coarse.up_quarter.norm).mean().abs() < 1e-6


@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize(("norm", "expected"), [("voxel", 9.23e6), ("instance", 9.23e6)])
def test_full_size_has_the_published_number_of_parameters(
    norm: Any, expected: float, multi_scale: bool
) -> None:
    with torch.device("meta"):
        decoder = FrustumDecoder(
            sign_channel=True,
            appearance_channels=512,
            num_classes=13,
            query_dim=256,
            features=16,
            out_channels=16,
            side=256,
            truncation=3.0,
            norm=norm,
            multi_scale=multi_scale,
            scale_channels=256,
            max_voxels=700000,
            use_checkpoint=True,
        )
    affine = sum(value.numel() for name, value in decoder.named_parameters() if "norm" in name)
    total = sum(value.numel() for value in decoder.parameters())
    published = expected + 0.99e6 * multi_scale  # 9.23 M and 10.22 M, to the last digit given
    assert abs(total - affine - published) < 0.01e6
    assert (affine > 0) == (norm == "instance")
    assert affine < 6500  # scale and shift of each norm, which the published one lacks


def predictions(output: FrustumOutput) -> dict[str, torch.Tensor]:
    return {
        "occupancy": output.occupancy,
        "embeds": output.embeds,
        "half": output.half.occupancy.features,
        "half_coords": output.half.occupancy.coords[:, 1:],
        "half_embeds": output.half.embeds.features,
        "full": output.full.occupancy.features,
        "full_embeds": output.full.embeds.features,
        "geometry": output.geometry.features,
        "geometry_coords": output.geometry.coords[:, 1:],
    }


def image_of(x: SparseTensor, image: int) -> SparseTensor:
    here = x.coords[:, 0] == image
    coords = x.coords[here].clone()
    coords[:, 0] = 0
    return SparseTensor(x.features[here], Sites(coords, x.side, 1))


def alone(inputs: FrustumInputs, image: int) -> FrustumInputs:
    return FrustumInputs(
        *(image_of(x, image) for x in inputs[:4]), [image_of(x, image) for x in inputs.scales]
    )


@pytest.mark.parametrize(("training", "multi_scale"), [(False, False), (True, True)])
@torch.no_grad()
def test_a_batch_of_two_is_two_images(training: bool, multi_scale: bool) -> None:
    inputs, queries, frusta = room(2, multi_scale=multi_scale)
    decoder = small_decoder(multi_scale=multi_scale).train(training)
    both = decoder(inputs, queries, frusta)
    ones = [
        decoder(alone(inputs, image), queries[image : image + 1], frusta[image : image + 1])
        for image in (0, 1)
    ]
    found = predictions(both)
    for name, first in predictions(ones[0]).items():
        expected = torch.cat([first, predictions(ones[1])[name]])
        torch.testing.assert_close(
            found[name], expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def total(output: FrustumOutput) -> torch.Tensor:
    """Something that every prediction has a part in."""
    found = output.occupancy[output.frustum].sin().mean()
    found = found + torch.einsum("bqc,bcxyz->bqxyz", output.queries, output.embeds).sin().mean()
    for level in (output.half, output.full):
        found = found + level.occupancy.features.sin().mean()
        found = found + (level.embeds.features @ level.queries.flatten(0, 1).t()).sin().mean()
    return found + output.geometry.features.sin().mean()


@pytest.mark.parametrize("norm", ["instance", "voxel"])
def test_recomputing_gives_the_same_gradients_to_every_parameter(norm: str) -> None:
    inputs, queries, frusta = room(multi_scale=True, shared=True)
    table = inputs.appearance.table.requires_grad_()
    found = []
    for recompute in (False, True):
        decoder = small_decoder(norm=norm, multi_scale=True, use_checkpoint=recompute).train()
        table.grad = None
        total(decoder(inputs, queries, frusta)).backward()
        gradients = {name: value.grad for name, value in decoder.named_parameters()}
        assert not [name for name, value in gradients.items() if value is None]
        found.append({**gradients, "table": table.grad.clone()})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6)
        assert value.abs().sum() > 0, name


@torch.no_grad()
def test_shared_features_are_those_of_their_voxels() -> None:
    inputs, queries, frusta = room(2, shared=True)
    decoder = small_decoder()
    spread = inputs._replace(appearance=inputs.appearance.spread())
    found, expected = (predictions(decoder(given, queries, frusta)) for given in (inputs, spread))
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_voxels_stay_inside_the_frustum() -> None:
    inputs, queries, frusta = room(2)
    output = small_decoder()(inputs, queries, frusta)
    image, x, y, z = output.full.occupancy.coords.long().unbind(1)
    assert frusta[image, x, y, z].all()
    image, x, y, z = output.half.occupancy.coords.long().unbind(1)
    assert coarse_frustum(frusta, 2)[image, x, y, z].all()
    assert torch.isneginf(output.occupancy[~output.frustum]).all()
    assert torch.isfinite(output.occupancy[output.frustum]).all()
    assert (output.geometry.features >= 0).all()
    assert (output.geometry.features <= SMALL["truncation"]).all()


@pytest.mark.parametrize("most", [200, 1000, 5000])
def test_no_level_has_more_voxels_than_allowed(most: int) -> None:
    inputs, queries, frusta = room(2, multi_scale=True, shared=True)
    decoder = small_decoder(max_voxels=most, multi_scale=True)
    output = decoder(inputs, queries, frusta)
    pyramid = decoder.encoder(inputs)
    for found in (
        pyramid.half,
        pyramid.quarter,
        output.half.occupancy,
        output.half.embeds,
        output.full.occupancy,
        output.geometry,
    ):
        assert 0 < found.sites.num <= most
    total(output).backward()
    assert all(value.grad is not None for value in decoder.parameters())


@torch.no_grad()
def test_where_nothing_survives_all_voxels_go_on() -> None:
    inputs, queries, frusta = room(2)
    decoder = small_decoder()
    for bias in (
        decoder.coarse.occupancy.bias,
        decoder.middle.occupancy.bias,
        decoder.fine.occupancy.out.bias,
    ):
        bias.fill_(-1000.0)
    output = decoder(inputs, queries, frusta)
    assert (output.occupancy < 0).all()
    assert output.geometry.sites.num == output.full.occupancy.sites.num
    assert output.full.occupancy.sites.num > 10000  # the whole frusta and what is encoded


def test_an_image_without_voxels_or_frustum_is_let_through() -> None:
    inputs, queries, frusta = room(2)
    keep = [x.coords[:, 0] == 0 for x in inputs[:4]]
    parts = [
        SparseTensor(x.features[here], Sites(x.coords[here], x.side, 2))
        for x, here in zip(inputs[:4], keep, strict=True)
    ]
    frusta[1] = False
    decoder = small_decoder()
    output = decoder(FrustumInputs(*parts, []), queries, frusta)
    assert output.geometry.sites.sizes[1] == 0
    assert torch.isneginf(output.occupancy[1]).all()
    total(output).backward()
    assert all(torch.isfinite(value.grad).all() for value in decoder.parameters())
    nothing = [SparseTensor(x.features[:0], Sites(x.coords[:0], x.side, 2)) for x in inputs[:4]]
    empty = decoder(FrustumInputs(*nothing, []), queries, torch.zeros_like(frusta))
    assert empty.geometry.sites.num == 0


def test_half_precision_is_close_and_learns() -> None:
    inputs, queries, frusta = room(shared=True)
    decoder = small_decoder(use_checkpoint=True).train()
    with torch.no_grad():
        exact = decoder(inputs, queries, frusta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = decoder(inputs, queries, frusta)
    inside = output.frustum
    # bfloat16 has 8 bits; logits pass some twenty layers
    assert (output.occupancy[inside] - exact.occupancy[inside]).abs().mean() < 0.1
    assert output.occupancy.dtype == output.geometry.features.dtype == torch.float32
    total(output).backward()
    assert all(torch.isfinite(value.grad).all() for value in decoder.parameters())
