"""From a spec's backbone block to a module: every setting arrives, what cannot work is refused at once."""

import logging

import pytest
import torch

from skillbank.errors import InvalidValueError
from skillbank.specs.mask2former import Backbone
from skillbank_models.layers.backbones import build_backbone
from skillbank_models.layers.efficientvit import EfficientVit
from skillbank_models.layers.swin import SwinTransformer

SMALL = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}


def build(block: dict, *, use_checkpoint: bool = False):
    return build_backbone(Backbone.model_validate(block), use_checkpoint=use_checkpoint)


@pytest.mark.parametrize("kind", ["swin", "efficientvit"])
def test_what_every_backbone_offers(kind):
    net = build({"type": kind, "swin": SMALL, "efficientvit": {"name": "b0"}}).eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 64, 64))
    assert [*maps] == [*net.channels] == [*net.strides] == ["res2", "res3", "res4", "res5"]
    assert [*net.strides.values()] == [4, 8, 16, 32]
    for name, feature in maps.items():
        assert feature.shape == (1, net.channels[name], 64 // net.strides[name], 64 // net.strides[name])


def test_settings_of_swin_arrive():
    net = build(
        {
            "swin": {
                **SMALL, "window_size": 5, "mlp_ratio": 3.0, "qkv_bias": False, "qk_scale": 0.5,
                "drop_rate": 0.1, "attn_drop_rate": 0.2, "drop_path_rate": 0.4, "patch_norm": False,
                "ape": True, "pretrain_img_size": 48, "patch_size": 2, "out_indices": [3, 2, 1, 0],
            }
        }
    )  # fmt: skip
    assert isinstance(net, SwinTransformer)
    last = net.layers[3].blocks[0]
    assert (last.attn.window, last.attn.scale, last.attn.attn_drop) == (5, 0.5, 0.2)
    assert last.attn.qkv.bias is None
    assert last.mlp.fc1.out_features == 3 * 128
    assert last.drop_path.rate == pytest.approx(0.4)
    assert (net.pos_drop.p, last.mlp.drop.p, last.attn.proj_drop.p) == (0.1, 0.1, 0.1)
    assert net.absolute_pos_embed.shape == (1, 16, 24, 24)
    assert net.patch_embed.norm is None
    assert net.layers[2].blocks[1].shift == 2
    assert net.strides == {"res2": 2, "res3": 4, "res4": 8, "res5": 16}


@pytest.mark.parametrize("kind", ["swin", "efficientvit"])
@pytest.mark.parametrize(("own", "given"), [(False, False), (True, False), (False, True)])
def test_recomputation_is_asked_for_here_or_there(kind, own, given):
    block = {
        "type": kind,
        "swin": {**SMALL, "use_checkpoint": own},
        "efficientvit": {"name": "b0", "use_checkpoint": own},
    }
    assert build(block, use_checkpoint=given).use_checkpoint == (own or given)


@pytest.mark.parametrize("indices", [[1, 2, 3], [0, 1, 2]])
def test_three_maps_of_efficientvit_mean_four(indices, caplog):
    with caplog.at_level(logging.WARNING):
        net = build({"type": "efficientvit", "efficientvit": {"name": "b0", "out_indices": indices}})
    assert isinstance(net, EfficientVit)
    assert f"model.backbone.efficientvit.out_indices {indices} is read as [0, 1, 2, 3]" in caplog.text


def test_four_maps_say_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        build({"type": "efficientvit", "efficientvit": {"name": "b0", "out_indices": [0, 1, 2, 3]}})
    assert not caplog.records


@pytest.mark.parametrize(
    ("block", "key", "says"),
    [
        (
            {"swin": {"out_indices": [1, 2, 3]}},
            "swin.out_indices",
            "lacks [0]; the pixel decoder needs all of",
        ),
        ({"swin": {"out_indices": [0, 1, 2, 3, 4]}}, "swin.out_indices", "names a map that does not exist"),
        ({"swin": {"out_features": ["res3", "res5"]}}, "swin.out_features", "lacks ['res2', 'res4']"),
        ({"swin": {"patch_size": 6}}, "swin.patch_size", "6 is not a power of two"),
        ({"swin": {"ape": True, "pretrain_img_size": 3}}, "swin.pretrain_img_size", "less than one patch"),
        (
            {"type": "efficientvit", "efficientvit": {"out_indices": [3, 3, 3]}},
            "efficientvit.out_indices",
            "lacks [0, 1, 2]",
        ),
        (
            {"type": "efficientvit", "efficientvit": {"out_features": ["res2"]}},
            "efficientvit.out_features",
            "lacks ['res3', 'res4', 'res5']",
        ),
    ],
)
def test_what_cannot_work(block, key, says):
    with pytest.raises(InvalidValueError) as caught:
        build(block)
    error = caught.value
    assert error.key == f"model.backbone.{key}"
    assert f"model.backbone.{key}: " in error.message
    assert says in error.message
    assert error.hint.startswith("-o ")
    assert key in error.hint


def test_all_problems_at_once():
    with pytest.raises(InvalidValueError, match="has 3 problems") as caught:
        build({"swin": {"out_indices": [0], "out_features": ["res2"], "patch_size": 3}})
    assert len(caught.value.problems) == 3
