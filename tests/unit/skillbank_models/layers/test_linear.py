"""The linear layer: same numbers and gradients as torch's, whichever way it takes."""

import pytest
import torch
from torch.nn import functional as F

from skillbank_models.layers.linear import MIN_ROWS, Linear, linear, summed_outer_products


@pytest.mark.parametrize("shape", [(2, 40, 24), (1, 24), (MIN_ROWS, 24), (3, 5, 7, 24), (0, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_same_as_torch(shape, has_bias):
    x, weight = torch.randn(shape), torch.randn(16, 24)
    bias = torch.randn(16) if has_bias else None
    # relative to sums of 24 products of order one
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_gradients_and_memory_layout():
    x = torch.randn(4, 50, 24).transpose(0, 1).requires_grad_()
    layer = Linear(24, 16)
    pull = torch.randn(50, 4, 16)
    found = layer(x)
    assert found.is_contiguous()
    ours = torch.autograd.grad(found, [x, layer.weight, layer.bias], pull)
    theirs = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), [x, layer.weight, layer.bias], pull)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


def test_other_numbers_take_the_ordinary_way():
    layer = Linear(24, 16)
    assert layer.double()(torch.randn(64, 24, dtype=torch.float64)).dtype == torch.float64
    layer = Linear(24, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(64, 24)).dtype == torch.bfloat16
    assert [*layer.state_dict()] == ["weight", "bias"]
    assert isinstance(layer, torch.nn.Linear)


def test_weights_of_another_type_bring_their_own_product():
    class Counted(torch.Tensor):
        """Stands for a quantised or sharded weight."""

        products = 0

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.products += function is F.linear
            return super().__torch_function__(function, types, args, kwargs)

    out = linear(torch.randn(64, 24), torch.randn(16, 24).as_subclass(Counted), None)
    assert Counted.products == 1
    assert out.shape == (64, 16)


@pytest.mark.parametrize("rows", [0, 5, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_summed_outer_products(rows, dtype):
    x, y = torch.randn(rows, 6).to(dtype), torch.randn(rows, 2, 24).to(dtype)[:, 1]
    found = summed_outer_products(x, y)
    assert (found.shape, found.dtype) == ((6, 24), dtype)
    wanted = torch.einsum("rc,rd->cd", x.double(), y.double())
    # sums of 200 products of order one; 8 bits in bfloat16
    close = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), wanted, rtol=close, atol=10 * close)
