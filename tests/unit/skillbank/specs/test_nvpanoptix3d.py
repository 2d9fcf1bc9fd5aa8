"""NVPanoptix3D spec: equal to the design note but for listed deviations; what relations and aliases do."""

from pathlib import Path
from typing import Any

import note_fields
import note_table
import pytest

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, SpecError
from skillbank.metrics import find_metric, primary_metric
from skillbank.resolve.datasets import build_spec_overrides
from skillbank.skill_info import load_skill_info
from skillbank.specs import network
from skillbank.specs.base import field_note, walk
from skillbank.specs.load import Layer, build_spec, missing_keys, read_spec

NETWORK = network("nvpanoptix3d")
SAMPLES = sorted((note_table.NOTES.parent / "data" / "specs").glob("nvpanoptix3d_*.yaml"))
CHECKPOINTER = [
    *("enable_topk", "replace_periodic", "monitor", "mode", "save_top_k"),
    *("filename", "dirpath", "auto_insert_metric_name"),
]
DEVIATIONS = {
    "results_dir default": "the folder that the documents list, as for the other networks",
    "train.precision options": "bf16 is an extension",
    "export.input_channel low": "the options 1 and 3 say it",
    "train.checkpointer.* missing": "one row of the note for eight keys",
    **{f"train.checkpointer.{name} extra": "one row of the note for eight keys" for name in CHECKPOINTER},
}
VGGT = [
    *(
        "image_width",
        "patch_size",
        "position_grid",
        "embed_dim",
        "num_heads",
        "mlp_ratio",
        "patch_depth",
        "depth",
    ),
    *("num_register_tokens", "intermediate_layers", "camera_depth", "camera_rounds"),
    *("depth_channels", "depth_features"),
]
COMPAT = [
    *(
        "occupancy_head",
        "depth_features",
        "voxel_rule",
        "sparse_norm",
        "multi_scale_sampling",
        "lifting_fill",
    ),
]
ADDED = {
    **{f"model.backbone.vggt.{name}": "size of the backbone" for name in VGGT},
    **{f"model.occupancy_head.{name}": "size of a head" for name in ("bins", "channels", "fusion_channels")},
    **{f"model.sem_seg_head.{name}": "size of the adapter" for name in ("adapter_dim", "adapter_channels")},
    **{f"model.compat.{name}": "a corrected defect, for published weights" for name in COMPAT},
    "model.backbone.freeze": "a backbone without public weights has to learn",
    "model.frustum3d.max_voxels": "a cap while training, too",
    "dataset.cache_dir": "reading volumes is the slowest part",
    "inference.intrinsics": "photos of any camera",
    "inference.meshes": "meshes and page",
    "inference.volumes": "volumes take space",
}
DEVIATIONS |= {f"{key} extra": reason for key, reason in ADDED.items()}
DATA = {
    f"dataset.{split}.{key}": "x" for split in ("train", "val", "test") for key in ("json_path", "base_dir")
}
S3_TRAIN = "s3://bucket/data/train"
S3_EVAL = "s3://bucket/data/eval"


def spec(values: dict[str, Any], action: str = "train") -> Any:
    return build_spec("nvpanoptix3d", action, [Layer("override", "test", {**DATA, **values})]).spec


def draft(values: dict[str, Any], action: str = "train") -> Any:
    return build_spec("nvpanoptix3d", action, [Layer("override", "test", values)], draft=True).spec


def value_of(found: Any, key: str) -> Any:
    for name in key.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.skipif(not note_table.NOTES.is_dir(), reason="the design notes are not here")
def test_fields_are_those_of_the_note() -> None:
    table = note_fields.rows("nvpanoptix3d.md", "## 10. Configuration", "### 10.1")
    assert len(table) == 213
    assert set(note_fields.differences(NETWORK, table)) == set(DEVIATIONS)


