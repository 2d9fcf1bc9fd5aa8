"""Both backends give the same, the choice between them, and what is told where spconv is absent."""

import importlib.util
import sys

import pytest
import torch
from sparse_cases import random_sites, random_tensor

from skillbank.errors import BackendError, InvalidValueError, RuntimeMissingError
from skillbank_models.sparse import backend, spconv_backend
from skillbank_models.sparse.backend import convolution, use_backend
from skillbank_models.sparse.kernel_maps import coarse_sites, scaling_map, submanifold_map
from skillbank_models.sparse.layers import GenerativeConv3d, StridedConv3d, SubmanifoldConv3d

needs_spconv = pytest.mark.skipif(
    importlib.util.find_spec("spconv") is None, reason="spconv is not installed (extra sparse-cpu)"
)
LAYERS = {
    "submanifold": lambda: SubmanifoldConv3d(in_channels=5, out_channels=7, bias=True),
    "strided 3": lambda: StridedConv3d(in_channels=5, out_channels=7, kernel=3),
    "strided 4": lambda: StridedConv3d(in_channels=5, out_channels=7, kernel=4, bias=True),
    "generative": lambda: GenerativeConv3d(in_channels=5, out_channels=7),
}


@pytest.fixture
def _spconv_forgotten():
    spconv_backend._operators.cache_clear()
    yield
    spconv_backend._operators.cache_clear()


def forward_backward(layer, x, pull):
    out = layer(x)
    return [
        out.features,
        *torch.autograd.grad((out.features * pull).sum(), [x.features, *layer.parameters()]),
    ]


@needs_spconv
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("share", [0.0, 0.002, 0.2, 1.0])
@pytest.mark.parametrize("threads", [1, 4])
def test_spconv_equals_torch(name, share, threads):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = random_tensor(random_sites(16, 2, share), 5, dtype=torch.float32)
    pull = torch.randn_like(layer(x).features)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with use_backend("torch"):
            wanted = forward_backward(layer, x, pull)
        with use_backend("spconv"):
            found = forward_backward(layer, x, pull)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(wanted, found, strict=True):
        scale = max(1.0, ours.abs().max().item()) if ours.numel() else 1.0
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-5)


@needs_spconv
def test_spconv_under_autocast_keeps_the_dtype():
    layer, x = LAYERS["submanifold"](), random_tensor(random_sites(), 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), use_backend("spconv"):
        out = layer(x).features
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(out, layer(x).features, rtol=0.02, atol=0.02)  # roundings to 8 bits
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@needs_spconv
def test_spconv_refuses_float64():
    layer, x = LAYERS["submanifold"]().double(), random_tensor(random_sites(), 5)
    with use_backend("spconv"), pytest.raises(BackendError, match="float64") as caught:
        layer(x)
    assert 'use_backend("torch")' in caught.value.hint


@needs_spconv
def test_the_choice_is_heard_and_ends_with_the_block(monkeypatch):
    asked = []
    for name in ("gather_convolution", "spconv_convolution"):
        form = getattr(backend, name)
        monkeypatch.setattr(backend, name, lambda *a, form=form, name=name: asked.append(name) or form(*a))
    layer, x = LAYERS["submanifold"](), random_tensor(random_sites(), 5, dtype=torch.float32)
    with use_backend("spconv"):
        layer(x)
        with use_backend("torch"):
            layer(x)
        layer(x)
    layer(x)
    spconv, plain = "spconv_convolution", "gather_convolution"
    assert asked == [spconv, plain, spconv, plain]  # measured on a CPU: auto takes the torch form


@pytest.mark.usefixtures("_spconv_forgotten")
def test_absent_spconv_names_the_extras(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match="spconv is asked for, but not installed") as caught:
        use_backend("spconv").__enter__()
    assert "sparse-cpu" in caught.value.hint
    assert "sparse-cuda" in caught.value.hint
    assert backend._asked == ["auto"]


@needs_spconv
@pytest.mark.usefixtures("_spconv_forgotten")
def test_a_broken_spconv_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    with pytest.raises(BackendError, match=r"cannot be loaded: .*spconv\.pytorch") as caught:
        use_backend("spconv").__enter__()
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_unknown_backend_is_refused():
    with pytest.raises(InvalidValueError, match="'minkowski' is not allowed; use one of auto, spconv, torch"):
        use_backend("minkowski").__enter__()


@pytest.mark.parametrize("kind", ["submanifold", "down", "up"])
def test_gradients_by_differences(kind):
    fine = random_sites(4, 2, 0.1)
    coarse = coarse_sites(fine)
    maps = {
        "submanifold": lambda: submanifold_map(fine, 3),
        "down": lambda: scaling_map(fine, coarse, 4),
        "up": lambda: scaling_map(fine, coarse, 4).reversed(),
    }
    kernel_map = maps[kind]()
    x = torch.randn(kernel_map.num_in, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel_map.taps, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: convolution(*a, kernel_map), (x, weight, bias))
