import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_bench import Bench, Recorder, join_network

from skillbank.errors import (
    ConflictError,
    InvalidValueError,
    JobFailedError,
    MissingFilesError,
    MissingValueError,
    NotFoundError,
    SkillBankError,
    SpecError,
    UsageError,
)
from skillbank.explain import explain_spec
from skillbank.jobs.record import Datasets, Job
from skillbank.plan import Plan, plan_job, run_in_process
from skillbank.specs.load import default_spec

DATA = Datasets(train=("s3://bucket/train",), eval="s3://bucket/eval", format="coco_panoptic")
ROOMS = Datasets(train=("s3://bucket/rooms",), eval="s3://bucket/rooms")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    made.store.close()


def plan(bench: Bench, network: str, action: str, **options: Any) -> Plan:
    options = {"launcher": Recorder(), "automl_policy": "off", **options}
    return plan_job(network, action, store=bench.store, **options)


def refused(bench: Bench, network: str, action: str, **options: Any) -> SkillBankError:
    with pytest.raises(SkillBankError) as caught:
        plan(bench, network, action, **options)
    return caught.value


def keys_of(error: SkillBankError) -> set[str | None]:
    return {problem.key for problem in error.problems or (error,)}


def value(found: Plan, key: str) -> Any:
    return next(row.value for row in explain_spec(found.spec, found.deferred) if row.key == key)


def origin(found: Plan, key: str) -> tuple[str, str]:
    row = next(row for row in explain_spec(found.spec, found.deferred) if row.key == key)
    return row.origin, row.detail


def trained(
    bench: Bench, network: str = "mask2former", specs: dict[str, Any] | None = None, **options: Any
) -> Job:
    job = bench.job(network, "train", specs, **options)
    bench.checkpoint(job, "train/model_epoch_004.pth", epoch=4)
    return job


def test_values_come_from_where_they_should(bench: Bench) -> None:
    found = plan(
        bench, "mask2former", "train", datasets=DATA,
        base_experiment_id="mask2former-coco-panoptic-swin-tiny",
        specs={"train": {"num_epochs": 5, "seed": 7}, "dataset": {"label_map": "mine.json"}},
        overrides=["train.seed=9"],
    )  # fmt: skip

    assert origin(found, "model.sem_seg_head.num_classes") == (
        "base-experiment", "mask2former-coco-panoptic-swin-tiny",
    )  # fmt: skip
    assert origin(found, "train.num_epochs") == ("file", "spec")
    assert (value(found, "train.seed"), origin(found, "train.seed")[0]) == (9, "override")
    assert origin(found, "dataset.train.panoptic_json")[0] == "dataset"
    assert origin(found, "results_dir")[0] == "output"
    assert origin(found, "train.optim.lr")[0] == "default"
    # a dataset named on the command line beats the file, and the file's loss is told
    assert value(found, "dataset.label_map") == "s3://bucket/train/label_map_panoptic.json"
    assert any("dataset.label_map" in note and "mine.json" in note for note in found.notes)
    assert value(found, "train.pretrained_model_path").startswith("https://")


def test_every_value_is_explained_once(bench: Bench) -> None:
    rows = explain_spec(plan(bench, "mask2former", "train", datasets=DATA).spec)

    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert len(keys) > 100
    assert {row.origin for row in rows} == {"default", "dataset", "output"}
    assert json.dumps([row.to_dict() for row in rows])


def test_all_problems_come_at_once(bench: Bench) -> None:
    error = refused(
        bench, "mask2former", "train", datasets=Datasets(train=("s3://bucket/t",)),
        specs={"train": {"num_epochs": "many", "checkpoint_intervall": 2}},
    )  # fmt: skip

    assert isinstance(error, SpecError)
    assert {"train.num_epochs", "dataset.val.img_dir", "dataset.val.panoptic_json"} <= keys_of(error)
    assert "train.checkpoint_interval" in error.message  # the nearest key
    assert "--eval-dataset-uri" in error.message