@pytest.mark.skipif(not SAMPLES, reason="the sample specs are not here")
@pytest.mark.parametrize("action", list(NETWORK.actions))
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_documents_samples_load_unchanged_as_drafts(sample: Path, action: str) -> None:
    nested = build_spec(
        "nvpanoptix3d", action, [Layer("file", sample.name, read_spec(sample))], draft=True
    ).nested()
    is_matterport, is_stage_2 = "matterport" in sample.stem, sample.stem.endswith("_3d")
    assert nested["dataset"]["name"] == ("matterport" if is_matterport else "front3d")
    assert nested["dataset"]["downsample_factor"] == (2 if is_matterport else 1)
    assert nested["dataset"]["enable_3d"] is is_stage_2
    assert nested["dataset"]["frustum_mask_path"] == ""
    assert nested["train"]["optim"]["lr_scheduler"] == "Warmuppoly"
    assert nested["train"]["precision"] == "fp32"
    assert bool(nested["train"]["checkpoint_2d"]) is is_stage_2
    assert nested.keys() & {"evaluate", "inference", "export", "gen_trt_engine"} == {action} - {"train"}


@pytest.mark.skipif(not SAMPLES, reason="the sample specs are not here")
@pytest.mark.parametrize(
    ("action", "overrides"),
    [
        ("train", {}),
        ("evaluate", {"evaluate.checkpoint": "a.pth"}),
        ("inference", {"inference.images_dir": "images", "inference.checkpoint": "a.pth"}),
        ("export", {"export.checkpoint": "a.pth"}),
    ],
)
def test_the_samples_start_with_the_documented_overrides(action: str, overrides: dict[str, str]) -> None:
    assert len(SAMPLES) == 4
    for sample in SAMPLES:
        layers = [Layer("file", sample.name, read_spec(sample)), Layer("override", "", overrides)]
        assert build_spec("nvpanoptix3d", action, layers).spec


def test_every_action_has_only_its_own_block() -> None:
    blocks = set(NETWORK.actions) - {"train"}
    for action, cls in NETWORK.actions.items():
        assert cls.action == action
        assert blocks & set(cls.model_fields) == {action} - {"train"}


def test_every_value_has_a_description_and_defaults_hold_their_rules() -> None:
    for action, cls in NETWORK.actions.items():
        assert all(info.description and info.description.endswith(".") for _, info, _ in walk(cls))
        assert draft({}, action) == cls()


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("train", [key for key in DATA if ".test." not in key]),
        ("evaluate", ["dataset.test.json_path", "dataset.test.base_dir", "evaluate.checkpoint"]),
        ("inference", ["inference.images_dir", "inference.checkpoint"]),
        ("export", ["export.checkpoint", "export.onnx_file_2d"]),
        ("gen_trt_engine", ["gen_trt_engine.onnx_file", "gen_trt_engine.trt_engine"]),
    ],
)
def test_mandatory_keys(action: str, missing: list[str]) -> None:
    found = missing_keys("nvpanoptix3d", action, NETWORK.actions[action]().model_dump())
    assert sorted(found) == sorted(missing)
    with pytest.raises(MissingValueError) as caught:
        build_spec("nvpanoptix3d", action, [])
    assert all(key in caught.value.message for key in missing)


def test_stage_two_needs_weights_of_stage_one() -> None:
    with pytest.raises(MissingValueError, match=r"train\.checkpoint_2d.*stage-1") as caught:
        spec({"dataset.enable_3d": True})
    assert "--parent-job-id" in caught.value.hint
    for key in ("checkpoint_2d", "checkpoint_3d", "resume_training_checkpoint_path"):
        assert spec({"dataset.enable_3d": True, f"train.{key}": "a.pth"})


@pytest.mark.parametrize("action", ["evaluate", "inference"])
def test_an_engine_of_stage_two_needs_a_checkpoint_for_the_volume(action: str) -> None:
    files: dict[str, Any] = {"dataset.test.json_path": "t.json", "dataset.test.base_dir": "data"}
    if action == "inference":
        files = {"inference.images_dir": "images"}
    flat, deep = {**files, "dataset.enable_3d": False}, {**files, "dataset.enable_3d": True}
    weights, engine = f"{action}.checkpoint", f"{action}.trt_engine"
    for given in ({engine: "m.engine"}, {weights: "m.onnx"}, {weights: "m.ONNX", engine: "m.ONNX"}):
        assert spec({**flat, **given}, action)
        with pytest.raises(
            MissingValueError, match=rf"{action}\.checkpoint.*nothing says where the 3D part is"
        ):
            spec({**deep, **given}, action)
    for given in ({weights: "m.pth"}, {weights: "m.pth", engine: "m.engine"}):
        assert spec({**deep, **given}, action)


