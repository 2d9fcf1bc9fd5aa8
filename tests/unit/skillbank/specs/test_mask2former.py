"""Mask2Former spec: equal to the design note but for listed deviations, and what relations and aliases do."""

from pathlib import Path
from typing import Any

import note_table
import pytest

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, SpecError
from skillbank.metrics import find_metric, primary_metric
from skillbank.specs import network
from skillbank.specs._segmentation import SWIN_SIZES, Swin, SwinDims, swin_dims
from skillbank.specs.base import field_note, walk
from skillbank.specs.load import Layer, build_spec, missing_keys, read_spec

NETWORK = network("mask2former")
SAMPLE = Path(__file__).resolve().parents[5] / "shared" / "data" / "specs" / "mask2former.yaml"

SPLITS = ("train", "val", "test")
DEVIATIONS = {
    # A split's own value wins over the one shared by all splits, so "not set" must be told from the default.
    **{f"dataset.{split}.type default": "empty takes dataset.type, whose default is ade" for split in SPLITS},
    **{f"dataset.{split}.num_workers default": "empty takes dataset.workers, default 1" for split in SPLITS},
    **{f"dataset.{split}.annot_file default": "the cell lists formats, not a default" for split in SPLITS},
    # The documents' folders follow from results_dir, whose default is /results.
    **{
        f"{action}.results_dir default": "empty means <results_dir>/<action>"
        for action in ("train", "evaluate", "inference")
    },
    "train.clip_grad_norm bounds": "the document allows 0, which turns clipping off",
    "dataset.augmentation.random_flip_prob extra": "flips cannot be turned off there",
    "dataset.augmentation.color_aug_ssd extra": "nor the colours",
    "export.dynamic_size extra": "an open image size, which the vendor does not export",
    "dataset.type extra": "only in the document's sample",
    "dataset.workers extra": "only in the document",
    "train.verbose extra": "only in the document",
    "dataset.dataset_type extra": "the same loader as oneformer's",
    "dataset.augmentation.fixed_padding extra": "the same loader as oneformer's",
}


def spec(values: dict[str, Any], action: str = "train") -> Any:
    return build_spec("mask2former", action, [Layer("override", "test", values)]).spec


@pytest.mark.skipif(not note_table.NOTES.is_dir(), reason="the design notes are not here")
def test_fields_are_those_of_the_note() -> None:
    assert len(note_table.rows("mask2former.md")) == 201
    assert set(note_table.differences(NETWORK, "mask2former.md")) == set(DEVIATIONS)


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample specs are not here")
@pytest.mark.parametrize("action", ["train", "evaluate", "inference"])
def test_the_documents_sample_loads_unchanged(action: str) -> None:
    resolved = build_spec("mask2former", action, [Layer("file", SAMPLE.name, read_spec(SAMPLE))])
    nested = resolved.nested()
    assert nested["dataset"]["type"] == "coco_panoptic"
    assert nested["dataset"]["train"]["batch_size"] == 16
    assert nested["dataset"]["val"]["target_size"] == [1024, 1024]
    assert nested["train"]["precision"] == "fp16"
    assert nested["train"]["optim"]["milestones"] == [44, 48]
    assert nested["model"]["object_mask_threshold"] == 0.0
    assert nested.keys() & {"evaluate", "inference", "export"} == {action} - {"train"}


def test_every_action_has_only_its_own_block() -> None:
    blocks = set(NETWORK.actions) - {"train"}
    for action, cls in NETWORK.actions.items():
        assert cls.action == action
        assert blocks & set(cls.model_fields) == {action} - {"train"}


def test_every_value_has_a_description_and_defaults_hold_their_rules() -> None:
    for action, cls in NETWORK.actions.items():
        assert all(info.description for _, info, _ in walk(cls))
        draft = build_spec("mask2former", action, [], draft=True)
        assert draft.spec == cls()


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
    assert missing_keys("mask2former", action, NETWORK.actions[action]().model_dump()) == missing


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
        ({"train": {"pretrained_backbone": "a.pth"}}, "model.backbone.pretrained_weights", "a.pth"),
        ({"train": {"pretrained_model": "a.pth"}}, "train.pretrained_model_path", "a.pth"),
        ({"model": {"test": {"overlap_threshold": 0.5}}}, "model.overlap_threshold", 0.5),
        ({"model": {"backbone": {"name": "EfficientViT"}}}, "model.backbone.type", "efficientvit"),
        ({"dataset": {"batch_size": 2}}, "dataset.train.batch_size", 2),
        ({"train": {"precision": 16}}, "train.precision", "fp16"),
        ({"train": {"precision": "32"}}, "train.precision", "fp32"),
        ({"train": {"precision": "BF16-mixed"}}, "train.precision", "bf16"),
        ({"train": {"distributed_strategy": "ddp_sharded"}}, "train.distributed_strategy", "fsdp"),
        ({"train": {"optim": {"lr_scheduler": "warmup_poly"}}}, "train.optim.lr_scheduler", "Warmuppoly"),
        ({"train": {"optim": {"lr_scheduler": "steplr"}}}, "train.optim.lr_scheduler", "StepLR"),
        ({"train": {"optim": {"type": "sgd"}}}, "train.optim.type", "SGD"),
        ({"train": {"clip_grad_norm": 0}}, "train.clip_grad_norm", 0.0),
        ({"train": {"clip_grad_norm_type": "inf"}}, "train.clip_grad_norm_type", "inf"),
    ],
)
def test_other_spellings(written: dict[str, Any], key: str, value: Any) -> None:
    found: Any = spec(written)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_two_names_of_one_key_must_agree() -> None:
    with pytest.raises(ConflictError, match="label_map"):
        spec({"data": {"label_map": "a.json"}, "dataset": {"label_map": "b.json"}})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"train": {"num_epochs": 2, "validation_interval": 3}}, "validation_interval.*3.*2"),
        ({"train": {"num_epochs": 2, "checkpoint_interval": 3}}, "checkpoint_interval.*3.*2"),
        ({"train": {"optim": {"milestones": [48, 44]}}}, r"milestones.*\[48, 44\]"),
        ({"dataset": {"augmentation": {"train_min_size": [640, 4096]}}}, "train_min_size.*4096.*2560"),
        ({"dataset": {"augmentation": {"test_max_size": 320}}}, "test_min_size.*640.*320"),
        ({"model": {"mask_former": {"nheads": 7}}}, "hidden_dim.*256.*7"),
        ({"model": {"sem_seg_head": {"convs_dim": 48}}}, "convs_dim.*48.*32"),
        ({"model": {"sem_seg_head": {"common_stride": 2}}}, "common_stride.*2.*4 or 8"),
        ({"model": {"backbone": {"swin": {"embed_dim": 100}}}}, "swin.*100 channels for 3 heads"),
        ({"dataset": {"val": {"target_size": [1024]}}}, r"target_size.*\[1024\]"),
        ({"dataset": {"pixel_std": [1.0, 0.0, 1.0]}}, "pixel_std.*zero"),
    ],
)
def test_relations(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictError, match=said):
        spec(written)


