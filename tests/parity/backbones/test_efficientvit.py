"""EfficientViT against maps that timm and the authors' code computed; see `efficientvit.md`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from formula_weights import formula_weights
from torch import Tensor

from skillbank_models.layers.backbone_weights import to_backbone
from skillbank_models.layers.efficientvit import EfficientVit

GOLDEN = Path(__file__).with_name("efficientvit.npz")
SIZE = (1, 3, 72, 100)
SAMPLES = 150
TOLERANCE = 1e-5  # of the spread of a map: float32 sums in another order, through up to a hundred layers
AUTHORS_EPS = 1e-15
HEAD = {"head.in_conv.conv.weight": (8, 8), "head.classifier.4.bias": (1000,)}


def image() -> Tensor:
    return torch.sin(torch.arange(3 * 72 * 100, dtype=torch.float64) * 0.37).reshape(SIZE).float() * 2.0


def samples(feature: Tensor) -> Tensor:
    flat = feature.flatten().double()
    picked = flat[:: max(len(flat) // SAMPLES, 1)]
    return torch.cat([flat.mean()[None], flat.std()[None], picked])


def worst(net: EfficientVit, source: str) -> float:
    """Largest difference over the four maps, relative to the spread of each."""
    with torch.no_grad():
        maps = net.eval()(image())
    golden = np.load(GOLDEN, allow_pickle=False)
    found = []
    for name, feature in maps.items():
        expected = torch.from_numpy(golden[f"{source}/{name}"]).double()
        found.append(float((samples(feature) - expected).abs().max() / expected[1]))
    assert len(found) == 4
    return max(found)


def shapes(net: EfficientVit) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def empty(name: str, *, eps: float) -> EfficientVit:
    """Without memory, since the formula fills all of it."""
    with torch.device("meta"):
        return EfficientVit(name=name, attention_eps=eps, use_checkpoint=False)  # type: ignore[arg-type]


def of_timm(name: str, *, swap: bool = False) -> EfficientVit:
    net = empty(name, eps=1e-5)
    weights = to_backbone(formula_weights({**shapes(net), **HEAD}), wanted=net.state_dict())
    if swap:
        first, second = (
            "stages.2.blocks.1.context_module.main.aggreg.0.1.weight",
            "stages.2.blocks.2.context_module.main.aggreg.0.1.weight",
        )
        weights[first], weights[second] = weights[second], weights[first]
    net.load_state_dict(weights, strict=True, assign=True)
    return net


@pytest.mark.parametrize(
    "name", ["b0", "b1", "b2", "b3", "l0", "l1", "l2", pytest.param("l3", marks=pytest.mark.slow)]
)
def test_timm_computes_the_same_maps(name: str) -> None:
    assert worst(of_timm(name), f"timm/{name}") < TOLERANCE


def test_two_swapped_weights_would_show() -> None:
    assert worst(of_timm("b0", swap=True), "timm/b0") > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["b0", "b1", "l0"])
def test_the_authors_names_and_maps(name: str) -> None:
    lines = [line.split() for line in np.load(GOLDEN, allow_pickle=False)[f"authors/{name}/names"]]
    theirs = {line[0]: tuple(int(n) for n in "".join(line[1:]).split(",") if n) for line in lines}
    net = empty(name, eps=AUTHORS_EPS)
    weights = {f"backbone.{key}": tensor for key, tensor in formula_weights(theirs).items()}
    weights["head.op_list.0.conv.weight"] = torch.zeros(3)
    net.load_state_dict(to_backbone(weights, wanted=net.state_dict()), strict=True, assign=True)
    assert worst(net, f"authors/{name}") < TOLERANCE