def test_a_stage_two_draft_waits_for_its_parent() -> None:
    nested = draft({"dataset.enable_3d": True}).model_dump()
    assert "train.checkpoint_2d" in missing_keys("nvpanoptix3d", "train", nested)
    assert "train.checkpoint_2d" not in missing_keys("nvpanoptix3d", "train", draft({}).model_dump())


def test_stage_one_and_other_actions_need_no_stage_one_weights() -> None:
    assert spec({"dataset.enable_3d": False})
    assert spec({"dataset.enable_3d": True, "evaluate.checkpoint": "a.pth"}, "evaluate")


def test_either_onnx_key_is_enough() -> None:
    for key in ("onnx_file_2d", "onnx_file"):
        assert spec({"export.checkpoint": "a.pth", f"export.{key}": "m.onnx"}, "export")
    with pytest.raises(SpecError, match=r"export\.onnx_file_2d.*'m\.etlt'.*\.onnx"):
        spec({"export.checkpoint": "a.pth", "export.onnx_file_2d": "m.etlt"}, "export")


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [
        ({"train": {"lr": 0.001}}, "train.optim.lr", 0.001),
        ({"train": {"lr_scheduler": "multistep"}}, "train.optim.lr_scheduler", "MultiStep"),
        ({"train": {"optim": {"lr_scheduler": "WarmupPoly"}}}, "train.optim.lr_scheduler", "Warmuppoly"),
        ({"train": {"milestones": [1, 2]}}, "train.optim.milestones", [1, 2]),
        ({"train": {"precision": "BF16"}}, "train.precision", "bf16"),
        ({"train": {"precision": 16}}, "train.precision", "fp16"),
        ({"train": {"distributed_strategy": "FSDP"}}, "train.distributed_strategy", "fsdp"),
        ({"model": {"backbone_type": "VGGT"}}, "model.backbone.backbone_type", "vggt"),
        ({"model": {"grid_dimensions": 128}}, "model.frustum3d.frustum_dims", 128),
        ({"model": {"frustum_dims": 64, "grid_dimensions": 64}}, "model.frustum3d.grid_dimensions", 64),
        ({"dataset": {"name": "Matterport3D"}}, "dataset.name", "matterport"),
        ({"dataset": {"augmentation": {"random_flip": "none"}}}, "dataset.augmentation.random_flip", ""),
        ({"learning_rate": 0.5}, "train.optim.lr", 0.5),
        ({"decoder_layers": 4}, "model.mask_former.dec_layers", 4),
    ],
)
def test_other_spellings(written: dict[str, Any], key: str, value: Any) -> None:
    assert value_of(draft(written), key) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.frustum3d.grid_dimensions": 100}, r"100 does not divide .* 64, 128, 256"),
        ({"model.frustum3d.frustum_dims": 128}, r"256 and 128 differ"),
        (
            {"model.backbone.vggt.intermediate_layers": [4, 3, 17, 23]},
            r"\[4, 3, 17, 23\] is not in increasing",
        ),
        ({"model.backbone.vggt.depth": 20}, r"23 is not there; the last of 20 is 19"),
        ({"model.backbone.vggt.embed_dim": 100}, r"100 is not a multiple of four times 16 heads"),
        ({"model.backbone.vggt.depth_features": 20}, r"20 is no multiple of 8"),
        ({"model.backbone.vggt.depth_channels": [4, 6, 8, 10]}, r"6, 10 is no multiple of 4"),
        ({"dataset.depth_size": [60, 80]}, r"\[60, 80\] .* is not \[160, 120\]"),
        ({"model.backbone.vggt.image_width": 450}, r"450 is not a multiple of 14"),
    ],
)
def test_sizes_of_the_network_have_to_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(values)


def test_one_setting_moves_the_plane_of_the_3d_stage() -> None:
    assert draft({"dataset.reduced_target_size": [80, 60]}).dataset.depth_size == [60, 80]


def test_engine_keys_of_the_stand_alone_builder() -> None:
    built = spec(
        {"gen_trt_engine": {"onnx_file_2d": "m.onnx", "trt_engine_2d": "m.engine"}}, "gen_trt_engine"
    )
    assert (built.gen_trt_engine.onnx_file, built.gen_trt_engine.trt_engine) == ("m.onnx", "m.engine")


