"""Swin against transformers, with weights that pass through the map that users' files take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from skillbank_models.layers.backbone_weights import to_backbone
from skillbank_models.layers.swin import SwinTransformer

SIZES: dict[str, Any] = {"embed_dim": 24, "depths": [2, 2, 3, 2], "num_heads": [1, 2, 3, 4]}
TOLERANCE = 1e-5  # of the largest value of a map: float32 sums in another order


def ours(**changes: Any) -> SwinTransformer:
    given: dict[str, Any] = {
        **SIZES, "patch_size": 4, "window_size": 7, "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None,
        "drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.0, "ape": False, "patch_norm": True,
        "out_indices": [0, 1, 2, 3], "pretrain_img_size": 64, "use_checkpoint": False,
    }  # fmt: skip
    return SwinTransformer(**{**given, **changes})


def theirs(kind: str = "SwinBackbone", **changes: Any) -> nn.Module:
    import transformers

    config_class = (
        transformers.MaskFormerSwinConfig if kind.startswith("MaskFormer") else transformers.SwinConfig
    )
    names = [f"stage{index}" for index in range(1, 5)]
    given: dict[str, Any] = {"image_size": 64, "drop_path_rate": 0.0, "out_features": names}
    torch.manual_seed(0)
    net: nn.Module = getattr(transformers, kind)(config_class(**{**SIZES, **given, **changes})).eval()
    with torch.no_grad():
        for (
            parameter
        ) in net.parameters():  # away from zero biases and unit norms, which hide what is not connected
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def worst(mine: SwinTransformer, other: nn.Module, images: Tensor, **options: Any) -> float:
    with torch.no_grad():
        found = mine.eval()(images).values()
        expected = other(images, **options).feature_maps
    pairs = list(zip(found, expected, strict=True))
    assert len(pairs) == 4
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", ["SwinBackbone", "MaskFormerSwinBackbone"])
def test_same_maps_with_padding_shifts_and_maps_below_the_window(kind: str) -> None:
    net, other = ours(), theirs(kind)
    net.load_state_dict(to_backbone(other.state_dict(), wanted=net.state_dict()), strict=True)
    # whole windows; padding on both axes and odd maps; one window for a whole stage; long and thin; one token
    for height, width in [(224, 224), (97, 130), (32, 64), (20, 200), (3, 3)]:
        assert worst(net, other, torch.randn(2, 3, height, width)) < TOLERANCE, (height, width)


def test_another_window_and_no_bias() -> None:
    changes = {"window_size": 4, "qkv_bias": False, "mlp_ratio": 2.0}
    net, other = ours(**changes), theirs(**changes)
    net.load_state_dict(to_backbone(other.state_dict(), wanted=net.state_dict()), strict=True)
    assert worst(net, other, torch.randn(1, 3, 90, 75)) < TOLERANCE


def test_position_table() -> None:
    net, other = ours(ape=True), theirs(use_absolute_embeddings=True)
    weights = to_backbone(other.state_dict(), wanted=net.state_dict())
    net.load_state_dict(weights, strict=True)
    images = torch.randn(2, 3, 64, 64)
    assert worst(net, other, images) < TOLERANCE
    net.load_state_dict({**weights, "absolute_pos_embed": weights["absolute_pos_embed"].mT})
    assert worst(net, other, images) > 100 * TOLERANCE


def test_gradients_are_the_same() -> None:
    net, other = ours(), theirs("MaskFormerSwinBackbone")
    net.load_state_dict(to_backbone(other.state_dict(), wanted=net.state_dict()), strict=True)
    images = torch.randn(2, 3, 70, 94)
    weights = [torch.randn(feature.shape) for feature in net(images).values()]
    for maps in (net.train()(images).values(), other.train()(images).feature_maps):
        torch.stack([(w * m).sum() for w, m in zip(weights, maps, strict=True)]).sum().backward()
    gradients = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    expected = to_backbone(gradients, wanted={})
    found = {name: p.grad for name, p in net.named_parameters()}
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        assert gradient is not None
        scale = expected[name].abs().max()
        # sums of many terms that nearly cancel leave an absolute error
        assert float((gradient - expected[name]).abs().max()) < 2e-4 * float(scale) + 1e-4, name


def test_files_of_a_classifier(tmp_path: Path) -> None:
    import transformers

    names = [f"stage{index}" for index in range(1, 5)]
    config = transformers.SwinConfig(image_size=64, out_features=names, use_absolute_embeddings=True, **SIZES)
    classifier = transformers.SwinForImageClassification(config).eval()
    backbone = transformers.SwinBackbone(config).eval()
    backbone.swin.load_state_dict(classifier.swin.state_dict(), strict=False)
    classifier.save_pretrained(tmp_path)
    net = ours(ape=True)
    on_disk = to_backbone(load_file(tmp_path / "model.safetensors"), wanted=net.state_dict())
    in_memory = to_backbone(classifier.state_dict(), wanted=net.state_dict())
    assert on_disk.keys() == in_memory.keys()
    assert all(torch.equal(on_disk[name], in_memory[name]) for name in on_disk)
    found = net.load_state_dict(on_disk, strict=False)
    # a classifier lacks nothing but the norms of the maps, which start as ones and zeros on both sides
    assert sorted(found.missing_keys) == sorted(
        f"norm{n}.{part}" for n in range(4) for part in ("weight", "bias")
    )
    assert not found.unexpected_keys
    assert worst(net, backbone, torch.randn(1, 3, 64, 64)) < TOLERANCE
