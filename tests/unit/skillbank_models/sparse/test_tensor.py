"""Voxels and their channels: order, counts, what is refused, what is kept."""

import pytest
import torch
from sparse_cases import random_sites

from skillbank.errors import ShapeError
from skillbank_models.sparse.tensor import Sites, SparseTensor


def test_voxels_are_sorted_and_unique_by_image_x_y_z():
    rows = torch.tensor([[1, 0, 3, 2], [0, 7, 0, 0], [1, 0, 3, 2], [0, 0, 7, 7], [1, 0, 2, 7]])
    sites = Sites.of(rows, 8, 3)
    assert sites.coords.tolist() == [[0, 0, 7, 7], [0, 7, 0, 0], [1, 0, 2, 7], [1, 0, 3, 2]]
    assert sites.coords.dtype == torch.int32
    assert (sites.num, sites.sizes, sites.counts.tolist()) == (4, [2, 2, 0], [2, 2, 0])
    again = Sites(sites.coords, 8, 3)
    assert torch.equal(again.keys, sites.keys)
    assert again.keys.tolist() == sorted(again.keys.tolist())


def test_keys_do_not_overflow():
    corner = torch.tensor([[399, 255, 255, 255]])
    assert Sites.of(corner, 256, 400).keys.tolist() == [400 * 256**3 - 1]
    assert Sites.of(corner, 256, 400).coords.tolist() == corner.tolist()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([2, 0, 0, 0], "images 0..1"),
        ([0, 8, 0, 0], r"to \[0, 8, 0, 0\]"),
        ([0, 0, 0, -1], "places 0..7"),
        ([-1, 0, 0, 0], "images 0..1"),
    ],
)
def test_a_voxel_outside_is_refused(row, told):
    with pytest.raises(ShapeError, match=told) as caught:
        Sites.of(torch.tensor([row, [0, 0, 0, 0]]), 8, 2)
    assert "drop voxels" in caught.value.hint


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(N, 4\)"):
        Sites.of(torch.zeros(3, 3, dtype=torch.int32), 8, 1)
    with pytest.raises(ShapeError, match=r"int64.*\(N, 4\) int32"):
        Sites(torch.zeros(3, 4, dtype=torch.int64), 8, 1)
    sites = random_sites()
    with pytest.raises(ShapeError, match=rf"\(3, 2\) for {sites.num} voxels"):
        SparseTensor(torch.zeros(3, 2), sites)


def test_no_voxel_at_all():
    sites = Sites.of(torch.zeros(0, 4), 8, 2)
    assert (sites.num, sites.sizes) == (0, [0, 0])
    assert Sites.of(torch.zeros(0, 4), 8, 1).sizes == [0]
    x = SparseTensor(torch.zeros(0, 5), sites)
    assert (x.coords.shape, x.side, x.batch_size) == ((0, 4), 8, 2)


def test_what_follows_from_voxels_is_made_once():
    sites, made = random_sites(), []
    for _ in range(3):
        sites.kept("name", lambda: made.append(1))
    assert made == [1]


def test_what_is_kept_in_inference_serves_in_training():
    sites = random_sites()
    with torch.inference_mode():
        kept = sites.kept("rows", lambda: torch.arange(3))
    assert not kept.is_inference()


def test_moving_to_where_it_is_keeps_what_is_known():
    sites = random_sites()
    assert sites.to("cpu") is sites
    x = SparseTensor(torch.zeros(sites.num, 2), sites)
    assert x.to("cpu").sites is sites
    moved = x.to("meta")
    assert (moved.features.device.type, moved.sites.device.type, moved.side) == ("meta", "meta", 8)
