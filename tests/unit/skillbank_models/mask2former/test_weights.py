"""Layouts of weights, what a file tells about its model, loading, and what is said when it does not fit."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mask2former_pairs import SMALL, model_spec
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from skillbank.errors import InvalidValueError, NotFoundError
from skillbank.specs.load import Layer, build_spec
from skillbank_models.layers.backbones import build_backbone
from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.weights import (
    describe,
    from_own,
    layout_of,
    load_weights,
    start_weights,
    to_own,
)
from skillbank_models.weights.quantised import pack

CLASSES = "sem_seg_head.predictor.class_embed"
TABLE = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"


class Module(LightningModule):
    """A training module with the network in it, as the network's own one has it."""

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.model = build_model(model_spec({**SMALL, **(settings or {})}), activation_checkpoint=False)


def random_module(seed: int, **settings: Any) -> Module:
    torch.manual_seed(seed)
    with torch.device("meta"):  # its own initial values are of no use here
        module = Module({key.replace("__", "."): value for key, value in settings.items()})
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.normal_() if tensor.is_floating_point() else tensor.zero_()
    return module


def spec_of(action: str, **settings: Any) -> Any:
    values = {f"model.{key}": value for key, value in SMALL.items()}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    return build_spec("mask2former", action, [Layer("override", "", values)], draft=True).spec


