"""Sparse4D spec: equal to the design note but for listed deviations; what relations and aliases do."""

from typing import Any

import note_fields
import note_table
import pytest

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, SpecError, UnknownKeyError
from skillbank.metrics import find_metric, primary_metric
from skillbank.resolve.datasets import build_spec_overrides
from skillbank.skill_info import load_skill_info
from skillbank.specs import network
from skillbank.specs.base import field_note, walk
from skillbank.specs.load import Layer, build_spec, missing_keys, parse_overrides, read_spec

NETWORK = network("sparse4d")
SAMPLE = note_table.NOTES.parent / "data" / "specs" / "sparse4d.yaml"
ON_THE_NETWORK = [action for action in NETWORK.actions if action != "dataset_convert"]
ORDER = ["deformable", "ffn", "norm", "refine"] + 5 * [
    *("temp_gnn", "gnn", "norm"),
    *("deformable", "ffn", "norm", "refine"),
]
DEVIATIONS = {
    "model.backbone.type options": "resnet_50 is known to the code too",
    "model.head.operation_order default": "the note refers to its section 2.5",
    "model.neck.add_extra_convs type": "the option False is a truth value",
}
# Keys that the note's second table, or a cell of the first, gives together with others.
NOT_IN_THE_TABLE = {
    "": ("model_name", "encryption_key", "results_dir"),
    "wandb.": (
        *("enable", "project", "entity", "group", "tags", "reinit"),
        *("sync_tensorboard", "save_code", "name", "run_id"),
    ),
    "dataset.": (
        *("lazy_load", "lazy_load_cache_size", "pkl_sample_size", "pkl_cam_counts_path", "fps_drop_prob"),
        *("target_fps_choices", "max_cameras", "eval_dist_fcn", "eval_hota"),
        "quant_calibration_dataset.images_dir",
    ),
    "model.": ("head.instance_bank.reset_on_time_gap", "cotrain_param_touch", "sv_scene_keywords"),
    "train.": (
        *("cudnn.benchmark", "cudnn.deterministic", "checkpoint_interval_unit", "scrub_nan_gradients"),
        *("optim.grad_clip.max_norm", "optim.grad_clip.norm_type", "optim.paramwise_cfg.custom_keys"),
        *(f"optim.lr_scheduler.{name}" for name in ("policy", "warmup", "warmup_iters")),
        *(f"optim.lr_scheduler.{name}" for name in ("warmup_ratio", "min_lr_ratio")),
        *(f"checkpointer.{name}" for name in ("enable_topk", "replace_periodic", "monitor", "mode")),
        *(f"checkpointer.{name}" for name in ("save_top_k", "filename", "dirpath")),
        "checkpointer.auto_insert_metric_name",
    ),
    "evaluate.": (
        *("num_gpus", "gpu_ids", "num_nodes", "batch_size", "trt_engine"),
        *("tracking.enabled", "tracking.threshold"),
    ),
    "inference.": (
        *("num_gpus", "gpu_ids", "num_nodes", "batch_size", "trt_engine"),
        *("tracking.enabled", "tracking.threshold", "nvschema_fps"),
    ),
    "export.": (
        *("gpu_id", "on_cpu", "input_channel", "input_width", "input_height", "opset_version"),
        *("batch_size", "verbose", "format"),
    ),
    "quantize.": (
        *("backend", "mode", "algorithm", "layers", "skip_names", "model_path"),
        *("results_dir", "backend_kwargs", "device"),
    ),
}
COTRAIN = (
    *("dataset.ltt_2dgt_", "dataset.rtdetr_2d_", "dataset.canonical_2d_", "dataset.resize_to_canonical_2d"),
    *("dataset.sync_route", "dataset.real_", "dataset.scene_switch_iters"),
    *("model.sv_aux_head.", "model.head.loose_to_tight."),
)
ENCODER = "model.head.anchor_encoder.type"
ATTENTION = "model.head.graph_model.type"
VISIBILITY = "model.head.visibility_net.type"
DATA = {
    "dataset.data_root": "d",
    **{f"dataset.{name}_dataset.ann_file": "a" for name in ("train", "val", "test")},
}


