"""OneFormer spec: equal to the design note but for listed deviations, and what relations and aliases do."""

import math
from pathlib import Path
from typing import Any

import note_table
import pytest

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, SpecError
from skillbank.metrics import find_metric, primary_metric
from skillbank.specs import network
from skillbank.specs._oneformer_model import OneFormerSwin
from skillbank.specs._segmentation import SWIN_SIZES, swin_dims
from skillbank.specs.base import field_note, walk
from skillbank.specs.common import Clipping
from skillbank.specs.load import Layer, build_spec, missing_keys, read_spec

NETWORK = network("oneformer")
SAMPLE = Path(__file__).resolve().parents[5] / "shared" / "data" / "specs" / "oneformer.yaml"

VIT = "model.backbone.efficientvit"
DEVIATIONS = {
    # A split's own value wins over the one shared by all splits, so "not set" must be told from the default.
    **{
        f"dataset.{split}.num_workers default": "empty takes dataset.workers"
        for split in ("train", "val", "test")
    },
    # The documents' folders follow from results_dir, whose default is /results.
    **{
        f"{action}.results_dir default": "empty means <results_dir>/<action>"
        for action in ("train", "evaluate", "inference")
    },
    "train.clip_grad_norm bounds": "the document allows 0, which turns clipping off",
    "export.dynamic_size extra": "an open image size, which the vendor does not export",
    "dataset.task_prob_train default": "the schema misreads cumulative thresholds; empty = equal parts",
    "dataset.task_prob_val default": "validation does not draw; empty runs every task",
    "inference.mode default": "empty takes model.mode (document), whose default is semantic",
    "gen_trt_engine.tensorrt.data_type default": "FP16, written as in the other networks; fp16 is accepted",
    "model.backbone.radio.out_features default": "the backbone has no res2, the schema's default cannot run",
    # Two ways to write clipping: the document's has the default, this one counts only when it is written.
    **{
        f"train.clip_gradients.{name} default": "empty leaves it to train.clip_grad_*"
        for name in ("enabled", "clip_type", "clip_value", "norm_type")
    },
    "train.optim.max_iter default": "only used when set",
    "train.optim.steps default": "only used when set; the document's milestones have the default",
    "dataset.augmentation.fixed_padding extra": "only in the document",
    "dataset.dataset_type extra": "only in the document",
    "model.mode extra": "only in the document",
    "train.activation_checkpoint extra": "only in the document",
    "model.backbone.swin.type extra": "short form, as in mask2former",
    # The document promises this backbone and lists no keys for it: those of mask2former.
    **{
        f"{VIT}.{name} extra": "promised by the document"
        for name in ("name", "out_indices", "pretrain_img_size", "use_checkpoint", "out_features")
    },
}


def spec(values: dict[str, Any], action: str = "train") -> Any:
    return build_spec("oneformer", action, [Layer("override", "test", values)]).spec


@pytest.mark.skipif(not note_table.NOTES.is_dir(), reason="the design notes are not here")
def test_fields_are_those_of_the_note() -> None:
    assert len(note_table.rows("oneformer.md")) == 252
    assert set(note_table.differences(NETWORK, "oneformer.md")) == set(DEVIATIONS)


@pytest.mark.skipif(not note_table.NOTES.is_dir(), reason="the design notes are not here")
def test_the_comparison_can_fail() -> None:
    found = note_table.differences(network("mask2former"), "oneformer.md")
    assert "model.one_former.hidden_dim missing" in found
    assert "train.optim.lr default" not in found
    assert found["model.sem_seg_head.num_classes default"] == "note: 133, here: 200"


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample specs are not here")
@pytest.mark.parametrize("action", ["train", "evaluate", "inference"])
def test_the_documents_sample_loads_unchanged(action: str) -> None:
    resolved = build_spec("oneformer", action, [Layer("file", SAMPLE.name, read_spec(SAMPLE))])
    nested = resolved.nested()
    assert nested["train"]["precision"] == "fp32"
    assert nested["train"]["pretrained_backbone"] is None
    assert nested["train"]["num_nodes"] == 4
    assert nested["model"]["test"] == {
        "object_mask_threshold": 0.8, "overlap_threshold": 0.8, "test_topk_per_image": 100,
        "semantic_on": True, "instance_on": False, "panoptic_on": False, "detection_on": False,
    }  # fmt: skip
    assert nested.keys() & {"evaluate", "inference", "export"} == {action} - {"train"}


