"""Targets of the levels against torch's own pooling and resizing of the whole volume."""

import pytest
import torch
import torch.nn.functional as F

from skillbank_models.nvpanoptix3d.batch import VolumeTarget
from skillbank_models.nvpanoptix3d.volume_targets import interpolated, labelled_voxels, masks_at, values_at

SIDE = 16


@pytest.fixture
def target() -> VolumeTarget:
    random = torch.Generator().manual_seed(3)
    owner = torch.randint(-400, 4, (SIDE,) * 3, generator=random).clamp(min=0)
    owner[0, 0, 0] = owner[-1, -1, -1] = owner[0, -1, 7] = 2  # corners reach cells beyond the grid
    return VolumeTarget(
        torch.rand(SIDE, SIDE, SIDE, generator=random) * 12,
        torch.randint(0, 200, (SIDE,) * 3, generator=random, dtype=torch.uint8),
        owner.to(torch.int16),
    )


def every_cell(side: int) -> torch.Tensor:
    return torch.ones(side, side, side).nonzero()


@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize("name", ["distance", "weighting"])
def test_reduced_values_are_those_of_interpolate(target: VolumeTarget, name: str, reduction: int) -> None:
    volume = getattr(target, name)
    side = SIDE // reduction
    expected = F.interpolate(
        volume.float()[None, None], scale_factor=1 / reduction, mode="trilinear", align_corners=True
    )
    coords = every_cell(side)
    assert expected.shape[-1] == side
    # 200 levels, eight products of rounded shares
    torch.testing.assert_close(values_at(volume, coords, side), expected.flatten(), rtol=0, atol=2e-4)


def test_values_of_the_own_side_are_read_as_they_are(target: VolumeTarget) -> None:
    coords = torch.tensor([[0, 1, 2], [15, 15, 15], [3, 0, 9]], dtype=torch.int16)
    found = values_at(target.weighting, coords, SIDE)
    expected = [target.weighting[0, 1, 2], target.weighting[15, 15, 15], target.weighting[3, 0, 9]]
    assert found.tolist() == [float(value) for value in expected]
    assert found.dtype == torch.float32


def test_the_last_cell_reads_the_last_voxel(target: VolumeTarget) -> None:
    corner = interpolated(target.distance, torch.tensor([[3, 3, 3]]), 4)
    assert corner.item() == pytest.approx(float(target.distance[-1, -1, -1]), abs=1e-5)


@pytest.mark.parametrize(("side", "pool"), [(8, (4, 2, 1)), (4, (8, 4, 2)), (16, (1, 1, 0))])
def test_coarse_masks_are_max_pooled(target: VolumeTarget, side: int, pool: tuple[int, int, int]) -> None:
    rows = torch.tensor([2, 0, 1])
    fine = torch.stack([target.owner == row + 1 for row in rows]).float()
    kernel, stride, padding = pool
    expected = F.max_pool3d(fine[:, None], kernel, stride, padding)[:, 0].bool()
    coords = every_cell(side)[torch.randperm(side**3, generator=torch.Generator().manual_seed(0))]
    found = masks_at(labelled_voxels(target), coords, side, rows)
    x, y, z = coords.unbind(1)
    assert torch.equal(found, expected[:, x, y, z])
    assert 0 < found.sum() < found.numel()


def test_masks_at_some_voxels_and_without_some_masks(target: VolumeTarget) -> None:
    coords = torch.tensor([[1, 1, 1], [0, 0, 0], [7, 7, 7]])
    everywhere = masks_at(labelled_voxels(target), every_cell(8), 8, torch.tensor([1]))
    found = masks_at(labelled_voxels(target), coords, 8, torch.tensor([9, 1]))
    assert not found[0].any()  # a mask of the image without a voxel
    assert found[1].tolist() == [bool(everywhere[0, (x * 8 + y) * 8 + z]) for x, y, z in coords.tolist()]


def test_an_empty_room_has_no_masks() -> None:
    empty = VolumeTarget(
        torch.full((8, 8, 8), 12.0),
        torch.ones(8, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, 8, dtype=torch.int16),
    )
    found = masks_at(labelled_voxels(empty), every_cell(4), 4, torch.tensor([0, 1]))
    assert found.shape == (2, 64)
    assert not found.any()
    assert masks_at(labelled_voxels(empty), every_cell(4)[:0], 4, torch.tensor([0])).shape == (1, 0)
