"""EfficientViT: published sizes, odd images, the attention's formula, recomputation."""

import pytest
import torch
from torch import nn

from skillbank_models.layers.efficientvit import ATTENTION_EPS, VARIANTS, EfficientVit, LinearAttention, Style

# timm 1.0.31, without the classification heads
PARAMETERS = {
    "b0": 682608,
    "b1": 4643936,
    "b2": 14977008,
    "b3": 38997440,
    "l0": 27805472,
    "l1": 38037280,
    "l2": 49090208,
    "l3": 193998144,
}
STYLE = Style(1e-5, nn.Hardswish)


def build(name: str = "b0", *, use_checkpoint: bool = False) -> EfficientVit:
    torch.manual_seed(0)
    return EfficientVit(name=name, attention_eps=ATTENTION_EPS, use_checkpoint=use_checkpoint)


def image(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_published_sizes(name):
    with torch.device("meta"):
        net = build(name)
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]
    assert [*net.channels.values()] == [*VARIANTS[name].widths[1:]]
    eps = {module.eps for module in net.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == {1e-7 if name.startswith("l") else 1e-5}


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (33, 130)])
def test_maps_of_any_size(height, width):
    net = build().eval()
    assert net.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    with torch.no_grad():
        maps = net(image(height, width))
    assert [*maps] == ["res2", "res3", "res4", "res5"]
    for name, feature in maps.items():
        stride = net.strides[name]
        assert feature.shape == (2, net.channels[name], -(-height // stride), -(-width // stride))


def by_loops(attention: LinearAttention, qkv: torch.Tensor) -> torch.Tensor:
    """Weights of every pair written out, which the layer never does."""
    d = attention.head_dim
    heads = qkv.flatten(2).unflatten(1, (-1, 3 * d))
    query, key, value = heads[:, :, :d].relu(), heads[:, :, d : 2 * d].relu(), heads[:, :, 2 * d :]
    weights = torch.einsum("bgdi,bgdj->bgij", query, key)
    out = torch.einsum("bgij,bgdj->bgdi", weights, value) / (weights.sum(-1)[:, :, None] + attention.eps)
    return out.flatten(1, 2).unflatten(2, qkv.shape[-2:])


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_attention_is_the_quadratic_one(eps):
    torch.manual_seed(0)
    layer = LinearAttention(24, head_dim=8, style=STYLE, eps=eps).eval()
    x = torch.randn(2, 24, 5, 6)
    with torch.no_grad():
        qkv = layer.qkv(x)
        expected = layer.proj(by_loops(layer, torch.cat([qkv, layer.aggreg[0](qkv)], dim=1)))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_stays_in_full_precision():
    torch.manual_seed(0)
    layer = LinearAttention(16, head_dim=8, style=STYLE, eps=ATTENTION_EPS).eval()
    layer.proj = nn.Identity()
    x = 300.0 * torch.randn(1, 16, 48, 48)  # sums over the map that half precision cannot hold
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        seen = layer(x)
    assert seen.isfinite().all()
    assert seen.dtype == torch.float16


def test_nothing_to_see_gives_zero():
    layer = LinearAttention(16, head_dim=8, style=STYLE, eps=ATTENTION_EPS)
    layer.proj = nn.Identity()
    x = torch.zeros(1, 16, 4, 4, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert not out.any()
    assert x.grad.isfinite().all()


def test_recomputation_gives_the_same_gradients():
    found = []
    for use_checkpoint in (False, True):
        net = build(use_checkpoint=use_checkpoint).train()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t
        ):
            maps = net(image())
        torch.stack([feature.square().sum() for feature in maps.values()]).sum().backward()
        found.append((sum(kept), [parameter.grad for parameter in net.parameters()]))
    (plain, expected), (again, gradients) = found
    assert again < 0.6 * plain
    for mine, other in zip(gradients, expected, strict=True):
        assert torch.equal(mine, other)


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="b9"):
        build("b9")