def spec(values: dict[str, Any], action: str = "train") -> Any:
    given = {} if action == "dataset_convert" else DATA
    return build_spec("sparse4d", action, [Layer("override", "test", {**given, **values})]).spec


def draft(values: dict[str, Any], action: str = "train") -> Any:
    return build_spec("sparse4d", action, [Layer("override", "test", values)], draft=True).spec


def value_of(found: Any, key: str) -> Any:
    for name in key.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.skipif(not note_table.NOTES.is_dir(), reason="the design notes are not here")
def test_fields_are_those_of_the_note() -> None:
    table = note_fields.rows("sparse4d.md", "## 8. Spec fields", "## 9. ")
    assert len(table) == 228
    found = set(note_fields.differences(NETWORK, table))
    extra = {key.removesuffix(" extra") for key in found if key.endswith(" extra")}
    assert {key for key in found if not key.endswith(" extra")} == set(DEVIATIONS)
    named = {f"{section}{name}" for section, names in NOT_IN_THE_TABLE.items() for name in names}
    assert {key for key in extra if not key.startswith(COTRAIN)} == named


def test_defaults_of_the_second_table() -> None:
    assert value_of(draft({}), "model.head.operation_order") == ORDER
    assert len(ORDER) == 39
    for action in ("evaluate", "inference"):
        block = getattr(draft({}, action), action)
        assert (block.num_gpus, block.gpu_ids, block.num_nodes, block.batch_size) == (1, [0], 1, -1)
        assert (block.tracking.enabled, block.tracking.threshold) == (True, 0.2)
    export = draft({}, "export").export
    assert (export.input_channel, export.input_width, export.input_height) == (3, 960, 544)
    assert (export.opset_version, export.batch_size, export.format) == (17, -1, "onnx")
    train = draft({}).train
    assert train.checkpoint_interval_unit == "epoch"
    assert (train.cudnn.benchmark, train.cudnn.deterministic) == (False, True)
    assert train.optim.grad_clip.model_dump() == {"max_norm": 25, "norm_type": "L2"}
    assert train.optim.paramwise_cfg.custom_keys == {"img_backbone": {"lr_mult": 0.2}}
    assert train.optim.lr_scheduler.model_dump() == {
        "policy": "cosine",
        "warmup": "linear",
        "warmup_iters": 500,
        "warmup_ratio": 0.333333,
        "min_lr_ratio": 0.001,
    }


def test_features_of_the_newest_release_are_off() -> None:
    found = draft({})
    assert not found.dataset.lazy_load
    assert (found.dataset.fps_drop_prob, found.dataset.max_cameras, found.dataset.pkl_sample_size) == (
        0,
        -1,
        0,
    )
    switches = [found.dataset.eval_hota, found.train.scrub_nan_gradients, found.model.sv_aux_head.enable]
    switches += [found.model.head.loose_to_tight.enable, found.model.head.instance_bank.reset_on_time_gap]
    assert switches == [False] * 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.head.loose_to_tight.enable", True),
        ("model.sv_aux_head.enable", True),
        ("dataset.sync_route", True),
    ],
)
def test_mixed_supervision_is_refused_not_ignored(key: str, value: Any) -> None:
    with pytest.raises(ConflictError, match=f"{key}.*does not have"):
        spec({key: value})


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample specs are not here")
@pytest.mark.parametrize("action", ON_THE_NETWORK)
def test_the_documents_sample_loads_unchanged_as_a_draft(action: str) -> None:
    resolved = build_spec("sparse4d", action, [Layer("file", SAMPLE.name, read_spec(SAMPLE))], draft=True)
    nested = resolved.nested()
    assert nested["dataset"]["classes"] == ["person", "gr1_t2", "agility_digit", "nova_carter"]
    assert nested["model"]["head"]["instance_bank"]["embed_dims"] == 256
    assert nested["model"]["head"]["sampler"]["use_temporal_align"] is True
    assert nested["model"]["head"]["graph_model"]["num_heads"] == 8
    assert nested["model"]["head"]["refine_layer"]["type"] == "sparse_box_3d_refinement_module"
    assert nested["model"]["head"]["operation_order"] == ORDER
    assert nested["train"]["optim"]["paramwise_cfg"]["custom_keys"] == {"img_backbone": {"lr_mult": 0.25}}
    assert nested["train"]["optim"]["grad_clip"]["norm_type"] == "L2"
    assert nested["train"]["validation_interval"] == 1
    assert nested["train"]["pretrained_model_path"] is None
    if action == "evaluate":
        assert nested["evaluate"]["checkpoint"] == "/results/sparse4d/train/sparse4d_model_latest.pth"


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample specs are not here")
def test_the_sample_starts_once_the_marked_keys_are_given() -> None:
    file = Layer("file", SAMPLE.name, read_spec(SAMPLE))
    wanted = {
        "train": [key for key in DATA if ".test_" not in key],
        "evaluate": ["dataset.data_root", "dataset.test_dataset.ann_file"],
        "inference": ["dataset.data_root", "dataset.test_dataset.ann_file", "inference.checkpoint"],
        "export": ["export.checkpoint", "export.onnx_file"],
    }
    for action, keys in wanted.items():
        with pytest.raises(MissingValueError) as caught:
            build_spec("sparse4d", action, [file])
        assert all(key in caught.value.message for key in keys)
        given = Layer("override", "", dict.fromkeys(keys, "model.onnx"))
        assert build_spec("sparse4d", action, [file, given]).spec