def test_without_datasets_the_spec_is_the_source(bench: Bench) -> None:
    specs = {
        "dataset": {
            "train": {"json_path": "/d/train.json", "base_dir": "/d"},
            "val": {"json_path": "/d/val.json", "base_dir": "/d"},
        }
    }

    found = plan(bench, "nvpanoptix3d", "train", specs=specs)

    assert value(found, "dataset.train.base_dir") == "/d"
    assert not value(found, "dataset.label_map")
    assert origin(found, "dataset.name")[0] == "default"


def test_with_a_dataset_every_mandatory_key_is_demanded(bench: Bench) -> None:
    specs = {"dataset": {"train": {"json_path": "/d/train.json", "base_dir": "/d"}}}

    error = refused(bench, "nvpanoptix3d", "train", specs=specs, datasets=Datasets(eval="s3://bucket/rooms"))

    assert keys_of(error) == {"dataset.frustum_mask_path", "dataset.label_map"}
    assert "--train-dataset-uri" in error.message


def test_neither_datasets_nor_spec_lists_everything(bench: Bench) -> None:
    error = refused(bench, "mask2former", "evaluate", overrides=["evaluate.checkpoint=/m.pth"])

    assert isinstance(error, MissingValueError)
    assert {"dataset.val.img_dir", "dataset.val.panoptic_json"} <= keys_of(error)
    assert len(keys_of(error)) == len(error.problems)


def test_constants_yield_to_the_spec(bench: Bench) -> None:
    plain = plan(bench, "nvpanoptix3d", "train", datasets=ROOMS)
    own = plan(bench, "nvpanoptix3d", "train", datasets=ROOMS, specs={"dataset": {"iso_value": 3.0}})

    assert value(plain, "dataset.iso_value") == 1.0
    assert (value(own, "dataset.iso_value"), origin(own, "dataset.iso_value")) == (3.0, ("file", "spec"))
    assert any(note.startswith("dataset.iso_value: 3.0 of spec is used") for note in own.notes)


def outcome(found: Plan) -> dict[str, tuple[Any, str, str]]:
    return {row.key: (row.value, row.origin, row.detail) for row in explain_spec(found.spec, found.deferred)}


@pytest.mark.parametrize(
    ("network", "base"),
    [
        ("mask2former", "mask2former-swin-large-in22k"),
        ("oneformer", None),
        ("nvpanoptix3d", None),
        ("sparse4d", None),
    ],
)
def test_a_printed_default_spec_is_no_choice(bench: Bench, network: str, base: str | None) -> None:
    options: dict[str, Any] = {"datasets": ROOMS, "base_experiment_id": base}

    printed = plan(bench, network, "train", specs=default_spec(network, "train"), **options)
    empty = plan(bench, network, "train", specs="{}", **options)

    assert outcome(printed) == outcome(empty)
    assert printed.notes == empty.notes


def test_what_wins_over_printed_defaults(bench: Bench) -> None:
    specs = default_spec("mask2former", "train")
    specs["model"]["mask_former"]["num_object_queries"] = 150
    options: dict[str, Any] = {"specs": specs, "base_experiment_id": "mask2former-swin-large-in22k"}

    found = plan(bench, "mask2former", "train", datasets=ROOMS, **options)
    typed = plan(
        bench, "mask2former", "train", datasets=ROOMS, overrides=["dataset.train.type=ade"], **options
    )

    assert (value(found, "dataset.train.type"), origin(found, "dataset.train.type")[0]) == (
        "coco_panoptic", "dataset",
    )  # fmt: skip
    assert (value(found, "model.backbone.swin.type"), origin(found, "model.backbone.swin.type")[0]) == (
        "large", "base-experiment",
    )  # fmt: skip
    assert value(found, "model.mask_former.num_object_queries") == 150
    assert any("150 of spec is used, base experiment" in note and "200" in note for note in found.notes)
    assert (value(typed, "dataset.train.type"), origin(typed, "dataset.train.type")[0]) == ("ade", "override")


