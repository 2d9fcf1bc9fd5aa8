"""Tables: resizing as the operator does it, waves in every precision, kept tensors that training can use."""

import pytest
import torch
from torch.nn import functional as F

from skillbank_models.nvpanoptix3d.vggt.tables import add_uv_waves, resizing_matrix

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("old", "new"), [(37, 26), (37, 32), (37, 37), (8, 3), (8, 1), (5, 14), (1, 4), (3, 100)]
)
def test_resizing_matrix_is_the_antialiased_operator(old, new):
    maps = torch.randn(1, 6, old, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps, size=(new, 7), mode="bicubic", antialias=True)
    matrix = resizing_matrix(old, new, dtype=torch.float64, device=CPU)
    assert matrix.shape == (new, old)
    # the operator computes its weights in float64, too; sums in another order
    torch.testing.assert_close(matrix @ maps, expected, rtol=0, atol=1e-12)


def test_waves_keep_the_precision_of_the_map():
    plain = add_uv_waves(torch.zeros(2, 8, 3, 5, dtype=torch.float64), aspect=1.5)
    for dtype, allowed in ((torch.float32, 1e-8), (torch.bfloat16, 5e-4)):  # of numbers up to 0.1
        found = add_uv_waves(torch.zeros(2, 8, 3, 5, dtype=dtype), aspect=1.5)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), plain, rtol=0, atol=allowed)
    assert plain.abs().max() <= 0.1
    across, down = plain[0, :4], plain[0, 4:]
    torch.testing.assert_close(across, across[:, :1].expand_as(across))
    torch.testing.assert_close(down, down[:, :, :1].expand_as(down))
    assert not torch.equal(across[:, :, 0], across[:, :, 1])
    assert not torch.equal(down[:, 0], down[:, 1])


def test_what_inference_made_serves_training():
    x = torch.ones(1, 4, 7, 9, requires_grad=True)
    with torch.inference_mode():
        add_uv_waves(torch.ones(1, 4, 7, 9), aspect=0.77)
    add_uv_waves(x, aspect=0.77).square().sum().backward()
    assert x.grad is not None
