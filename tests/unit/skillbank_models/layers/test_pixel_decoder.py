"""Which maps the pixel decoder mixes, fuses and hands on, its start values, and recomputation."""

import math

import pytest
import torch
from torch import nn

from skillbank.errors import InvalidValueError
from skillbank_models.layers.deformable_encoder import DeformableEncoderLayer
from skillbank_models.layers.pixel_decoder import PixelDecoder

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
WHOLE = {
    "channels": CHANNELS,
    "strides": STRIDES,
    "convs_dim": 32,
    "mask_dim": 24,
    "norm": "GN",
    "in_features": ["res3", "res4", "res5"],
    "num_layers": 2,
    "nheads": 4,
    "dropout": 0.0,
    "dim_feedforward": 40,
    "common_stride": 4,
    "deterministic": False,
    "use_checkpoint": False,
}


def build(**changes) -> PixelDecoder:
    torch.manual_seed(0)
    return PixelDecoder(**{**WHOLE, **changes})


def maps(height: int = 64, width: int = 96, batch: int = 2) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(batch, CHANNELS[name], height // stride, width // stride, generator=source)
        for name, stride in STRIDES.items()
    }


@pytest.mark.parametrize(
    ("in_features", "common_stride", "mask_stride", "level_strides"),
    [
        (["res3", "res4", "res5"], 4, 4, [32, 16, 8]),
        (["res5", "res3", "res4"], 8, 8, [32, 16, 8]),
        (["res2", "res3", "res4", "res5"], 4, 4, [32, 16, 8]),
        (["res2", "res3", "res4", "res5"], 8, 8, [32, 16, 8]),
        (["res5"], 4, 4, [32, 16, 8]),
        (["res4", "res5"], 8, 8, [32, 16, 8]),
        (["res3", "res5"], 4, 4, [32, 8, 4]),
        (["res3"], 4, 4, [8, 4]),
        (["res2"], 4, 4, [4]),
    ],
)
def test_maps_of_every_choice(in_features, common_stride, mask_stride, level_strides):
    decoder = build(in_features=in_features, common_stride=common_stride)
    masks, levels = decoder(maps())
    assert masks.shape == (2, 24, 64 // mask_stride, 96 // mask_stride)
    assert decoder.num_levels == len(level_strides)
    assert [tuple(level.shape) for level in levels] == [(2, 32, 64 // s, 96 // s) for s in level_strides]
    total = masks.square().mean() + sum(level.square().mean() for level in levels)
    total.backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_names_are_those_of_published_weights():
    names = set(build(common_stride=4, in_features=["res5"]).state_dict())
    expected = {f"adapter_{i}.weight" for i in (1, 2, 3)} | {f"layer_{i}.norm.bias" for i in (1, 2, 3)}
    expected |= {"input_proj.0.0.bias", "input_proj.0.1.weight", "transformer.level_embed"}
    expected |= {"transformer.encoder.layers.1.self_attn.value_proj.weight", "mask_features.bias"}
    assert expected <= names
    assert build(in_features=["res5"]).get_submodule("adapter_1").in_channels == CHANNELS["res2"]


@pytest.mark.parametrize("norm", ["GN", "LN", "SyncBN", ""])
def test_norm_changes_the_fusion_only(norm):
    decoder = build(norm=norm)
    assert any("adapter_1.norm" in name for name in decoder.state_dict()) == bool(norm)
    assert isinstance(decoder.input_proj[0][1], nn.GroupNorm)
    assert decoder(maps())[0].isfinite().all()


def test_start_values():
    decoder = build(convs_dim=64, in_features=["res4", "res5"])
    for name, parameter in decoder.named_parameters():
        norm = name.endswith("norm.bias") or ".1." in name
        if "sampling_offsets.weight" in name or "attention_weights" in name:
            assert not parameter.any(), name
        if name.startswith(("input_proj", "mask_features")) and name.endswith("bias") and not norm:
            assert not parameter.any(), name
    bound = math.sqrt(6 / (CHANNELS["res5"] + 64))  # Xavier
    weight = decoder.input_proj[0][0].weight
    assert 0.9 * bound < weight.abs().max() <= bound
    bound = math.sqrt(3 / (64 * 9))  # Kaiming with a = 1
    weight = decoder.get_submodule("layer_1").weight
    assert 0.9 * bound < weight.abs().max() <= bound
    assert 0.7 < decoder.transformer.level_embed.std() < 1.3


def test_pieces_of_pixels_give_what_the_whole_gives(monkeypatch):
    decoder = build().eval()
    with torch.enable_grad():
        whole, _ = decoder(maps())
    monkeypatch.setattr("skillbank_models.layers.deformable_encoder.ROWS", 50)
    with torch.no_grad():
        pieces, _ = decoder(maps())
    torch.testing.assert_close(pieces, whole.detach(), rtol=0, atol=1e-5)


def test_dropout_acts_while_training_only():
    decoder = build(dropout=0.3)
    assert not torch.equal(decoder(maps())[0], decoder(maps())[0])
    decoder.eval()
    torch.testing.assert_close(decoder(maps())[0], decoder(maps())[0])


def test_recomputation_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        decoder = build(use_checkpoint=recompute)
        calls: list[int] = []
        for layer in decoder.modules():
            if isinstance(layer, DeformableEncoderLayer):
                layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        masks, levels = decoder(maps())
        (masks.square().mean() + levels[0].square().mean()).backward()
        assert len(calls) == (4 if recompute else 2)
        gradients.append({name: parameter.grad for name, parameter in decoder.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-6, msg=name)


def test_a_map_that_the_backbone_lacks_is_named():
    with pytest.raises(InvalidValueError, match="the backbone gives no res6; it gives res2, res3") as caught:
        build(in_features=["res5", "res6"])
    assert caught.value.key == "model.sem_seg_head.deformable_transformer_encoder_in_features"


def test_a_stride_that_cannot_be_reached_is_named():
    coarse = {name: width for name, width in CHANNELS.items() if name != "res2"}
    with pytest.raises(InvalidValueError, match="no map of stride 4; the finest has 8") as caught:
        build(channels=coarse)
    assert "common_stride=8" in caught.value.hint