@pytest.mark.parametrize("network", ["mask2former", "oneformer"])
def test_the_size_of_the_backbone_shows_in_the_plan(bench: Bench, network: str) -> None:
    specs, swin = default_spec(network, "train"), "model.backbone.swin"

    found = plan(bench, network, "train", datasets=ROOMS, specs=specs, overrides=[f"{swin}.type=base"])
    own = plan(
        bench, network, "train", datasets=ROOMS, specs=specs,
        overrides=[f"{swin}.type=base", f"{swin}.depths=[2,2,6,2]"],
    )  # fmt: skip

    sizes = [value(found, f"{swin}.{name}") for name in ("embed_dim", "depths", "num_heads")]
    assert sizes == [128, [2, 2, 18, 2], [4, 8, 16, 32]]
    assert origin(found, f"{swin}.embed_dim") == ("default", f"follows {swin}.type")
    assert (value(own, f"{swin}.embed_dim"), value(own, f"{swin}.depths")) == (128, [2, 2, 6, 2])


def test_a_format_told_by_the_spec_sets_what_follows(bench: Bench) -> None:
    found = plan(bench, "nvpanoptix3d", "train", datasets=ROOMS, specs={"dataset": {"name": "matterport"}})

    assert (value(found, "dataset.downsample_factor"), value(found, "dataset.iso_value")) == (2, 2.0)
    assert "dataset.name of the spec" in origin(found, "dataset.iso_value")[1]


def test_a_format_on_the_command_line_beats_the_spec(bench: Bench) -> None:
    datasets = Datasets(train=("s3://bucket/rooms",), eval="s3://bucket/rooms", format="matterport")

    found = plan(
        bench,
        "nvpanoptix3d",
        "train",
        datasets=datasets,
        specs={"dataset": {"name": "front3d", "downsample_factor": 1}},
    )

    assert (value(found, "dataset.name"), value(found, "dataset.downsample_factor")) == ("matterport", 2)


@pytest.mark.parametrize(
    "option",
    [
        "parent_job_id",
        "base_experiment_id",
        "workspace_id",
        "experiment_id",
        "encryption_key",
        "idempotency_key",
        "name",
    ],
)
def test_an_empty_variable_is_a_usage_error(bench: Bench, option: str) -> None:
    error = refused(bench, "mask2former", "train", datasets=DATA, **{option: " "})

    assert isinstance(error, UsageError)
    assert option in error.message
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        ({"kind": "dream"}, UsageError, "experiment or dataset"),
        ({"checkpoint": "newest"}, UsageError, "epoch:N"),
        ({"launcher": "abacus"}, UsageError, "local or debug"),
        ({"parent_job_id": "mask2former-train-000000"}, NotFoundError, "mask2former-train-000000"),
        ({"base_experiment_id": "gone"}, NotFoundError, "mask2former-scratch"),
        ({"automl_policy": "on", "automl_settings": {"trails": 3}}, SkillBankError, ""),
        ({"specs": "@/no/such/spec.yaml"}, NotFoundError, "/no/such/spec.yaml"),
        ({"overrides": ["train.num_epochs"]}, UsageError, "key=value"),
    ],
)
def test_wrong_options(bench: Bench, options: dict[str, Any], kind: type[SkillBankError], word: str) -> None:
    error = refused(bench, "mask2former", "train", datasets=DATA, **options)

    assert isinstance(error, kind)
    assert word in error.message
    assert error.hint or error.problems


def test_datasets_that_are_no_places_are_all_named(bench: Bench) -> None:
    error = refused(
        bench, "mask2former", "train", datasets=Datasets(train=("ngc://org/data",), eval="s3:///no/bucket")
    )

    assert isinstance(error, InvalidValueError)
    assert "--train-dataset-uri" in error.message
    assert "--eval-dataset-uri" in error.message