def test_the_dataset_name_decides_the_metric_volume() -> None:
    found = draft({"dataset.name": "matterport"}).dataset
    assert (found.downsample_factor, found.iso_value) == (2, 2.0)
    found = draft({"dataset.name": "synthetic_hospital"}).dataset
    assert (found.downsample_factor, found.iso_value) == (1, 1.0)
    assert draft({"dataset.name": "matterport", "dataset.iso_value": 1.5}).dataset.iso_value == 1.5


def test_a_followed_default_says_what_it_follows() -> None:
    resolved = build_spec(
        "nvpanoptix3d", "train", [Layer("override", "", {"dataset.name": "matterport"})], draft=True
    )
    assert resolved.origins["dataset.downsample_factor"].kind == "default"
    assert "dataset.name" in resolved.origins["dataset.downsample_factor"].detail


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            {"dataset.name": "matterport", "dataset.downsample_factor": 1},
            "downsample_factor.*'matterport'.*need 2",
        ),
        ({"dataset.downsample_factor": 2}, "downsample_factor.*'front3d'.*need 1"),
        ({"train.num_epochs": 2, "train.validation_interval": 3}, "validation_interval.*3.*2"),
        ({"train.num_epochs": 2, "train.checkpoint_interval": 3}, "checkpoint_interval.*3.*2"),
        ({"dataset.depth_min": 7.0}, "depth_min.*7 m.*6 m"),
        ({"dataset.truncation_range": [12.0, 3.0]}, "truncation_range.*12.*3"),
        ({"model.frustum3d.truncation": 13.0}, "truncation.*13 is above 12"),
        ({"dataset.num_thing_classes": 13}, "num_thing_classes.*13 things.*13 classes"),
        ({"model.mask_former.nheads": 7}, "hidden_dim.*256.*7"),
        ({"dataset.augmentation.train_min_size": [240, 900]}, "train_min_size.*900.*768"),
        ({"dataset.augmentation.test_max_size": 200}, "test_min_size.*240.*200"),
    ],
)
def test_relations(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictError, match=said):
        spec(written)


def test_relations_of_the_engine() -> None:
    keys = {"gen_trt_engine.onnx_file": "m.onnx", "gen_trt_engine.trt_engine": "m.engine"}
    with pytest.raises(ConflictError, match=r"max_batch_size.*2, 1, 1"):
        spec({**keys, "gen_trt_engine.tensorrt.min_batch_size": 2}, "gen_trt_engine")


def test_a_matterport_export_is_not_asked_for_metric_settings() -> None:
    keys = {"export.checkpoint": "a.pth", "export.onnx_file_2d": "m.onnx", "dataset.downsample_factor": 2}
    assert spec(keys, "export")


@pytest.mark.parametrize(
    "written",
    [
        {"train.optim.lr": 1.5},
        {"train.optim.type": "SGD"},
        {"train.optim.lr_scheduler": "StepLR"},
        {"train.precision": "int8"},
        {"train.val_check_interval": 0},
        {"model.mask_former.dropout": 1.1},
        {"model.frustum3d.completion_weights": [1.0, 2.0]},
        {"model.projection.voxel_size": 0.0},
        {"dataset.name": "scannet"},
        {"dataset.target_size": [320]},
        {"dataset.augmentation.train_max_size": 31},
        {"dataset.enable_3d": "maybe"},
    ],
)
def test_wrong_values(written: dict[str, Any]) -> None:
    (key,) = written
    with pytest.raises(InvalidValueError, match=key):
        spec(written)


def test_the_metric_depends_on_the_stage() -> None:
    stages = [primary_metric(NETWORK, {"dataset": {"enable_3d": is_3d}}) for is_3d in (False, True)]
    assert [(metric.name, metric.direction) for metric in stages if metric] == [
        ("val_dpq_averages_epoch", "max"),
        ("PRQ", "max"),
    ]
    assert find_metric(NETWORK, "PQ") is stages[0]
    assert find_metric(NETWORK, "RRQ").when == {"dataset.enable_3d": True}
    assert find_metric(NETWORK, "train_dpq_th_0.25_epoch").when == {"dataset.enable_3d": False}
    assert find_metric(NETWORK, "val_loss").direction == "min"


def test_links_to_the_newest_checkpoint_of_each_stage() -> None:
    assert NETWORK.latest_link({"dataset": {"enable_3d": False}}) == "panoptic_recon_3d_model_latest.pth"
    assert NETWORK.latest_link({"dataset": {"enable_3d": True}}) == "nvpanoptix3d_model_latest.pth"
    assert NETWORK.latest_link({}) == "panoptic_recon_3d_model_latest.pth"


