"""The merge in 3D against a literal one that holds a mask of the whole grid for each query."""

import numpy as np
import pytest
import torch

from skillbank_models.nvpanoptix3d import assembly
from skillbank_models.nvpanoptix3d.assembly import AssembledVolume, assemble
from skillbank_models.nvpanoptix3d.outputs import FrustumLevel, FrustumOutput
from skillbank_models.sparse.tensor import Sites, SparseTensor

SIDE, QUERIES, CLASSES, TRUNCATION = 8, 9, 5, 3.0
IS_THING = (False, True, True, False, False)


def output_of(coords: torch.Tensor, distances: torch.Tensor, embeds: torch.Tensor, queries: torch.Tensor):
    """An output in which only what the merge reads means something."""
    images = len(queries)
    sites = Sites(coords, SIDE, images)
    level = FrustumLevel(SparseTensor(distances, sites), SparseTensor(embeds, sites), queries)
    nothing = torch.zeros(images, 0)
    return FrustumOutput(nothing, nothing, nothing, nothing, level, level, SparseTensor(distances, sites))


def random_case(seed: int, images: int = 1):
    random = torch.Generator().manual_seed(seed)
    occupied = torch.rand(images, SIDE, SIDE, SIDE, generator=random) > 0.6
    coords = occupied.nonzero().int()
    output = output_of(
        coords,
        torch.rand(len(coords), 1, generator=random) * 3,
        torch.randn(len(coords), 4, generator=random),
        torch.randn(images, QUERIES, 4, generator=random) - 0.3,
    )
    logits = torch.randn(images, QUERIES, CLASSES + 1, generator=random) * 3
    return output, logits


def literal_merge(output: FrustumOutput, class_logits: torch.Tensor, image: int, threshold: float):
    """Step by step as the rules are written down, on full grids."""
    here = output.geometry.coords[:, 0] == image
    places = tuple(output.geometry.coords[here, 1:].long().t())
    geometry = torch.full((SIDE,) * 3, TRUNCATION)
    geometry[places] = output.geometry.features[here, 0]
    shares = torch.zeros(QUERIES, SIDE, SIDE, SIDE)
    for query in range(QUERIES):
        shares[(query, *places)] = torch.sigmoid(
            output.full.embeds.features[here] @ output.full.queries[image, query]
        )
    scores, labels = class_logits[image].softmax(-1).max(-1)
    kept = [
        query
        for query in range(QUERIES)
        if int(labels[query]) not in (0, CLASSES) and float(scores[query]) > threshold
    ]
    panoptic, semantic = torch.zeros((SIDE,) * 3).int(), torch.zeros((SIDE,) * 3).int()
    near: dict[tuple[int, ...], set[int]] = {}
    segment_of: dict[int, int] = {}
    class_of: dict[int, int] = {}
    stuff: dict[int, int] = {}
    if kept:
        is_voxel = torch.zeros((SIDE,) * 3, dtype=torch.bool)
        is_voxel[places] = True
        owner = torch.stack([scores[query] * shares[query] for query in kept]).argmax(0)
        for number, query in enumerate(kept):
            mask = is_voxel & (owner == number) & (shares[query] >= 0.5)
            if not mask.any():
                continue
            label = int(labels[query])
            if IS_THING[label] or label not in stuff:
                class_of[len(class_of) + 1] = label
                segment_of[query] = len(class_of)
                if not IS_THING[label]:
                    stuff[label] = len(class_of)
            else:
                segment_of[query] = stuff[label]
            panoptic[mask] = segment_of[query]
        sure = panoptic.clone()
        have = (sure > 0).nonzero()
        for place in (is_voxel & (sure == 0) & (geometry <= 1.5)).nonzero():
            away = (have - place).square().sum(1)
            if len(have) and away.min() <= 3.5**2:
                # of several at the same distance any will do
                near.setdefault(
                    tuple(place.tolist()), {int(sure[tuple(x)]) for x in have[away == away.min()]}
                )
                panoptic[tuple(place)] = min(near[tuple(place.tolist())])
    for number, label in class_of.items():
        semantic[panoptic == number] = label
    return geometry, semantic, panoptic, class_of, near