def test_a_parent_without_checkpoint_is_told_once(bench: Bench) -> None:
    parent = bench.job("mask2former", "train")

    error = refused(bench, "mask2former", "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="/e"))

    assert isinstance(error, NotFoundError)
    assert error.exit_code == 4
    assert error.problems == ()
    assert parent.id in error.message


def test_problems_of_several_kinds_are_a_fault_of_the_spec(bench: Bench) -> None:
    parent = bench.job("mask2former", "train")

    error = refused(
        bench, "mask2former", "evaluate", parent_job_id=parent.id, datasets=Datasets(train=("/t",)),
        overrides=["model.mode=dreamy"],
    )  # fmt: skip

    assert error.exit_code == 3
    assert {"parent_job_id", "model.mode", "dataset.val.img_dir"} <= keys_of(error)


def test_unknown_network_and_action(bench: Bench) -> None:
    assert isinstance(refused(bench, "mask4former", "train"), NotFoundError)
    assert isinstance(refused(bench, "mask2former", "fly"), NotFoundError)


def test_relative_paths_are_those_of_the_caller(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    found = plan(
        bench, "mask2former", "export", overrides=["export.checkpoint=m.pth", "export.onnx_file=out/m.onnx"]
    )

    assert value(found, "export.checkpoint") == str(tmp_path / "m.pth")
    assert value(found, "export.onnx_file") == str(tmp_path / "out" / "m.onnx")
    datasets = Datasets(train=("rooms",), eval="rooms")
    assert value(plan(bench, "nvpanoptix3d", "train", datasets=datasets), "dataset.train.base_dir") == str(
        tmp_path / "rooms"
    )


def test_results_go_to_the_folder_of_the_job(bench: Bench) -> None:
    specs = {"results_dir": "/mine", "train": {"results_dir": "/mine/train"}}

    found = plan(bench, "mask2former", "train", datasets=DATA, specs=specs)

    assert value(found, "results_dir") == str(bench.store.folders / "JOB" / "results")
    assert not value(found, "train.results_dir")
    assert found.results_dir is None
    assert sum("results go to the folder of the job" in note for note in found.notes) == 2


def test_results_go_where_the_spec_says_when_that_is_wanted(bench: Bench) -> None:
    specs = {"results_dir": "/mine", "train": {"results_dir": "/other"}}

    found = plan(bench, "mask2former", "train", datasets=DATA, specs=specs, keep_results_dir=True)

    assert (value(found, "results_dir"), value(found, "train.results_dir")) == ("/mine", "/other")
    assert found.results_dir == "/mine"


def test_a_results_folder_on_the_command_line_always_counts(bench: Bench) -> None:
    found = plan(bench, "mask2former", "train", datasets=DATA, overrides=["results_dir=/asked"])

    assert (value(found, "results_dir"), found.results_dir) == ("/asked", "/asked")


def test_remote_results_are_written_locally_first(bench: Bench) -> None:
    found = plan(bench, "mask2former", "train", datasets=DATA, overrides=["results_dir=s3://bucket/runs/1"])

    assert found.results_dir == "s3://bucket/runs/1"
    assert value(found, "results_dir") == str(bench.store.folders / "JOB" / "results")
    assert any("uploaded to s3://bucket/runs/1" in note for note in found.notes)


def test_the_parent_gives_checkpoint_and_model(bench: Bench) -> None:
    parent = trained(bench, specs={"model": {"mask_former": {"num_object_queries": 50}, "mode": "instance"}})

    found = plan(
        bench, "mask2former", "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="s3://bucket/e")
    )

    assert value(found, "evaluate.checkpoint").endswith("model_epoch_004.pth")
    assert value(found, "model.mask_former.num_object_queries") == 50
    assert value(found, "model.mode") == "instance"
    assert origin(found, "model.mode") == ("parent", f"model of job {parent.id}")
    assert found.deferred == {}


def test_the_model_of_the_parent_beats_defaults_in_the_file(bench: Bench) -> None:
    """A printed default spec names every key; that is no wish for another architecture, and needs no note."""
    parent = trained(bench, specs={"model": {"mask_former": {"num_object_queries": 50}}})
    options: dict[str, Any] = {"parent_job_id": parent.id, "datasets": Datasets(eval="s3://bucket/e")}
    printed = {"model": {"mask_former": {"num_object_queries": 100}}}

    found = plan(bench, "mask2former", "evaluate", specs=printed, **options)
    wished = plan(bench, "mask2former", "evaluate", specs={"model": {"mode": "semantic"}}, **options)
    forced = plan(
        bench, "mask2former", "evaluate", overrides=["model.mask_former.num_object_queries=100"], **options
    )

    assert value(found, "model.mask_former.num_object_queries") == 50
    assert not [note for note in found.notes if "num_object_queries" in note]
    assert value(wished, "model.mode") == "semantic"
    assert any("model.mode" in note and "semantic" in note for note in wished.notes)
    assert value(forced, "model.mask_former.num_object_queries") == 100


def test_pretrained_backbones_do_not_follow_the_weights(bench: Bench) -> None:
    parent = trained(bench, specs={"model": {"backbone": {"pretrained_weights": "https://x/y.pth"}}})

    found = plan(
        bench, "mask2former", "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="s3://bucket/e")
    )

    assert not value(found, "model.backbone.pretrained_weights")


def test_data_of_the_model_follows_when_nothing_else_gives_it(bench: Bench) -> None:
    parent = trained(
        bench, "sparse4d", {"model": {"head": {"instance_bank": {"anchor": "/a/anchor_init.npy"}}}}
    )

    found = plan(bench, "sparse4d", "export", parent_job_id=parent.id)

    assert value(found, "model.head.instance_bank.anchor") == "/a/anchor_init.npy"
    assert origin(found, "model.head.instance_bank.anchor") == ("parent", f"as in job {parent.id}")


def test_a_parent_that_runs_defers_and_everything_else_is_checked(bench: Bench) -> None:
    parent = bench.job("nvpanoptix3d", "train", {"dataset": {"enable_3d": False}}, state="running")

    found = plan(bench, "nvpanoptix3d", "train", parent_job_id=parent.id, datasets=ROOMS)

    assert found.deferred == {"train.checkpoint_2d": f"<from job {parent.id} when it is done>"}
    assert value(found, "train.checkpoint_2d") == f"<from job {parent.id} when it is done>"
    assert found.resolution.nested()["train"]["checkpoint_2d"] is None
    row = next(row for row in explain_spec(found.spec, found.deferred) if row.key == "train.checkpoint_2d")
    assert row.deferred
    assert row.origin == "parent"
    error = refused(
        bench,
        "nvpanoptix3d",
        "train",
        parent_job_id=parent.id,
        datasets=ROOMS,
        overrides=["train.num_epochs=0"],
    )
    assert error.key == "train.num_epochs"


@pytest.mark.parametrize("state", ["error", "canceled"])
def test_a_parent_that_failed_is_an_error_at_once(bench: Bench, state: str) -> None:
    parent = bench.job("mask2former", "train", state=state, message="no space left")

    error = refused(
        bench, "mask2former", "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="s3://bucket/e")
    )

    assert isinstance(error, JobFailedError)
    assert error.exit_code == 6
    assert "no space left" in error.message
    assert error.hint == f"skillbank jobs logs {parent.id}"


def test_a_parent_that_gives_nothing_is_told(bench: Bench) -> None:
    trained_one = trained(bench)
    measured = bench.job("mask2former", "evaluate", parent=trained_one)

    useless = plan(bench, "mask2former", "train", parent_job_id=measured.id, datasets=DATA)
    useful = plan(bench, "mask2former", "train", parent_job_id=trained_one.id, datasets=DATA)

    assert any(measured.id in note and "nothing but model settings" in note for note in useless.notes)
    assert not any("nothing but model settings" in note for note in useful.notes)
    assert value(useful, "train.pretrained_model_path").endswith("model_epoch_004.pth")


def test_a_parent_of_another_network_is_refused(bench: Bench) -> None:
    parent = trained(bench, "oneformer")

    error = refused(
        bench, "mask2former", "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="s3://bucket/e")
    )

    assert isinstance(error, ConflictError)
    assert "oneformer" in error.message


def test_the_stage_follows_the_parent(bench: Bench) -> None:
    first = trained(bench, "nvpanoptix3d", {"dataset": {"enable_3d": False}})
    second = trained(bench, "nvpanoptix3d", {"dataset": {"enable_3d": True}}, parent=first)

    after_first = plan(bench, "nvpanoptix3d", "train", parent_job_id=first.id, datasets=ROOMS)
    evaluated = plan(bench, "nvpanoptix3d", "evaluate", parent_job_id=second.id, datasets=ROOMS)
    again = plan(
        bench,
        "nvpanoptix3d",
        "train",
        parent_job_id=first.id,
        datasets=ROOMS,
        overrides=["dataset.enable_3d=false"],
    )
    printed = plan(
        bench, "nvpanoptix3d", "train", parent_job_id=first.id, datasets=ROOMS,
        specs=default_spec("nvpanoptix3d", "train"),
    )  # fmt: skip

    assert value(printed, "dataset.enable_3d") is True
    assert value(after_first, "dataset.enable_3d") is True
    assert origin(after_first, "dataset.enable_3d") == ("parent", f"follows job {first.id}")
    assert value(evaluated, "dataset.enable_3d") is True
    assert value(again, "dataset.enable_3d") is False


def test_a_train_spec_serves_other_actions(bench: Bench) -> None:
    """Documents 002 and 003 pass the train spec on to evaluate, inference and export."""
    parent = trained(bench)
    printed = plan(bench, "mask2former", "train", datasets=DATA).spec.nested()

    found = plan(bench, "mask2former", "evaluate", specs=json.dumps(printed), parent_job_id=parent.id)

    assert value(found, "evaluate.checkpoint").endswith("model_epoch_004.pth")
    assert value(found, "dataset.val.panoptic_json") == "s3://bucket/eval/annotations_panoptic.json"


def test_gpus_that_disagree_are_reconciled(bench: Bench) -> None:
    found = plan(
        bench, "mask2former", "train", datasets=DATA, launcher=Recorder(gpus=4),
        specs={"train": {"num_gpus": 1, "gpu_ids": [0, 1]}},
    )  # fmt: skip

    assert (found.bundle.gpus, found.bundle.gpu_ids) == (2, (0, 1))
    assert (value(found, "train.num_gpus"), value(found, "train.gpu_ids")) == (2, [0, 1])
    assert [note for note in found.notes if "gpu" in note] == [
        "num_gpus 1 and gpu_ids [0, 1] disagree; the larger wins: [0, 1]"
    ]


def test_more_gpus_than_there_are(bench: Bench) -> None:
    """A plan may be made for a larger machine."""
    found = plan(
        bench, "mask2former", "train", datasets=DATA, launcher=Recorder(gpus=1),
        specs={"train": {"num_gpus": 8, "num_nodes": 2}},
    )  # fmt: skip

    assert (found.bundle.gpus, found.bundle.nodes, value(found, "train.num_gpus")) == (8, 2, 8)
    assert sum("a launch here is refused" in note for note in found.notes) == 2
    assert isinstance(found.shortage, InvalidValueError)
    assert keys_of(found.shortage) == {"train.num_gpus", "train.num_nodes"}
    assert found.shortage.exit_code == 3
    assert "--backend-type" not in str(found.shortage.to_dict())


def test_without_a_gpu_one_gpu_means_the_processor(bench: Bench) -> None:
    found = plan(bench, "mask2former", "train", datasets=DATA)

    assert (found.bundle.gpus, found.bundle.gpu_ids, found.bundle.nodes) == (0, (), 1)
    assert value(found, "train.num_gpus") == 1


def test_a_default_of_many_gpus_is_lowered(bench: Bench) -> None:
    datasets = Datasets(train=("s3://bucket/t",), eval="s3://bucket/e")
    default = plan(bench, "oneformer", "train", datasets=datasets, launcher=Recorder(gpus=16))

    found = plan(bench, "oneformer", "train", datasets=datasets, launcher=Recorder(gpus=1))

    assert found.bundle.gpus == 1
    assert value(found, "train.num_gpus") == 1
    assert default.bundle.gpus >= 1


def test_actions_with_one_device(bench: Bench) -> None:
    found = plan(
        bench, "mask2former", "export", launcher=Recorder(gpus=4),
        overrides=["export.checkpoint=/m.pth", "export.gpu_id=2"],
    )  # fmt: skip

    assert (found.bundle.gpus, found.bundle.gpu_ids) == (1, (2,))


def test_data_is_looked_up_when_asked(bench: Bench, tmp_path: Path) -> None:
    datasets = Datasets(train=(str(tmp_path),), eval=str(tmp_path))

    error = refused(bench, "nvpanoptix3d", "train", datasets=datasets, check_data=True)

    assert isinstance(error, MissingFilesError)
    assert "meta/train.json" in error.message
    assert "meta/val.json" in error.message


def test_the_decision_is_part_of_the_request(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_network(monkeypatch, tmp_path, "mask2former", info={"automl_enabled": True})

    off = plan(
        bench, "mask2former", "train", datasets=DATA, automl_policy=None, request_text="plain training"
    )
    no_files = plan(bench, "mask2former", "train", datasets=DATA, automl_policy=None)
    (tmp_path / "skill" / "schemas").mkdir()
    (tmp_path / "skill" / "schemas" / "train.schema.json").write_text("{}")
    (tmp_path / "skill" / "references" / "spec_template_train.yaml").write_text("{}")
    search = plan(
        bench, "mask2former", "train", datasets=DATA, automl_policy=None, automl_settings={"trials": 3}
    )

    assert off.request.policy["matched_text"] == "plain training"
    assert any("not runnable until schemas are generated" in note for note in no_files.notes)
    assert (search.decision.route, search.request.policy["route"]) == ("automl", "automl")
    assert search.request.policy["settings"] == {"trials": 3}
    assert search.request.action == "train"


def test_secrets_stay_out_of_the_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKILLBANK_ENCRYPTION_KEY", raising=False)
    found = plan(
        bench, "mask2former", "train", datasets=DATA, specs={"encryption_key": "nvidia_tlt_secret"},
        env={"AWS_SECRET_ACCESS_KEY": "hush-hush", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    assert found.request.env == {"OMP_NUM_THREADS": "1"}
    assert found.bundle.env == {"OMP_NUM_THREADS": "1", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
    assert found.encryption_key is not None
    assert found.encryption_key.reveal() == "nvidia_tlt_secret"
    shown = f"{found.request} {found.spec} {found.notes} {found.encryption_key}"
    assert "nvidia_tlt_secret" not in shown
    assert "hush-hush" not in shown


def test_the_key_from_text_file_and_environment(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(**options: Any) -> str | None:
        found = plan(bench, "mask2former", "train", datasets=DATA, **options).encryption_key
        return found.reveal() if found else None

    monkeypatch.delenv("SKILLBANK_ENCRYPTION_KEY", raising=False)
    assert key() is None
    monkeypatch.setenv("SKILLBANK_ENCRYPTION_KEY", "from-env")
    (tmp_path / "key.txt").write_text("from-file\n")

    assert key() == "from-env"
    assert key(specs={"encryption_key": "from-spec"}) == "from-spec"
    assert key(encryption_key="given", specs={"encryption_key": "from-spec"}) == "given"
    assert key(encryption_key=f"@{tmp_path}/key.txt") == "from-file"
    error = refused(bench, "mask2former", "train", datasets=DATA, encryption_key=f"@{tmp_path}/gone")
    assert isinstance(error, NotFoundError)


def test_the_worker_is_called_by_command_line(bench: Bench) -> None:
    argv = plan(bench, "mask2former", "train", datasets=DATA).bundle.argv

    assert argv[1:] == ("-m", "skillbank_runners.worker", str(bench.store.folders / "JOB"))


def test_the_debug_launcher_runs_the_command_of_the_worker_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small_worker.py").write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'ran').write_text(f'{__name__} {os.getpid()}')\n"
        "sys.exit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "skillbank.plan.worker_command", lambda folder: ("python", "-m", "small_worker", str(folder))
    )
    before = list(sys.argv)

    code = run_in_process(tmp_path)

    assert code == 3
    assert (tmp_path / "ran").read_text() == f"__main__ {os.getpid()}"
    assert sys.argv == before


def test_nothing_is_recorded(bench: Bench) -> None:
    plan(bench, "mask2former", "train", datasets=DATA)

    assert bench.store.list() == []


def test_empty_checkpoint_and_format_are_unset_variables(bench: Bench) -> None:
    for options, key in (
        ({"checkpoint": " "}, "checkpoint"),
        ({"checkpoint": ""}, "checkpoint"),
        ({"datasets": Datasets(train=("/d",), eval="/d", format="")}, "dataset_format"),
    ):
        error = refused(bench, "mask2former", "train", **{"datasets": DATA, **options})
        assert isinstance(error, UsageError)
        assert error.key == key
        assert "unset" in error.message


def test_one_text_is_one_override_one_tag_one_dataset(bench: Bench) -> None:
    found = plan(
        bench, "mask2former", "train", overrides="train.num_epochs=3",
        datasets=Datasets(train="/d/train", eval="/d/eval"),  # type: ignore[arg-type]
    )  # fmt: skip

    assert value(found, "train.num_epochs") == 3
    assert str(value(found, "dataset.train.img_dir")).startswith("/d/train/")


@pytest.mark.parametrize(("name", "text"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0"), ("A", 1)])
def test_variables_that_no_process_can_have(bench: Bench, name: str, text: object) -> None:
    error = refused(bench, "mask2former", "train", datasets=DATA, env={name: text})

    assert isinstance(error, UsageError)
    assert error.key == "env"
    assert "--env NAME=VALUE" in error.hint


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("gopher://b/x", "scheme 'gopher' is not supported"),
        ("https://host/x", "only read from"),
        ("s3:/b/x", "s3://b/x"),
    ],
)
def test_results_go_only_where_they_can_be_written(bench: Bench, place: str, text: str) -> None:
    error = refused(bench, "mask2former", "train", datasets=DATA, overrides=[f"results_dir={place}"])

    assert error.key == "results_dir"
    assert text in error.message


def test_a_file_address_of_results_is_a_folder(bench: Bench, tmp_path: Path) -> None:
    found = plan(
        bench, "mask2former", "train", datasets=DATA, overrides=[f"results_dir=file://{tmp_path}/out"]
    )

    assert found.results_dir == f"{tmp_path}/out"
    assert value(found, "results_dir") == f"{tmp_path}/out"


def test_settings_of_a_search_are_checked_against_the_spec(bench: Bench) -> None:
    settings = {
        "keys": ["train.optim.lrr"],
        "ranges": {"train.optim.weight_decay": {"low": -1, "high": 0.5}},
    }
    error = refused(
        bench, "mask2former", "train", datasets=DATA, automl_policy="on", automl_settings=settings
    )
    assert keys_of(error) == {"train.optim.lrr", "train.optim.weight_decay"}

    error = refused(
        bench, "mask2former", "train", datasets=DATA, automl_policy="on", automl_settings={"metric": "x"}
    )
    assert isinstance(error, NotFoundError)
    assert error.key == "metric"


def test_settings_of_a_search_that_does_not_take_place_are_told(bench: Bench) -> None:
    found = plan(
        bench, "mask2former", "train", datasets=DATA, automl_policy="off", automl_settings={"trials": 3}
    )

    assert found.decision.route == "direct"
    assert any(note.startswith("automl_settings: not used") for note in found.notes)