def test_every_value_has_a_description_and_defaults_hold_their_rules() -> None:
    for action, cls in NETWORK.actions.items():
        assert cls.action == action
        assert all(info.description for _, info, _ in walk(cls))
        assert build_spec("oneformer", action, [], draft=True).spec == cls()


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("train", []),
        ("export", ["export.checkpoint", "export.onnx_file"]),
        ("quantize", ["quantize.model_path"]),
        ("gen_trt_engine", ["gen_trt_engine.onnx_file", "gen_trt_engine.trt_engine"]),
    ],
)
def test_mandatory_keys(action: str, missing: list[str]) -> None:
    assert missing_keys("oneformer", action, NETWORK.actions[action]().model_dump()) == missing


@pytest.mark.parametrize("action", ["evaluate", "inference"])
def test_a_checkpoint_or_an_engine_is_mandatory(action: str) -> None:
    with pytest.raises(MissingValueError, match=rf"{action}\.checkpoint"):
        spec({}, action)
    for given in ({"checkpoint": "a.pth"}, {"trt_engine": "a.engine"}):
        assert spec({action: given}, action)


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [
        ({"data": {"label_map": "m.json"}}, "dataset.label_map", "m.json"),
        ({"train": {"lr": 0.001}}, "train.optim.lr", 0.001),
        ({"model": {"backbone": {"pretrained_weights": "a.pth"}}}, "train.pretrained_backbone", "a.pth"),
        ({"model": {"backbone": {"type": "swin"}}}, "model.backbone.name", "D2SwinTransformer"),
        ({"model": {"backbone": {"name": "dinat"}}}, "model.backbone.name", "D2DiNAT"),
        ({"model": {"backbone": {"type": "efficientvit"}}}, "model.backbone.name", "EfficientViT"),
        ({"model": {"object_mask_threshold": 0.6}}, "model.test.object_mask_threshold", 0.6),
        ({"model": {"overlap_threshold": 0.6}}, "model.test.overlap_threshold", 0.6),
        ({"model": {"test_topk_per_image": 150}}, "model.test.test_topk_per_image", 150),
        ({"train": {"pretrained_model_path": "a.pth"}}, "train.pretrained_model", "a.pth"),
        ({"dataset": {"augmentation": {"cutmix_prob": 0.5}}}, "dataset.cutmix_prob", 0.5),
        ({"dataset": {"batch_size": 2}}, "dataset.train.batch_size", 2),
        ({"train": {"precision": 32}}, "train.precision", "fp32"),
        ({"train": {"precision": "16-mixed"}}, "train.precision", "fp16"),
        ({"train": {"distributed_strategy": "ddp_sharded"}}, "train.distributed_strategy", "fsdp"),
        ({"train": {"clip_grad_type": "full_model"}}, "train.clip_grad_type", "full"),
        ({"train": {"optim": {"lr_scheduler": "WarmupPoly"}}}, "train.optim.lr_scheduler", "Warmuppoly"),
        ({"dataset": {"train": {"images": ["a", "b"]}}}, "dataset.train.images", ["a", "b"]),
        ({"dataset": {"image_size": [640, 480]}}, "dataset.image_size", [640, 480]),
        ({"dataset.task_prob_train.semantic": 1}, "dataset.task_prob_train", {"semantic": 1.0}),
    ],
)
def test_other_spellings_and_forms(written: dict[str, Any], key: str, value: Any) -> None:
    found: Any = spec(written)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_engine_precision_in_any_case() -> None:
    written = {"onnx_file": "a.onnx", "trt_engine": "a.engine", "tensorrt": {"data_type": "fp32"}}
    assert spec({"gen_trt_engine": written}, "gen_trt_engine").gen_trt_engine.tensorrt.data_type == "FP32"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"model": {"text_encoder": {"width": 128}}}, "text_encoder.width.*128 and 256"),
        ({"model": {"text_encoder": {"n_ctx": 150}}}, "n_ctx.*150"),
        ({"model": {"one_former": {"nheads": 7}}}, "hidden_dim.*256.*7"),
        ({"dataset": {"max_seq_len": 100}}, "max_seq_len.*100.*77"),
        ({"dataset": {"min_scale": 3.0}}, "min_scale.*3.0.*2.0"),
        ({"dataset": {"image_size": [640, 480, 3]}}, "image_size"),
        ({"dataset": {"task_prob_train": {"semantic": 0}}}, "task_prob_train"),
        ({"model": {"backbone": {"dinat": {"dilations": [[1, 2]]}}}}, "dilations"),
        ({"model": {"backbone": {"dinat": {"kernel_size": 8}}}}, "kernel_size.*odd"),
        ({"model": {"backbone": {"swin": {"num_heads": [5, 5, 5, 5]}}}}, "192 channels for 5 heads"),
        ({"train": {"optim": {"steps": [2, 1]}}}, "steps"),
        ({"train": {"num_epochs": 2, "validation_interval": 3}}, "validation_interval.*3.*2"),
        ({"dataset": {"augmentation": {"test_max_size": 640}}}, "test_min_size.*800.*640"),
    ],
)
def test_relations(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictError, match=said):
        spec(written)