def test_an_interval_in_steps_may_exceed_the_epochs() -> None:
    assert spec({"train": {"checkpoint_interval": 500, "checkpoint_interval_unit": "step"}})


def test_disagreeing_gpu_settings_are_no_error() -> None:
    assert spec({"train": {"num_gpus": 1, "gpu_ids": [0, 1]}}).train.num_gpus == 1


def test_encrypted_onnx_files_are_refused_with_advice() -> None:
    with pytest.raises(SpecError, match=r"etlt.*\.onnx"):
        spec({"export": {"checkpoint": "a.pth", "onnx_file": "a.etlt"}}, "export")
    assert spec({"export": {"checkpoint": "a.pth", "onnx_file": "a.ONNX"}}, "export")


@pytest.mark.parametrize(
    "written",
    [
        {"train.optim.lr": 0.0},
        {"train.optim.weight_decay": 1.5},
        {"train.num_gpus": True},
        {"train.precision": "fp8"},
        {"model.mask_former.hidden_dim": 100},
        {"model.mask_former.dec_layers": 51},
        {"model.mode": "depth"},
        {"dataset.pixel_mean": [0.5]},
    ],
)
def test_wrong_values(written: dict[str, Any]) -> None:
    (key,) = written
    with pytest.raises(InvalidValueError, match=key):
        spec(written)


def test_export_sizes_are_multiples_of_32() -> None:
    with pytest.raises(SpecError, match=r"export\.input_width"):
        spec({"export": {"checkpoint": "a.pth", "onnx_file": "a.onnx", "input_width": 1000}}, "export")


def test_swin_size_follows_the_type_unless_a_value_is_given() -> None:
    def dims(**swin: Any) -> SwinDims:
        return swin_dims(spec({"model": {"backbone": {"swin": swin}}}).model.backbone.swin)

    assert dims() == swin_dims(Swin()) == SWIN_SIZES["tiny"]
    assert dims(type="large") == SWIN_SIZES["large"]
    own = dims(type="large", embed_dim=384)
    assert (own.embed_dim, own.depths) == (384, SWIN_SIZES["large"].depths)
    assert dims(type=None, embed_dim=24).embed_dim == 24


def test_base_experiments_are_valid_and_the_first_needs_no_download() -> None:
    first = NETWORK.base_experiments[0]
    assert (first.id, first.weights, dict(first.specs)) == ("mask2former-scratch", None, {})
    for experiment in NETWORK.base_experiments:
        assert build_spec("mask2former", "train", [Layer("base-experiment", experiment.id, experiment.specs)])


def test_metrics() -> None:
    primary = primary_metric(NETWORK, NETWORK.actions["train"]().model_dump())
    assert primary is not None
    assert (primary.name, primary.direction) == ("mIoU", "max")
    assert find_metric(NETWORK, "loss_dice_3").direction == "min"
    assert find_metric(NETWORK, "IoU_person").direction == "max"
    assert find_metric(NETWORK, "PQ_th").when == {"model.mode": "panoptic"}
    keys = {key for key, _, _ in walk(NETWORK.actions["train"])}
    assert all(key in keys for metric in NETWORK.metrics for key in metric.when)


def test_only_the_published_keys_are_searched_by_default() -> None:
    searched = {key for key, info, _ in walk(NETWORK.actions["train"]) if field_note(info).automl}
    sizes = {"train_max_size", "test_min_size", "test_max_size"}
    assert searched == {
        *(f"train.optim.{name}" for name in ("lr", "backbone_multiplier", "momentum", "weight_decay")),
        *(f"dataset.augmentation.{name}" for name in sizes),
        *(f"model.mask_former.{name}" for name in ("num_object_queries", "hidden_dim", "dec_layers")),
    }


def test_lists_are_never_searched() -> None:
    fields = {key: info for key, info, nested in walk(NETWORK.actions["train"]) if nested is None}
    lists = {key for key, info in fields.items() if note_table.kinds(info.annotation) == {"list"}}
    assert "train.optim.milestones" in lists
    assert all(field_note(fields[key]).automl is False for key in lists)


def test_link_to_the_newest_checkpoint() -> None:
    assert NETWORK.latest_link({}) == "mask2former_model_latest.pth"