def tensors_of(module: Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("layout", ["own", "detectron2", "hf", "tao"])
def test_there_and_back_bit_by_bit(layout: str) -> None:
    own = tensors_of(random_module(1, backbone__swin__ape=True, backbone__swin__pretrain_img_size=64))
    theirs = from_own(own, layout)
    assert same(to_own(theirs, marks={"tao_model": "mask2former"} if layout == "tao" else None), own)
    assert layout_of(theirs) == layout
    assert not same(theirs, own)


def test_a_lost_rule_shows() -> None:
    own = tensors_of(random_module(1))
    theirs = from_own(own, "hf")
    theirs["model.transformer_module.other"] = theirs.pop("class_predictor.weight")
    assert "model.transformer_module.other" in to_own(theirs)
    parts = from_own(own, "hf")
    name = next(name for name in parts if name.endswith("attention.self.key.weight"))
    del parts[name]
    left = to_own(parts)
    assert name.replace("key", "query") in left
    assert not any(key.endswith("layers.0.blocks.0.attn.qkv.weight") for key in left)


def test_tao_counts_no_object_first() -> None:
    own = tensors_of(random_module(1))
    theirs = from_own(own, "tao", no_object_weight=0.2)
    weight = own[f"{CLASSES}.weight"]
    assert torch.equal(theirs[f"model.{CLASSES}.weight"][0], weight[-1])
    assert torch.equal(theirs[f"model.{CLASSES}.weight"][1:], weight[:-1])
    assert theirs["criterion.empty_weight"].tolist() == pytest.approx([0.2] + [1.0] * 7)
    index = theirs["model.backbone.layers.0.blocks.0.attn.relative_position_index"]
    assert index.shape == (16, 16)
    # the buffer tells the order, even without any mark
    assert torch.equal(to_own(theirs)[f"{CLASSES}.weight"], weight)
    del theirs["criterion.empty_weight"]
    assert torch.equal(to_own(theirs)[f"{CLASSES}.weight"], theirs[f"model.{CLASSES}.weight"])
    marks = {"pytorch-lightning_version": "2.2"}
    assert torch.equal(to_own(theirs, marks=marks)[f"{CLASSES}.weight"], weight)
    # our own checkpoints carry the same marks, and one of ours
    ours = from_own(own, "own")
    marks |= {"tao_model": "mask2former", "skillbank": {}}
    assert torch.equal(to_own(ours, marks=marks)[f"{CLASSES}.weight"], weight)


@pytest.mark.parametrize("prefix", ["module.", "module.model.", "_orig_mod.", "model._orig_mod."])
def test_wrappers_and_old_names(prefix: str) -> None:
    own = tensors_of(random_module(1))
    theirs = {f"{prefix}{name.replace('query_feat', 'static_query')}": tensor for name, tensor in own.items()}
    theirs["criterion.empty_weight"] = torch.tensor([1.0, 0.1])
    theirs["measures.confusion"] = torch.zeros(2)
    assert same(to_own(theirs), own)
    theirs[f"{prefix}more.weight"] = torch.zeros(2)
    assert not same(to_own(theirs), own)  # what is part of the network does not vanish


def test_efficientvit_is_read_from_tao_and_written_for_nobody_else() -> None:
    own = tensors_of(random_module(1, backbone__type="efficientvit", backbone__efficientvit__name="b0"))
    theirs = {
        f"model.{name.replace('backbone.', 'backbone.model.', 1)}": tensor for name, tensor in own.items()
    }
    assert same(to_own(theirs), own)
    for layout in ("hf", "tao", "detectron2"):
        with pytest.raises(InvalidValueError, match=f"--to {layout}: .* no counterpart there: backbone.stem"):
            from_own(own, layout)
    with pytest.raises(InvalidValueError, match="'onnx' is no layout of weights; known are own"):
        from_own(own, "onnx")


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_the_tensors_tell_the_settings(size: str) -> None:
    given = {
        "backbone.swin.type": size, "backbone.swin.window_size": 12, "sem_seg_head.num_classes": 133,
        "sem_seg_head.mask_dim": 128, "sem_seg_head.common_stride": 8, "mask_former.num_object_queries": 200,
        "mask_former.nheads": 4, "mask_former.hidden_dim": 128, "mask_former.dim_feedforward": 1000,
        "mask_former.dec_layers": 5, "sem_seg_head.transformer_enc_layers": 3,
        "backbone.swin.qkv_bias": False,
    }  # fmt: skip
    with torch.device("meta"):
        model = build_model(model_spec(given), activation_checkpoint=False)
    found = describe(model.state_dict())
    assert {key: found[f"model.{key}"] for key in given} == given
    # and they are settings that a spec takes
    again: Any = build_spec("mask2former", "train", [Layer("override", "", found)], draft=True).spec
    with torch.device("meta"):
        rebuilt = build_model(again.model, activation_checkpoint=False)
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


def test_the_tensors_tell_the_backbone() -> None:
    for name in ("b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3"):
        block = model_spec({"backbone.type": "efficientvit", "backbone.efficientvit.name": name}).backbone
        with torch.device("meta"):
            tensors = {
                f"backbone.{key}": item
                for key, item in build_backbone(block, use_checkpoint=False).state_dict().items()
            }
        assert describe(tensors) == {
            "model.backbone.type": "efficientvit",
            "model.backbone.efficientvit.name": name,
        }
    assert describe({"backbone.res2.0.conv1.weight": torch.ones(1)}) == {"model.backbone.type": "resnet"}
    assert describe({"other": torch.ones(1)}) == {}


@pytest.mark.parametrize("layout", ["own", "detectron2", "hf", "tao"])
def test_an_action_loads_every_layout(layout: str, tmp_path: Path) -> None:
    source, target = random_module(1), random_module(2)
    marks = {"tao_model": "mask2former"} if layout == "tao" else {}
    torch.save({"state_dict": from_own(tensors_of(source), layout), **marks}, tmp_path / "x.pth")
    load_weights(target, tmp_path / "x.pth", spec_of("evaluate"))
    assert same(tensors_of(target), tensors_of(source))


def test_an_action_loads_quantised_weights(tmp_path: Path) -> None:
    source, target = random_module(1), random_module(2)
    tensors = from_own(tensors_of(source), "own")
    name = f"model.{CLASSES}.weight"
    scale = tensors[name].abs().amax(1, keepdim=True) / 127
    packed = pack(name, (tensors.pop(name) / scale).round().to(torch.int8), scale)
    torch.save({"state_dict": tensors | packed, "skillbank": {}}, tmp_path / "x.pth")
    load_weights(target, tmp_path / "x.pth", spec_of("evaluate"))
    found, wanted = tensors_of(target)[f"{CLASSES}.weight"], tensors_of(source)[f"{CLASSES}.weight"]
    assert (found - wanted).abs().max() <= scale.max() / 2 + 1e-6  # half a step of 8 bits


def test_an_action_says_what_to_set(tmp_path: Path) -> None:
    other = random_module(
        1,
        sem_seg_head__num_classes=19,
        mask_former__num_object_queries=20,
        backbone__swin__depths=[1, 1, 3, 1],
    )
    torch.save({"state_dict": from_own(tensors_of(other), "own"), "skillbank": {}}, tmp_path / "x.pth")
    target = random_module(2)
    before = tensors_of(target)
    with pytest.raises(InvalidValueError) as info:
        load_weights(target, tmp_path / "x.pth", spec_of("export"))
    message = str(info.value)
    assert message.startswith(
        f"export.checkpoint: {tmp_path / 'x.pth'} is of another architecture than the spec: of "
    )
    assert (
        "4 of another shape (sem_seg_head.predictor.query_feat.weight (20, 64) instead of (11, 64)" in message
    )
    assert "13 unknown here (backbone.layers.2.blocks.2." in message
    assert info.value.hint == (
        "set what the file was trained with: 'model.backbone.swin.depths=[1,1,3,1]' "
        "model.sem_seg_head.num_classes=19 model.mask_former.num_object_queries=20"
    )
    assert same(tensors_of(target), before)
    # the hint is right
    load_weights(other, tmp_path / "x.pth", spec_of("evaluate"))


def test_an_action_refuses_other_backbones_and_missing_files(tmp_path: Path) -> None:
    tensors = tensors_of(random_module(1))
    tensors = {
        name.replace("backbone.layers.0", "backbone.res2").replace(
            "backbone.patch_embed", "backbone.stem"
        ): tensor
        for name, tensor in tensors.items()
    }
    torch.save({"model": tensors}, tmp_path / "r50.pth")
    with pytest.raises(InvalidValueError, match=r"inference.checkpoint: .* has a ResNet backbone"):
        load_weights(random_module(2), tmp_path / "r50.pth", spec_of("inference"))
    spec = spec_of("train", train__pretrained_model_path=str(tmp_path / "r50.pth"))
    with pytest.raises(InvalidValueError, match=r"train.pretrained_model_path: .* has a ResNet backbone"):
        start_weights(random_module(2), spec)
    with pytest.raises(NotFoundError, match=r"quantize.model_path: there is no file"):
        load_weights(random_module(2), tmp_path / "none.pth", spec_of("quantize"))


def test_fine_tuning_keeps_new_layers_at_their_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = random_module(1, sem_seg_head__num_classes=133)
    torch.save({"model": tensors_of(source)}, tmp_path / "coco.pth")
    target = random_module(2)
    before = tensors_of(target)
    with caplog.at_level(logging.INFO):
        start_weights(target, spec_of("train", train__pretrained_model_path=str(tmp_path / "coco.pth")))
    after, given = tensors_of(target), tensors_of(source)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name] if CLASSES in name else given[name]), name
    assert f"{tmp_path / 'coco.pth'}: loaded {len(after) - 2} of {len(after)} tensors" in caplog.text
    assert f"2 of another shape: {CLASSES}.weight (134, 64) instead of (8, 64)" in caplog.text


