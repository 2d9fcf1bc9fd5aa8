"""Unions, pruning, dense volumes, look-ups, pooling and the cap on voxels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_cases import random_sites, random_tensor, values_at

from skillbank.errors import ShapeError
from skillbank_models.sparse import functional
from skillbank_models.sparse.functional import (
    from_dense,
    keep_best,
    lookup,
    max_pool,
    prune,
    sample_dense,
    to_dense,
    union,
)
from skillbank_models.sparse.tensor import Sites, SparseTensor

FEW = settings(max_examples=15, deadline=None, derandomize=True)
shares = st.sampled_from([0.0, 0.01, 0.2, 1.0])


@FEW
@given(shares, shares, shares)
def test_union_adds_dense_volumes_channel_by_channel(first, second, third):
    parts = [
        random_tensor(random_sites(4, 2, share, seed), 2 + seed)
        for seed, share in enumerate([first, second, third])
    ]
    both = union(parts)
    assert torch.equal(to_dense(both), torch.cat([to_dense(part) for part in parts], 1))
    wanted = {tuple(row) for part in parts for row in part.coords.tolist()}
    assert both.coords.tolist() == sorted(map(list, wanted))
    pull = torch.randn_like(both.features)
    grads = torch.autograd.grad((both.features * pull).sum(), [part.features for part in parts])
    start = 0
    for part, grad in zip(parts, grads, strict=True):
        width = part.features.shape[1]
        rows = lookup(both.sites, part.coords)
        assert torch.equal(grad, pull[rows, start : start + width])
        start += width


def test_union_of_the_same_voxels_shares_them():
    sites = random_sites()
    both = union([random_tensor(sites, 2), random_tensor(sites, 3)])
    assert both.sites is sites
    assert both.features.shape == (sites.num, 5)


def test_union_of_other_levels_is_refused():
    with pytest.raises(ShapeError, match=r"\[\(8, 2\), \(4, 2\)\]"):
        union([random_tensor(random_sites(8), 1), random_tensor(random_sites(4), 1)])


def test_prune():
    x = random_tensor(random_sites(), 3)
    keep = torch.rand(x.sites.num) < 0.4
    out = prune(x, keep)
    assert 0 < out.sites.num < x.sites.num
    assert torch.equal(out.coords, x.coords[keep])
    assert torch.equal(out.features, x.features[keep])
    assert prune(x, torch.zeros_like(keep)).features.shape == (0, 3)


@FEW
@given(shares, st.booleans())
def test_dense_and_back(share, last):
    sites = random_sites(4, 2, share)
    x = random_tensor(sites, 3)
    dense = to_dense(x)
    assert torch.equal(values_at(dense, sites.coords) if sites.num else x.features, x.features)
    assert dense.count_nonzero() == 3 * sites.num
    keep = to_dense(SparseTensor(torch.ones(sites.num, 1), sites))[:, 0].bool()
    if last:
        dense = dense.contiguous(memory_format=torch.channels_last_3d)
    back = from_dense(dense, keep)
    assert torch.equal(back.coords, sites.coords)
    assert torch.equal(back.features, x.features)
    pull = torch.randn_like(x.features)
    (grad,) = torch.autograd.grad((back.features * pull).sum(), [x.features])
    assert torch.equal(grad, pull)


def test_sample_dense():
    sites, volume = random_sites(4), torch.randn(2, 3, 4, 4, 4)
    assert torch.equal(sample_dense(volume, sites), values_at(volume, sites.coords))
    assert torch.equal(sample_dense(volume[:, 0], sites), values_at(volume, sites.coords)[:, 0])
    with pytest.raises(ShapeError, match=r"\(1, 4, 4, 4\).*side=4, batch_size=2"):
        sample_dense(volume[:1, 0], sites)


def test_lookup():
    sites = random_sites(4, 2, 0.4)
    every = torch.cartesian_prod(torch.arange(-1, 3), *[torch.arange(-2, 6)] * 3)
    rows = lookup(sites, every)
    known = {tuple(row): number for number, row in enumerate(sites.coords.tolist())}
    assert rows.tolist() == [known.get(tuple(row), -1) for row in every.tolist()]
    assert lookup(random_sites(4, 2, 0.0), every[:5]).tolist() == [-1] * 5
    assert lookup(sites, every[:0]).shape == (0,)


@FEW
@given(shares, st.sampled_from([3, 4]), st.integers(0, 99))
def test_max_pool_is_the_dense_one_over_present_voxels(share, kernel, seed):
    sites = random_sites(8, 2, share, seed)
    x = random_tensor(sites, 3, seed)
    dense = torch.full((2, 3, 8, 8, 8), -torch.inf, dtype=torch.float64)
    image, i, j, k = sites.coords.long().unbind(1)
    dense[image, :, i, j, k] = x.features
    before, behind = (1, 0) if kernel == 3 else (0, 2)
    wanted = F.max_pool3d(F.pad(dense, (before, behind) * 3, value=-torch.inf), kernel, 2)
    out = max_pool(x, kernel=kernel)
    assert out.side == 4
    at = [column.long() for column in out.coords.unbind(1)]
    theirs = wanted[at[0], :, at[1], at[2], at[3]]
    assert torch.equal(out.features, theirs)
    pull = torch.randn_like(theirs)
    ours, other = (torch.autograd.grad((y * pull).sum(), [x.features])[0] for y in (out.features, theirs))
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)  # sums of up to 8 numbers


def test_max_pool_in_blocks_and_of_minus_infinity(monkeypatch):
    x = random_tensor(random_sites(8, 2, 0.3), 3)
    whole = max_pool(x).features
    monkeypatch.setattr(functional, "POOL_BLOCK", 500)
    assert torch.equal(max_pool(x).features, whole)
    nothing = x.with_features(torch.full_like(x.features, -torch.inf))
    assert (max_pool(nothing).features == -torch.inf).all()


def test_keep_best():
    sites = Sites.of(torch.tensor([[0, 0, 0, z] for z in range(6)]), 8, 1)
    scores = torch.tensor([0.5, 2.0, -1.0, 2.0, 0.5, 0.1])
    assert keep_best(scores, sites, 2).tolist() == [False, True, False, True, False, False]
    assert keep_best(scores, sites, 3).tolist() == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]  # the first of equals
    assert keep_best(scores, sites, 6).all()
    assert keep_best(scores, sites, 100).all()
    assert keep_best(scores[:0], random_sites(8, 2, 0.0), 3).shape == (0,)


def test_an_image_keeps_the_same_whatever_is_beside_it():
    alone = Sites.of(torch.tensor([[0, 0, 0, z] for z in range(6)]), 8, 1)
    both = Sites.of(torch.tensor([[image, 0, 0, z] for image in (0, 1) for z in range(6)]), 8, 2)
    scores = torch.tensor([0.5, 2.0, -1.0, 2.0, 0.5, 0.1])
    for others in (scores + 100, scores - 100):
        found = keep_best(torch.cat([others, scores]), both, 5)
        assert found[6:].tolist() == keep_best(scores, alone, 2).tolist()
        assert int(found[:6].sum()) == 2
