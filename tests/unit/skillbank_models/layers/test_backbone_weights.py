"""Names of backbone files, made by spelling our own tensors the way each publisher does."""

import re

import pytest
import torch
from torch.nn import functional as F

from skillbank.specs.mask2former import Backbone
from skillbank_models.layers.backbone_weights import to_backbone
from skillbank_models.layers.backbones import build_backbone

SMALL = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
PUBLISHERS = [
    "microsoft",
    "detectron2",
    "network",
    "simmim",
    "timm",
    "timm maps",
    "hf classifier",
    "hf network",
]


def own_state(kind: str = "swin", **swin):
    block = {"type": kind, "swin": {**SMALL, **swin}, "efficientvit": {"name": "b0"}}
    state = build_backbone(Backbone.model_validate(block), use_checkpoint=False).state_dict()
    source = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=source) for name, tensor in state.items()}


def as_timm(name):
    return re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)


def as_hf(state):
    out = {}
    for name, tensor in state.items():
        name = re.sub(r"^patch_embed\.proj", "embeddings.patch_embeddings.projection", name)
        name = re.sub(r"^patch_embed\.norm", "embeddings.norm", name)
        name = re.sub(r"^layers", "encoder.layers", name)
        name = name.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after.")
        name = name.replace(".attn.relative", ".attention.self.relative")
        name = name.replace(".mlp.fc1", ".intermediate.dense").replace(".mlp.fc2", ".output.dense")
        name = name.replace(".attn.proj", ".attention.output.dense")
        if ".attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[name.replace("attn.qkv", f"attention.self.{part}")] = third
        else:
            out[name] = tensor
    return out


def published(state, publisher):
    """Our tensors as a publisher's file has them, with what else is in it."""
    bare = {name: tensor for name, tensor in state.items() if not re.match(r"norm\d", name)}
    index = {
        name.replace("bias_table", "index"): tensor for name, tensor in bare.items() if "bias_table" in name
    }
    extra = {
        "head.weight": torch.zeros(1),
        "norm.bias": torch.zeros(1),
        "layers.0.blocks.1.attn_mask": torch.zeros(1),
    }
    if publisher == "microsoft":
        return {**bare, **index, **extra}
    if publisher == "detectron2":
        return {f"backbone.{name}": tensor for name, tensor in {**state, **index}.items()}
    if publisher == "network":
        decoder = {"sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.weight": torch.zeros(1)}
        return {**{f"model.backbone.{name}": tensor for name, tensor in state.items()}, **decoder}
    if publisher == "simmim":
        rest = {"encoder.mask_token": torch.zeros(1), "decoder.0.weight": torch.zeros(1)}
        return {**{f"encoder.{name}": tensor for name, tensor in bare.items()}, **rest}
    if publisher == "timm":
        return {**{as_timm(name): tensor for name, tensor in bare.items()}, "head.fc.bias": torch.zeros(1)}
    if publisher == "timm maps":
        return {
            re.sub(r"^layers\.(\d)", r"layers_\1", as_timm(name)): tensor for name, tensor in bare.items()
        }
    if publisher == "hf classifier":
        rest = {"classifier.bias": torch.zeros(1), "swin.layernorm.weight": torch.zeros(1)}
        return {**{f"swin.{name}": tensor for name, tensor in as_hf(bare).items()}, **rest}
    root = "model.pixel_level_module.encoder."
    norms = {
        f"{root}hidden_states_norms.stage{int(name[4]) + 1}.{name[6:]}": tensor
        for name, tensor in state.items()
        if re.match(r"norm\d", name)
    }
    rest = {
        "class_predictor.weight": torch.zeros(1),
        "model.transformer_module.decoder.layernorm.bias": torch.zeros(1),
    }
    return {**{root + name: tensor for name, tensor in as_hf(bare).items()}, **norms, **rest}


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_swin_of_every_publisher(publisher):
    state = own_state()
    found = to_backbone(published(state, publisher), wanted=state)
    has_norms = publisher in {"detectron2", "network", "hf network"}
    expected = {name for name in state if has_norms or not re.match(r"norm\d", name)}
    assert found.keys() == expected
    assert all(torch.equal(found[name], state[name]) for name in found)


def as_authors(name, *, large):
    name = re.sub(r"^stages\.(\d)\.blocks", lambda match: f"stages.{int(match[1]) + large}.op_list", name)
    stem = "stages.0" if large else "input_stem"
    name = re.sub(r"^stem\.in_conv", f"{stem}.op_list.0", name)
    return re.sub(r"^stem\.res(\d)", lambda match: f"{stem}.op_list.{int(match[1]) + 1}", name)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("root", ["", "backbone.", "image_encoder.backbone."])
def test_efficientvit_of_its_authors(large, root):
    state = own_state("efficientvit")  # names of small and large members differ in their roots alone
    theirs = {root + as_authors(name, large=large): tensor for name, tensor in state.items()}
    theirs["head.op_list.0.conv.weight" if root else "head.bias"] = torch.zeros(1)
    found = to_backbone(theirs, wanted=state)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_efficientvit_of_timm():
    state = own_state("efficientvit")
    for names in (list(state), [re.sub(r"^stages\.", "stages_", name) for name in state]):
        theirs = dict(zip(names, state.values(), strict=True))
        found = to_backbone({**theirs, "head.classifier.4.bias": torch.zeros(1)}, wanted=state)
        assert found.keys() == state.keys()


def test_another_window_resizes_the_tables():
    small, large = own_state(window_size=4), own_state(window_size=6)
    found = to_backbone(small, wanted=large)
    name = "layers.2.blocks.1.attn.relative_position_bias_table"
    assert found[name].shape == large[name].shape == (121, 4)
    for head in range(4):
        grid = small[name][:, head].reshape(1, 1, 7, 7)
        expected = F.interpolate(grid, size=(11, 11), mode="bicubic").flatten()
        assert torch.equal(found[name][:, head], expected)
    ramp = torch.arange(7.0).repeat_interleave(7)[:, None].expand(49, 4)  # rises with the row offset
    row = to_backbone({**small, name: ramp}, wanted=large)[name].reshape(11, 11, 4)
    assert (row.diff(dim=0) > 0).all()
    assert torch.allclose(row.diff(dim=1), torch.zeros(()), atol=1e-5)


def test_another_number_of_heads_is_left_to_be_reported():
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    state, other = own_state(), own_state(num_heads=[2, 2, 4, 8], window_size=6)
    assert torch.equal(to_backbone(state, wanted=other)[name], state[name])


def test_position_table_in_rows_and_of_another_image():
    state = own_state(ape=True, pretrain_img_size=32)
    table = state["absolute_pos_embed"]
    assert table.shape == (1, 8, 8, 8)
    rows = table.flatten(2).transpose(1, 2)
    assert torch.equal(
        to_backbone({**state, "absolute_pos_embed": rows}, wanted=state)["absolute_pos_embed"], table
    )
    larger = own_state(ape=True, pretrain_img_size=48)
    found = to_backbone(state, wanted=larger)["absolute_pos_embed"]
    assert torch.equal(found, F.interpolate(table, size=(12, 12), mode="bicubic"))


def test_unknown_tensors_keep_their_names():
    state = own_state()
    found = to_backbone({**state, "layers.0.blocks.0.attn.logit_scale": torch.zeros(1)}, wanted=state)
    assert found.keys() == {*state, "layers.0.blocks.0.attn.logit_scale"}
    other = {"conv1.weight": torch.zeros(1)}
    assert to_backbone(other, wanted=state) == other