@pytest.mark.parametrize(
    "written",
    [
        {"dataset.task_prob_train": {"depth": 1.0}},
        {"dataset.task_prob_train": {"semantic": -1.0}},
        {"model.sem_seg_head.pixel_decoder_name": "BasePixelDecoder"},
        {"model.backbone.name": "resnet"},
        {"model.text_encoder.vocab_size": 1000},
        {"train.val_check_interval": 0.0},
        {"dataset.train.images": 5},
    ],
)
def test_wrong_values(written: dict[str, Any]) -> None:
    (key,) = written
    with pytest.raises(InvalidValueError, match=key):
        spec(written)


def test_encrypted_onnx_files_are_refused_with_advice() -> None:
    with pytest.raises(SpecError, match=r"etlt.*\.onnx"):
        spec({"export": {"checkpoint": "a.pth", "onnx_file": "a.etlt"}}, "export")


@pytest.mark.parametrize(
    ("written", "clipping"),
    [
        ({}, Clipping(0.1, 2.0, "full")),
        ({"clip_grad_norm": 0}, None),
        ({"clip_gradients": {"enabled": True}}, Clipping(0.1, 2.0, "full")),
        ({"clip_gradients": {"enabled": False}}, None),
        ({"clip_gradients": {"clip_value": 1.0, "norm_type": 1.0}}, Clipping(1.0, 1.0, "full")),
        ({"clip_grad_type": "value", "clip_grad_norm_type": "inf"}, Clipping(0.1, math.inf, "value")),
        (
            {"clip_grad_type": "value", "clip_gradients": {"clip_type": "full_model"}},
            Clipping(0.1, 2.0, "full"),
        ),
    ],
)
def test_the_other_way_to_write_clipping_counts_when_written(
    written: dict[str, Any], clipping: Clipping | None
) -> None:
    assert spec({"train": written}).train.clipping() == clipping


def test_swin_is_large_unless_a_type_is_given() -> None:
    assert swin_dims(OneFormerSwin()) == SWIN_SIZES["large"]
    tiny = spec({"model": {"backbone": {"swin": {"type": "tiny"}}}})
    own = spec({"model": {"backbone": {"swin": {"embed_dim": 96, "num_heads": [3, 6, 12, 24]}}}})
    assert swin_dims(tiny.model.backbone.swin) == SWIN_SIZES["tiny"]
    assert swin_dims(own.model.backbone.swin).embed_dim == 96


def test_base_experiments_are_valid_and_the_first_needs_no_download() -> None:
    first = NETWORK.base_experiments[0]
    assert (first.id, first.weights, dict(first.specs)) == ("oneformer-scratch", None, {})
    for experiment in NETWORK.base_experiments:
        assert build_spec("oneformer", "train", [Layer("base-experiment", experiment.id, experiment.specs)])


def test_metrics() -> None:
    primary = primary_metric(NETWORK, NETWORK.actions["train"]().model_dump())
    assert primary is not None
    assert (primary.name, primary.direction) == ("mIoU", "max")
    assert find_metric(NETWORK, "test_mIoU") == primary
    assert find_metric(NETWORK, "mIoU/coco") == primary
    assert not find_metric(NETWORK, "PQ").when


def test_only_the_published_keys_are_searched_by_default() -> None:
    searched = {key for key, info, _ in walk(NETWORK.actions["train"]) if field_note(info).automl}
    sizes = {"train_max_size", "test_min_size", "test_max_size"}
    assert searched == {
        *(f"train.optim.{name}" for name in ("lr", "backbone_multiplier", "momentum", "weight_decay")),
        *(f"dataset.augmentation.{name}" for name in sizes),
    }


def test_link_to_the_newest_checkpoint() -> None:
    assert NETWORK.latest_link({}) == "oneformer_model_latest.pth"