def test_every_action_has_only_its_own_block() -> None:
    blocks = set(NETWORK.actions) - {"train"}
    for action, cls in NETWORK.actions.items():
        assert cls.action == action
        assert blocks & set(cls.model_fields) == ({action} & set(cls.model_fields)) - {"train"}
    assert set(NETWORK.actions["dataset_convert"].model_fields) == {
        "results_dir",
        "verbose",
        "data",
        "aicity",
    }


def test_every_value_has_a_description_and_defaults_hold_their_rules() -> None:
    for action, cls in NETWORK.actions.items():
        assert all(info.description and info.description.endswith(".") for _, info, _ in walk(cls))
        assert draft({}, action) == cls()


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("dataset_convert", ["aicity.root"]),
        ("train", ["dataset.data_root", "dataset.train_dataset.ann_file", "dataset.val_dataset.ann_file"]),
        ("evaluate", ["dataset.data_root", "dataset.test_dataset.ann_file", "evaluate.checkpoint"]),
        ("inference", ["dataset.data_root", "dataset.test_dataset.ann_file", "inference.checkpoint"]),
        ("export", ["export.checkpoint", "export.onnx_file"]),
        ("quantize", ["quantize.model_path"]),
    ],
)
def test_only_what_the_action_needs_is_mandatory(action: str, missing: list[str]) -> None:
    found = missing_keys("sparse4d", action, NETWORK.actions[action]().model_dump())
    assert sorted(found) == sorted(missing)


