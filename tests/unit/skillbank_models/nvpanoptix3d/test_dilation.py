import pytest
import torch
from scipy.ndimage import binary_dilation

from skillbank_models.nvpanoptix3d.dilation import dilate


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("shape", [(9, 7, 8), (1, 6, 2), (5, 1, 1)])
def test_a_cube_around_each_cell(shape, radius):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.04
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    before = mask.clone()
    size = 2 * radius + 1
    wanted = binary_dilation(mask.numpy(), torch.ones(size, size, size).numpy())
    found = dilate(mask, radius, axes=3)
    assert torch.equal(found, torch.from_numpy(wanted))
    assert torch.equal(mask, before)


def test_images_do_not_mix():
    mask = torch.zeros(2, 5, 5, dtype=torch.bool)
    mask[0, 2, 2] = True
    grown = dilate(mask, 1, axes=2)
    assert grown[0].sum() == 9
    assert not grown[1].any()
