"""Which voxels go on: the cap on children counts exactly what a generative convolution would make."""

import pytest
import torch

from skillbank_models.nvpanoptix3d.frustum_pruning import (
    affordable_parents,
    capped,
    coarse_frustum,
    survivors,
)
from skillbank_models.sparse.functional import prune
from skillbank_models.sparse.layers import GenerativeConv3d
from skillbank_models.sparse.tensor import Sites, SparseTensor

SIDE = 8


def parents(images: int = 2, seed: int = 0) -> tuple[SparseTensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(images, SIDE, SIDE, SIDE, generator=random) > 0.8
    sites = Sites.of(chosen.nonzero(), SIDE, images)
    scores = torch.randn(sites.num, generator=random)
    scores[::7] = -torch.inf  # as of encoded voxels that nothing was predicted for
    within = torch.rand(images, *(2 * SIDE,) * 3, generator=random) > 0.3
    return SparseTensor(torch.randn(sites.num, 3, generator=random), sites), scores, within


def children(x: SparseTensor, within: torch.Tensor) -> int:
    layer = GenerativeConv3d(in_channels=3, out_channels=1, kernel=4, stride=2, bias=False)
    return layer(x, within=within).sites.num


@pytest.mark.parametrize("most", [0, 30, 500, 1500, 3000])
def test_as_many_best_parents_as_their_children_fit(most: int) -> None:
    x, scores, within = parents()
    keep = affordable_parents(x.sites, scores, within, most)
    assert keep is not None
    for image in range(2):
        here = x.coords[:, 0] == image
        order = torch.where(here, scores, -torch.inf).argsort(descending=True, stable=True)
        order = order[here[order]]
        number = int(keep[here].sum())
        assert keep[order[:number]].all()  # the best ones
        assert children(prune(x, keep & here), within) <= most // 2
        more = torch.zeros_like(keep)
        more[order[: number + 1]] = True
        assert children(prune(x, more), within) > most // 2  # one more would be too many


def test_all_parents_when_there_is_room() -> None:
    x, scores, within = parents()
    assert affordable_parents(x.sites, scores, within, 2 * 64 * x.sites.num) is None
    room = max(children(prune(x, x.coords[:, 0] == image), within) for image in range(2))
    keep = affordable_parents(x.sites, scores, within, 2 * room)
    assert keep is not None
    assert keep.all()


def test_survivors_are_the_likely_ones_or_all_of_an_image() -> None:
    sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 1]]), 4, 3)
    assert survivors(torch.tensor([0.1, 0.0, -1.0, -2.0]), sites).tolist() == [True, False, True, True]


def test_the_best_are_kept_with_their_scores() -> None:
    x, scores, _ = parents(images=1)
    kept, values = capped(x, scores, 5)
    assert sorted(values.tolist(), reverse=True) == scores.sort(descending=True).values[:5].tolist()
    assert kept.sites.num == 5
    same, all_of_them = capped(x, scores, x.sites.num)
    assert same is x
    assert all_of_them is scores


@pytest.mark.parametrize("factor", [2, 4])
def test_a_cell_is_inside_with_any_of_its_voxels(factor: int) -> None:
    frusta = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    frusta[0, 7, 3, 0] = frusta[1, 4, 4, 4] = True
    expected = torch.zeros(2, *(8 // factor,) * 3, dtype=torch.bool)
    expected[0, 7 // factor, 3 // factor, 0] = expected[1, 4 // factor, 4 // factor, 4 // factor] = True
    assert torch.equal(coarse_frustum(frusta, factor), expected)