def test_static_quantisation_needs_calibration_data() -> None:
    keys = {"quantize.model_path": "a.pth", "quantize.mode": "static_ptq"}
    with pytest.raises(MissingValueError, match=r"quant_calibration_dataset\.images_dir.*static_ptq"):
        spec(keys, "quantize")
    assert spec({**keys, "dataset.quant_calibration_dataset.images_dir": "c"}, "quantize")


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [
        ({"train": {"lr": 0.001}}, "train.optim.lr", 0.001),
        ({"model": {"img_backbone": {"type": "ResNet101"}}}, "model.backbone.type", "resnet_101"),
        ({"model": {"backbone": {"type": "resnet50"}}}, "model.backbone.type", "resnet_50"),
        ({"model": {"head": {"type": "Sparse4DHead"}}}, "model.head.type", "sparse4d"),
        ({VISIBILITY: "VisibilityNet"}, VISIBILITY, "visibility_net"),
        ({ENCODER: "sparse_box_3d_encoder"}, ENCODER, "SparseBox3DEncoder"),
        ({ATTENTION: "multihead_attention"}, ATTENTION, "MultiheadAttention"),
        ({"model": {"head": {"norm_layer": {"type": "LayerNorm"}}}}, "model.head.norm_layer.type", "LN"),
        ({"model": {"head": {"loss": {"cls": {"type": "FocalLoss"}}}}}, "model.head.loss.cls.type", "focal"),
        ({"model": {"neck": {"add_extra_convs": False}}}, "model.neck.add_extra_convs", False),
        ({"model": {"neck": {"add_extra_convs": "False"}}}, "model.neck.add_extra_convs", False),
        ({"train": {"optim": {"type": "AdamW"}}}, "train.optim.type", "adamw"),
        ({"train": {"optim": {"grad_clip": {"norm_type": "2"}}}}, "train.optim.grad_clip.norm_type", "L2"),
        ({"train": {"optim": {"grad_clip": {"norm_type": 2.0}}}}, "train.optim.grad_clip.norm_type", "L2"),
        ({"train": {"optim": {"grad_clip": {"norm_type": 3}}}}, "train.optim.grad_clip.norm_type", 3.0),
        ({"train": {"precision": 32}}, "train.precision", "fp32"),
        ({"train": {"checkpoint_interval": 1}}, "train.checkpoint_interval", 1.0),
        ({"num_temp_instances": 0}, "model.head.instance_bank.num_temp_instances", 0),
    ],
)  # fmt: skip
def test_other_spellings(written: dict[str, Any], key: str, value: Any) -> None:
    assert value_of(draft(written), key) == value


def test_an_unknown_type_is_an_error_with_its_options() -> None:
    with pytest.raises(
        InvalidValueError, match=r"model\.head\.decoder\.type.*'Box2DDecoder'.*SparseBox3DDecoder"
    ):
        spec({"model.head.decoder.type": "Box2DDecoder"})


def test_an_unknown_key_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UnknownKeyError, match=r"num_decoders") as caught:
        spec({"model.head.num_decoders": 6})
    assert "num_decoder" in caught.value.hint


def test_widths_follow_the_token_width() -> None:
    head = draft({"model.embed_dims": 64}).model.head
    assert (head.embed_dims, head.deformable_model.kps_generator.embed_dims, head.bnneck.feat_dim) == (
        64,
        64,
        64,
    )
    assert (head.graph_model.embed_dims, head.ffn.in_channels) == (128, 128)
    assert head.anchor_encoder.embed_dims == [32, 8, 8, 16]
    head = draft(
        {"model.head.decouple_attn": False, "model.head.deformable_model.residual_mode": "add"}
    ).model.head
    assert (head.temp_graph_model.embed_dims, head.ffn.in_channels) == (256, 256)
    found = draft({"dataset.num_ids": 9, "model.use_temporal_align": True}).model.head
    assert (found.loss.id.num_ids, found.bnneck.num_ids) == (9, 9)
    assert found.instance_bank.use_temporal_align
    assert found.sampler.use_temporal_align


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"model.head.embed_dims": 128}, r"model\.head\.embed_dims.*128.*256"),
        ({"model.head.ffn.in_channels": 256}, r"ffn\.in_channels.*256.*must be 512"),
        ({"model.head.bnneck.num_ids": 71}, r"bnneck\.num_ids.*71.*70"),
        ({"model.head.num_groups": 7}, "num_groups.*256.*7"),
        ({"model.head.num_decoder": 5}, "operation_order.*6 refine steps for 5 layers"),
        ({"model.head.num_single_frame_decoder": 7}, "num_single_frame_decoder.*7.*6"),
        ({"model.head.instance_bank.num_temp_instances": 900}, "num_temp_instances.*900 carried of 900"),
        ({"model.head.sampler.num_temp_dn_groups": 6}, "num_temp_dn_groups.*6.*5"),
        ({"model.head.deformable_model.num_levels": 5}, "num_levels.*5.*4"),
        ({"model.head.anchor_encoder.embed_dims": [128, 32, 32, 32]}, "anchor_encoder.*add up to 224"),
        ({"model.head.anchor_encoder.mode": "add"}, "output_fc true"),
        ({"dataset.augmentation.rot_lim": [5.0, -5.0]}, r"rot_lim.*\[5\.0, -5\.0\].*backwards"),
        ({"dataset.classes": ["person", "box", "person"]}, "dataset.classes.*person appears more than once"),
        ({"dataset.batch_size": 101}, "batch_size.*101.*100 chunks"),
        ({"dataset.sequences.split_num": 1}, "batch_size.*2.*1 chunks"),
        ({"train.num_epochs": 1, "train.validation_interval": 1.5}, "validation_interval.*1.5.*1"),
        ({"train.num_epochs": 1, "train.checkpoint_interval": 2}, "checkpoint_interval.*2.*1"),
        ({"train.optim.paramwise_cfg.custom_keys": {"head": {"lr_mul": 1}}}, "head.lr_mul.*mean lr_mult"),
        ({"train.optim.paramwise_cfg.custom_keys": {"head": {"decay_mult": -1}}}, "head.decay_mult.*-1"),
    ],
)  # fmt: skip
def test_relations(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictError, match=said):
        spec(written)