def test_only_the_documented_keys_are_searched_by_default() -> None:
    searched = {key for key, info, _ in walk(NETWORK.actions["train"]) if field_note(info).automl}
    assert searched == {
        f"train.optim.{name}" for name in ("lr", "backbone_multiplier", "momentum", "weight_decay")
    }


def test_base_experiments_are_valid_and_the_first_needs_no_download() -> None:
    first = NETWORK.base_experiments[0]
    assert (first.id, first.weights, dict(first.specs)) == ("nvpanoptix3d-scratch", None, {})
    assert len(NETWORK.base_experiments) == 5
    for experiment in NETWORK.base_experiments:
        for action in NETWORK.actions:
            layer = Layer("base-experiment", experiment.id, experiment.specs)
            nested = build_spec("nvpanoptix3d", action, [layer], draft=True).nested()
            is_matterport = "matterport" in experiment.id
            assert nested["dataset"]["downsample_factor"] == (2 if is_matterport else 1)
    size = build_spec("nvpanoptix3d", "export", [layer], draft=True).nested()["export"]
    assert (size["input_width"], size["input_height"]) == (320, 256)


def test_the_documented_override_maps_come_out_exactly() -> None:
    of_eval = {
        "dataset.frustum_mask_path": f"{S3_EVAL}/meta/frustum_mask.npz",
        "dataset.label_map": f"{S3_EVAL}/meta/colormap.json",
    }
    splits = {
        "dataset.val.json_path": f"{S3_EVAL}/meta/val.json",
        "dataset.val.base_dir": S3_EVAL,
        "dataset.test.json_path": f"{S3_EVAL}/meta/test.json",
        "dataset.test.base_dir": S3_EVAL,
    }
    assert build_spec_overrides("nvpanoptix3d", "train", train=S3_TRAIN, eval=S3_EVAL) == {
        "dataset.frustum_mask_path": f"{S3_TRAIN}/meta/frustum_mask.npz",
        "dataset.label_map": f"{S3_TRAIN}/meta/colormap.json",
        "dataset.train.json_path": f"{S3_TRAIN}/meta/train.json",
        "dataset.train.base_dir": S3_TRAIN,
        **splits,
    }
    assert build_spec_overrides("nvpanoptix3d", "evaluate", eval=S3_EVAL) == {**of_eval, **splits}
    for role in ("eval", "inference"):
        assert build_spec_overrides("nvpanoptix3d", "inference", **{role: S3_EVAL}) == {
            **of_eval,
            "inference.images_dir": f"{S3_EVAL}/images.tar.gz",
        }


def test_missing_datasets_are_all_named() -> None:
    with pytest.raises(MissingValueError) as caught:
        build_spec_overrides("nvpanoptix3d", "train", train=S3_TRAIN)
    assert "dataset.val.json_path" in caught.value.message
    assert "dataset.val.base_dir" in caught.value.message


@pytest.mark.parametrize(("name", "factor", "iso"), [("front3d", 1, 1.0), ("matterport", 2, 2.0)])
def test_the_dataset_format_sets_name_and_metric_volume(name: str, factor: int, iso: float) -> None:
    found = build_spec_overrides("nvpanoptix3d", "evaluate", eval=S3_EVAL, format=name)
    assert found["dataset.name"] == name
    assert (found["dataset.downsample_factor"], found["dataset.iso_value"]) == (factor, iso)
    assert found["dataset.contiguous_id"] is True


def test_inference_functions_are_the_documented_sixteen() -> None:
    params = load_skill_info(NETWORK).spec_params
    documented = {action: params[action] for action in ("train", "evaluate", "inference", "export")}
    assert sum(len(keys) for keys in documented.values()) == 16
    assert documented["train"]["train.checkpoint_2d"] == "parent_model_or_ptm"
    assert documented["train"]["train.checkpoint_3d"] == "ptm"
    assert documented["export"]["export.onnx_file_2d"] == "create_onnx_file_2d"


def test_files_a_rule_names_are_the_documented_seventeen() -> None:
    sources = load_skill_info(NETWORK).data_sources
    files = [(action, key) for action, rules in sources.items() for key, rule in rules.items() if rule.source]
    assert len(files) == 17