def test_another_window_is_resized(tmp_path: Path) -> None:
    source = random_module(1, backbone__swin__window_size=7)
    torch.save({"model": tensors_of(source)}, tmp_path / "x.pth")
    target = random_module(2)
    start = tensors_of(target)[TABLE]
    start_weights(target, spec_of("train", train__pretrained_model_path=str(tmp_path / "x.pth")))
    found = tensors_of(target)[TABLE]
    assert found.shape == (49, 2)
    assert not torch.equal(found, start)
    corners = [0, 6, 42, 48]
    assert found[corners].abs().max() <= tensors_of(source)[TABLE].abs().max() * 1.5


def test_a_backbone_alone_and_a_whole_model_over_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = random_module(1)
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors_of(source).items()
        if name.startswith("backbone.") and not name.startswith("backbone.norm")
    }
    torch.save(
        {"model": {**backbone, "norm.weight": torch.ones(192), "head.bias": torch.ones(9)}},
        tmp_path / "b.pth",
    )
    target = random_module(2)
    with caplog.at_level(logging.INFO):
        start_weights(target, spec_of("train", model__backbone__pretrained_weights=str(tmp_path / "b.pth")))
    after = tensors_of(target)
    assert all(torch.equal(after[f"backbone.{name}"], tensor) for name, tensor in backbone.items())
    assert {record.levelname for record in caplog.records} == {"INFO"}  # nothing unusual about it
    assert "8 missing: norm0.weight" in caplog.text

    with pytest.raises(InvalidValueError, match="holds no tensor of a segmentation head") as info:
        start_weights(target, spec_of("train", train__pretrained_model_path=str(tmp_path / "b.pth")))
    assert f"model.backbone.pretrained_weights={tmp_path / 'b.pth'}" in info.value.hint

    whole = random_module(3)
    torch.save({"model": tensors_of(whole)}, tmp_path / "w.pth")
    both = spec_of(
        "train",
        model__backbone__pretrained_weights=str(tmp_path / "b.pth"),
        train__pretrained_model_path=str(tmp_path / "w.pth"),
    )
    start_weights(target, both)
    assert same(tensors_of(target), tensors_of(whole))


def test_files_that_would_leave_the_backbone_at_its_start(tmp_path: Path) -> None:
    tensors = {
        name: tensor
        for name, tensor in tensors_of(random_module(1)).items()
        if name.startswith("sem_seg_head.")
    }
    torch.save({"model": tensors}, tmp_path / "head.pth")
    with pytest.raises(InvalidValueError, match="only 0% of the tensors of backbone are in"):
        start_weights(
            random_module(2), spec_of("train", train__pretrained_model_path=str(tmp_path / "head.pth"))
        )
    torch.save({"model": {"conv1.weight": torch.ones(1)}}, tmp_path / "resnet.pth")
    with pytest.raises(InvalidValueError, match=r"model.backbone.pretrained_weights: only 0% of the tensors"):
        start_weights(
            random_module(2),
            spec_of("train", model__backbone__pretrained_weights=str(tmp_path / "resnet.pth")),
        )


def test_nothing_named_changes_nothing() -> None:
    target = random_module(2)
    before = tensors_of(target)
    start_weights(target, spec_of("train"))
    assert same(tensors_of(target), before)


def test_a_bare_network_is_loaded_too(tmp_path: Path) -> None:
    source, target = random_module(1), random_module(2)
    torch.save({"model": tensors_of(source)}, tmp_path / "x.pth")
    bare: nn.Module = target.model
    load_weights(bare, tmp_path / "x.pth", spec_of("evaluate"))  # type: ignore[arg-type]
    assert same(tensors_of(target), tensors_of(source))