def test_chunks_count_only_while_a_batch_streams_from_one_scene() -> None:
    assert spec({"dataset.batch_size": 101, "dataset.sequences.same_scene_in_batch": False})
    assert spec({"dataset.batch_size": 101, "dataset.train_dataset.sequences_split_num": 200})


def test_export_has_batch_size_one() -> None:
    keys = {"export.checkpoint": "a.pth", "export.onnx_file": "a.onnx"}
    assert spec({**keys, "export.batch_size": 1}, "export")
    with pytest.raises(ConflictError, match=r"export\.batch_size.*4"):
        spec({**keys, "export.batch_size": 4}, "export")


@pytest.mark.parametrize(
    "written",
    [
        {"train.precision": "int8"},
        {"train.optim.lr": -1e-5},
        {"train.checkpoint_interval": -0.5},
        {"dataset.batch_size": 0},
        {"dataset.val_dataset.tracking_threshold": 1.5},
        {"dataset.normalize.std": [1.0, 0.0, 1.0]},
        {"model.head.operation_order": ["deformable", "attend"]},
        {"model.head.reg_weights": [1.0]},
        {"model.head.deformable_model.kps_generator.fix_scale": [[0, 0]]},
        {"model.head.deformable_model.residual_mode": "mul"},
    ],
)
def test_wrong_values(written: dict[str, Any]) -> None:
    (key,) = written
    with pytest.raises(InvalidValueError, match=key):
        spec(written)


def test_the_vehicle_flavour_may_leave_out_vertical_velocity() -> None:
    assert len(draft({"model.head.reg_weights": [2.0] * 3 + [1.0] * 7}).model.head.reg_weights) == 10


def test_conversion_defaults_are_those_of_the_published_converter() -> None:
    found = spec({"aicity.root": "raw"}, "dataset_convert")
    assert found.data.model_dump() == {"input_format": "AICITY", "output_format": "OVPKL"}
    config = found.aicity.class_config.model_dump()
    names = ["Person", "FourierGR1T2", "AgilityDigit", "Transporter"]
    assert config["CLASS_LIST"] == names
    assert config["CLASS_RANGE_DICT"] == dict.fromkeys(names, 40)
    assert config["ATTRIBUTE_DICT"]["FourierGR1T2"] == "fourier_gr1_t2.moving"
    assert found.aicity.model_dump(exclude={"class_config"}) == {
        "root": "raw",
        "version": "2025",
        "split": "train",
        "recentering": True,
        "rgb_format": "mp4",
        "depth_format": "h5",
        "camera_grouping_mode": "random",
        "anchor_init_config": {
            "num_anchor": 900,
            "detection_range": -1,
            "sample_ratio": -1,
            "output_file_name": "anchor_init.npy",
        },
        "num_frames": 9000,
        "load_annotations": True,
        "fps": 30.0,
    }


