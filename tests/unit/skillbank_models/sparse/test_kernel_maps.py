"""Kernel maps against plain loops over voxels."""

from collections import defaultdict
from itertools import product

import pytest
import torch
from sparse_cases import random_sites

from skillbank.errors import ShapeError
from skillbank_models.sparse import kernel_maps
from skillbank_models.sparse.kernel_maps import (
    KernelMap,
    child_sites,
    coarse_sites,
    scaling_map,
    submanifold_map,
)
from skillbank_models.sparse.tensor import Sites


def met(tables, limit):
    """(own row, other row, tap) of every entry, and how often a row of its own side is named."""
    found, named = set(), defaultdict(int)
    for table in tables:
        own = range(len(table.rows)) if table.into is None else table.into.tolist()
        for row, others in zip(own, table.rows.tolist(), strict=True):
            named[row] += 1
            found |= {(row, o, tap) for o, tap in zip(others, table.taps.tolist(), strict=True) if o != limit}
    assert set(named.values()) <= {1}
    return found, set(named)


def check(found: KernelMap, wanted: set[tuple[int, int, int]]) -> None:
    """`wanted`: (input row, output row, tap)."""
    reads, outputs = met(found.reads, found.num_in)
    feeds, inputs = met(found.feeds, found.num_out)
    assert {(i, o, tap) for o, i, tap in reads} == wanted
    assert feeds == wanted
    assert outputs == set(range(found.num_out))
    assert inputs == set(range(found.num_in))
    pairs, counts, total = found.pairs
    listed = [
        (i, o, tap)
        for tap, count in enumerate(counts.tolist())
        for i, o in zip(pairs[0, tap, :count].tolist(), pairs[1, tap, :count].tolist(), strict=True)
    ]
    assert set(listed) == wanted
    assert len(listed) == total == len(wanted)


def places(sites: Sites) -> dict[tuple[int, ...], int]:
    return {tuple(row): number for number, row in enumerate(sites.coords.tolist())}


@pytest.fixture(params=["table", "search"])
def _both_ways(request, monkeypatch):
    monkeypatch.setattr(kernel_maps, "CELLS_PER_ROW", 10**9 if request.param == "table" else 0)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize(("side", "share"), [(6, 0.2), (4, 1.0), (1, 1.0), (8, 0.0)])
def test_submanifold(side, share):
    sites = random_sites(side, 2, share)
    rows = places(sites)
    wanted = set()
    for (b, x, y, z), out in rows.items():
        for tap, (i, j, k) in enumerate(product((-1, 0, 1), repeat=3)):
            if (b, x + i, y + j, z + k) in rows:
                wanted.add((rows[b, x + i, y + j, z + k], out, tap))
    assert bool(wanted) == (share > 0)
    check(submanifold_map(sites, 3), wanted)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize(("side", "share"), [(6, 0.2), (4, 1.0), (2, 0.5), (8, 0.0)])
def test_scaling_both_ways(kernel, side, share):
    fine = random_sites(side, 2, share)
    coarse = coarse_sites(fine)
    assert places(coarse).keys() == {(b, x // 2, y // 2, z // 2) for b, x, y, z in places(fine)}
    assert coarse.coords.tolist() == sorted(coarse.coords.tolist())
    first = -1 if kernel == 3 else 0
    rows, wanted = places(fine), set()
    for (b, x, y, z), out in places(coarse).items():
        for tap, (i, j, k) in enumerate(product(range(kernel), repeat=3)):
            place = (b, 2 * x + first + i, 2 * y + first + j, 2 * z + first + k)
            if place in rows:
                wanted.add((rows[place], out, tap))
    check(scaling_map(fine, coarse, kernel), wanted)
    check(scaling_map(fine, coarse, kernel).reversed(), {(o, i, tap) for i, o, tap in wanted})


@pytest.mark.parametrize("limited", [False, True])
def test_children(limited):
    coarse = random_sites(4, 2, 0.1)
    within = torch.rand(2, 8, 8, 8) < 0.5 if limited else None
    wanted = set()
    for b, x, y, z in places(coarse):
        for i, j, k in product(range(4), repeat=3):
            place = (2 * x + i, 2 * y + j, 2 * z + k)
            if max(place) < 8 and (within is None or within[b, *place]):
                wanted.add((b, *place))
    fine = child_sites(coarse, within)
    assert fine.side == 8
    assert fine.coords.tolist() == sorted(map(list, wanted))
    assert any(7 in row for row in fine.coords.tolist())


def test_no_children_of_nothing():
    assert child_sites(random_sites(4, 2, 0.0), None).num == 0
    assert child_sites(random_sites(4, 2, 0.5), torch.zeros(2, 8, 8, 8, dtype=torch.bool)).num == 0


def test_maps_are_made_once():
    sites = random_sites()
    assert submanifold_map(sites, 3) is submanifold_map(sites, 3)
    assert coarse_sites(sites) is coarse_sites(sites)


def test_wrong_sizes_are_refused():
    with pytest.raises(ShapeError, match="7 voxels along an axis; it must be even"):
        coarse_sites(random_sites(7))
    with pytest.raises(ShapeError, match=r"\(1, 8, 8, 8\); they must be \(2, 8, 8, 8\)"):
        child_sites(random_sites(4, 2), torch.ones(1, 8, 8, 8, dtype=torch.bool))