def assembled(output: FrustumOutput, logits: torch.Tensor, threshold: float) -> list[AssembledVolume]:
    return assemble(output, logits, is_thing=IS_THING, object_mask_threshold=threshold, truncation=TRUNCATION)


@pytest.mark.parametrize("at_once", [16, 2**22])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_literal_merge(monkeypatch: pytest.MonkeyPatch, seed: int, at_once: int) -> None:
    monkeypatch.setattr(assembly, "PAIRS_AT_ONCE", at_once)
    output, logits = random_case(seed, images=2)
    for image, found in enumerate(assembled(output, logits, 0.4)):
        geometry, semantic, panoptic, class_of, near = literal_merge(output, logits, image, 0.4)
        assert np.array_equal(found.geometry, geometry.numpy())
        for place, allowed in near.items():
            assert int(found.panoptic[place]) in allowed
            panoptic[place] = int(found.panoptic[place])
            semantic[place] = class_of[int(found.panoptic[place])]
        assert np.array_equal(found.panoptic, panoptic.numpy())
        assert np.array_equal(found.semantic, semantic.numpy())
        assert {segment.id: segment.label for segment in found.segments} == class_of
        assert all(segment.is_thing == IS_THING[segment.label] for segment in found.segments)
        assert found.panoptic.dtype == found.semantic.dtype == np.int32
        assert found.geometry.dtype == np.float32


def one_line(shares: list[list[float]], distances: list[float]) -> FrustumOutput:
    """Voxels in a line; `shares` holds the mask probabilities of each query there."""
    number = len(distances)
    coords = torch.tensor([[0, 0, 0, place] for place in range(number)]).int()
    embeds = torch.eye(number)
    return output_of(coords, torch.tensor(distances)[:, None], embeds, torch.tensor([shares]).logit())


def certain(*labels: int) -> torch.Tensor:
    """Class logits of nearly certain queries."""
    return torch.nn.functional.one_hot(torch.tensor([labels]), CLASSES + 1).float() * 20


def test_weak_voxels_near_a_surface_follow_the_nearest_segment() -> None:
    output = one_line([[0.9, 0.4, 0.4, 0.1, 0.4], [0.1, 0.1, 0.1, 0.3, 0.1]], [0.5, 1.5, 1.6, 0.2, 0.2])
    (found,) = assembled(output, certain(1, 2), 0.5)
    # the third is too far from a surface, the last from a voxel that is sure
    assert found.panoptic[0, 0, :6].tolist() == [1, 1, 0, 1, 0, 0]
    assert found.semantic[0, 0, :6].tolist() == [1, 1, 0, 1, 0, 0]
    assert [(segment.id, segment.query) for segment in found.segments] == [(1, 0)]


def test_stuff_of_one_class_is_one_segment_and_things_are_many() -> None:
    output = one_line(
        [[0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.1], [0.1, 0.1, 0.1, 0.9]], [0.0] * 4
    )
    (found,) = assembled(output, certain(3, 1, 3, 1), 0.5)
    assert found.panoptic[0, 0, :4].tolist() == [1, 2, 1, 3]
    assert [(segment.label, segment.query) for segment in found.segments] == [(3, 0), (1, 1), (1, 3)]


@pytest.mark.parametrize("label", [0, CLASSES])
def test_void_and_no_object_make_no_segment_and_take_no_voxel(label: int) -> None:
    output = one_line([[0.99, 0.99], [0.6, 0.6]], [0.1, 0.2])
    (found,) = assembled(output, certain(label, 2), 0.5)
    assert found.panoptic[0, 0, :2].tolist() == [1, 1]
    assert [segment.label for segment in found.segments] == [2]


def test_an_image_without_voxels_or_queries_is_empty_space() -> None:
    output, logits = random_case(1, images=2)
    keep = output.geometry.coords[:, 0] == 1
    output = output_of(
        output.geometry.coords[keep],
        output.geometry.features[keep],
        output.full.embeds.features[keep],
        output.full.queries,
    )
    first, second = assembled(output, logits, 1.0)
    assert (first.geometry == TRUNCATION).all()
    assert (second.geometry < TRUNCATION).any()
    for found in (first, second):
        assert not found.panoptic.any()
        assert not found.semantic.any()
        assert found.segments == []