def test_conversion_takes_the_edition_as_a_number_too() -> None:
    values = parse_overrides(["aicity.root=raw", "aicity.version=2026", "data.input_format=AICity"])
    found = spec(values, "dataset_convert")
    assert (found.aicity.version, found.data.input_format) == ("2026", "AICITY")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"aicity.split": "train,dev"}, "aicity.split.*'train,dev'.*train, val, test"),
        ({"aicity.split": "train,train"}, "aicity.split.*at most once"),
        ({"aicity.class_config.SUB_CLASS_DICT": {"person": ["Person"]}}, "person.*CLASS_LIST"),
    ],
)
def test_relations_of_the_conversion(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictError, match=said):
        spec({"aicity.root": "raw", **written}, "dataset_convert")


def test_names_may_be_mapped_to_training_classes() -> None:
    config = {"SUB_CLASS_DICT": {"person": ["Person"]}, "CLASS_LIST": ["person"]}
    assert spec({"aicity": {"root": "raw", "class_config": config, "split": "train, val"}}, "dataset_convert")


def test_metrics() -> None:
    primary = primary_metric(NETWORK, NETWORK.actions["train"]().model_dump())
    assert primary is not None
    assert (primary.name, primary.direction) == ("val_mAP", "max")
    assert find_metric(NETWORK, "img_bbox_NuScenes/mAP") is primary
    assert find_metric(NETWORK, "img_bbox_NuScenes_NDS").direction == "max"
    assert find_metric(NETWORK, "mATE").direction == "min"
    assert find_metric(NETWORK, "img_bbox_NuScenes/gr1_t2_AP_dist_0.5").direction == "max"
    assert find_metric(NETWORK, "img_bbox_NuScenes/gr1_t2_vel_err").direction == "min"
    assert find_metric(NETWORK, "img_bbox_HOTA/person_DetA").direction == "max"
    assert find_metric(NETWORK, "loss_cls_dn_3").direction == "min"


def test_only_the_learning_rate_is_searched_by_default() -> None:
    searched = {key for key, info, _ in walk(NETWORK.actions["train"]) if field_note(info).automl}
    assert searched == {"train.optim.lr"}


def test_base_experiments_are_valid_and_the_first_needs_no_download() -> None:
    first = NETWORK.base_experiments[0]
    assert (first.id, first.weights, dict(first.specs)) == ("sparse4d-scratch", None, {})
    for experiment in NETWORK.base_experiments:
        for action in ON_THE_NETWORK:
            layer = Layer("base-experiment", experiment.id, experiment.specs)
            assert build_spec("sparse4d", action, [layer], draft=True)
    assert NETWORK.latest_link({}) == "sparse4d_model_latest.pth"


def test_data_sources_of_a_conversion_are_folders_by_split() -> None:
    roots = {"train": "s3://b/t", "eval": "s3://b/e", "inference": "s3://b/i"}
    found = {action: build_spec_overrides("sparse4d", action, **roots) for action in NETWORK.actions}
    assert found["dataset_convert"] == {"aicity.root": "s3://b/t"}
    assert found["train"] == {
        "dataset.data_root": "s3://b/t/train",
        "model.head.instance_bank.anchor": "s3://b/t/anchor_init.npy",
        "dataset.train_dataset.ann_file": "s3://b/t/train",
        "dataset.val_dataset.ann_file": "s3://b/e/val",
        "dataset.test_dataset.ann_file": "s3://b/i/val",
    }
    assert found["evaluate"]["dataset.data_root"] == "s3://b/e/val"
    assert found["inference"]["dataset.data_root"] == "s3://b/i/test"
    assert found["inference"]["dataset.test_dataset.ann_file"] == "s3://b/i/test"
    assert found["export"] == {"model.head.instance_bank.anchor": "s3://b/t/anchor_init.npy"}
    assert found["quantize"]["dataset.quant_calibration_dataset.images_dir"] == "s3://b/t"


def test_evaluation_needs_no_dataset_but_its_own() -> None:
    assert build_spec_overrides("sparse4d", "evaluate", eval="e")["dataset.test_dataset.ann_file"] == "e/val"
    with pytest.raises(SpecError, match=r"dataset\.data_root"):
        build_spec_overrides("sparse4d", "evaluate", train="t")


def test_short_names_are_the_published_ones() -> None:
    short = load_skill_info(NETWORK).spec_shorthand_keys
    assert len(short) == 26
    assert short["anchor"] == "model.head.instance_bank.anchor"
