from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_bench import Bench, join_network

from skillbank.errors import ConflictError, DataError, NotFoundError
from skillbank.jobs.record import Job
from skillbank.resolve.functions import FUNCTIONS, Applied, apply_functions, check_spec_params
from skillbank.resolve.parents import Scope
from skillbank.skill_info import load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import networks
from skillbank.specs.base import BaseExperiment
from skillbank.specs.load import Layer, build_spec

# Document 001, "Inference mappings": action, key, function.
ROWS_001 = [
    ("evaluate", "encryption_key", "key"),
    ("evaluate", "evaluate.checkpoint", "parent_model"),
    ("evaluate", "results_dir", "output_dir"),
    ("export", "encryption_key", "key"),
    ("export", "export.checkpoint", "parent_model"),
    ("export", "export.onnx_file_2d", "create_onnx_file_2d"),
    ("export", "export.onnx_file_3d", "create_onnx_file_3d"),
    ("export", "results_dir", "output_dir"),
    ("inference", "encryption_key", "key"),
    ("inference", "inference.checkpoint", "parent_model"),
    ("inference", "results_dir", "output_dir"),
    ("train", "encryption_key", "key"),
    ("train", "results_dir", "output_dir"),
    ("train", "train.checkpoint_2d", "parent_model_or_ptm"),
    ("train", "train.checkpoint_3d", "ptm"),
    ("train", "train.resume_training_checkpoint_path", "resume_model"),
]
STAGE_1 = {"dataset": {"enable_3d": False}}
STAGE_2 = {"dataset": {"enable_3d": True}}
WEIGHTS = BaseExperiment(id="start", name="Start", description="x", weights="s3://bucket/start.pth")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    made.store.close()


def apply(
    bench: Bench,
    network: str,
    action: str,
    specs: dict[str, Any] | None = None,
    *,
    skip: tuple[str, ...] = (),
    **scope: Any,
) -> Applied:
    found = find_network(network)
    spec = build_spec(network, action, [Layer("file", "spec", specs or {})], draft=True).nested()
    given = Scope(
        store=bench.store, network=found, info=load_skill_info(found), action=action, spec=spec,
        results_dir=scope.pop("results_dir", "/results/new"), **scope,
    )  # fmt: skip
    return apply_functions(given, skip=skip)


def trained(
    bench: Bench, network: str = "mask2former", specs: dict[str, Any] | None = None, **options: Any
) -> Job:
    job = bench.job(network, "train", specs, **options)
    bench.checkpoint(job, "train/model_epoch_004.pth", epoch=4)
    return job


def path_of(job: Job, name: str = "train/model_epoch_004.pth") -> str:
    return str(Path(job.results_dir) / name)


@pytest.mark.parametrize(("action", "key", "function"), ROWS_001)
def test_b06_rows_of_the_document(action: str, key: str, function: str) -> None:
    params = load_skill_info(find_network("nvpanoptix3d")).spec_params

    assert params[action][key] == function


def test_b06_has_no_other_rows_for_the_documented_actions() -> None:
    params = load_skill_info(find_network("nvpanoptix3d")).spec_params
    rows = {
        (action, key) for action in ("train", "evaluate", "inference", "export") for key in params[action]
    }

    assert len(rows) == len(ROWS_001) == 16


def test_all_skills_use_known_functions() -> None:
    seen = 0
    for network in networks():
        check_spec_params(network)
        seen += sum(len(params) for params in load_skill_info(network).spec_params.values())
    assert seen > 60


def test_every_function_has_a_meaning_for_the_playbook() -> None:
    assert all(function.meaning for function in FUNCTIONS.values())
    assert {
        "parent_model",
        "ptm",
        "resume_model",
        "create_onnx_file_2d",
        "assign_const_value",
    } < FUNCTIONS.keys()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"train": {"train.pretrained_model_path": "parent_modle"}}, "there is no function 'parent_modle'"),
        ({"train": {"train.pretrained": "ptm"}}, "the spec has no such key"),
        ({"fly": {"results_dir": "output_dir"}}, "no such action"),
        ({"train": {"train.num_epochs": "assign_const_value"}}, "takes keys"),
        ({"train": {"train.num_epochs": "verbose,train.seed"}}, "takes no keys"),
        ({"train": {"train.num_epochs": "assign_const_value,train.epochs"}}, "no key 'train.epochs'"),
        (
            {"train": {"model.mode": {"link": "https://x/y.pth", "destination_path": "y.pth"}}},
            "must be an input of the action",
        ),
    ],
)
def test_faults_of_a_skill_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], words: str
) -> None:
    network = join_network(monkeypatch, tmp_path, "mask2former", info={"spec_params": params})

    with pytest.raises(DataError) as caught:
        check_spec_params(network)

    assert words in caught.value.message
    assert caught.value.hint


def test_all_faults_of_a_skill_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"train": {"train.seed": "guess", "train.sed": "verbose"}}
    network = join_network(monkeypatch, tmp_path, "mask2former", info={"spec_params": params})

    with pytest.raises(DataError) as caught:
        check_spec_params(network)

    assert len(caught.value.problems) == 2


def test_the_checkpoint_of_the_parent_is_filled_in(bench: Bench) -> None:
    parent = bench.job("mask2former", "train")
    for epoch, value in enumerate((0.1, 0.7, 0.5)):
        bench.checkpoint(parent, f"train/model_epoch_{epoch:03d}.pth", epoch=epoch, metrics={"mIoU": value})

    best = apply(bench, "mask2former", "evaluate", parent=parent)
    latest = apply(bench, "mask2former", "evaluate", parent=parent, method="latest")

    assert best.strong["evaluate.checkpoint"] == path_of(parent, "train/model_epoch_001.pth")
    assert best.details["evaluate.checkpoint"] == f"job {parent.id}, epoch 1, mIoU 0.7: highest mIoU of 3"
    assert best.kinds["evaluate.checkpoint"] == "parent"
    assert latest.strong["evaluate.checkpoint"] == path_of(parent, "train/model_epoch_002.pth")
    assert "evaluate.trt_engine" not in best.strong


def test_an_engine_goes_to_the_engine_key(bench: Bench) -> None:
    parent = bench.job("mask2former", "gen_trt_engine", files={"gen_trt_engine/model.engine": "x"})

    applied = apply(bench, "mask2former", "evaluate", parent=parent)

    assert applied.strong["evaluate.trt_engine"] == path_of(parent, "gen_trt_engine/model.engine")
    assert "evaluate.checkpoint" not in applied.strong
    assert applied.problems == []


def test_an_engine_is_built_from_the_exported_graph(bench: Bench) -> None:
    parent = bench.job("mask2former", "export", files={"export/model.onnx": "x"})

    applied = apply(bench, "mask2former", "gen_trt_engine", parent=parent)

    assert applied.strong["gen_trt_engine.onnx_file"] == path_of(parent, "export/model.onnx")
    assert applied.weak["gen_trt_engine.trt_engine"] == "/results/new/gen_trt_engine/model.engine"


def test_a_parent_that_cannot_have_the_file_is_an_error_at_once(bench: Bench) -> None:
    parent = bench.job("oneformer", "export", state="running")

    applied = apply(bench, "oneformer", "evaluate", parent=parent)

    assert len(applied.problems) == 1
    text = applied.problems[0].message
    assert parent.id in text
    assert ".onnx" in text
    assert ".pth" in text


@pytest.mark.parametrize(("action", "key"), [("train", "checkpoint"), ("export", "trt_engine")])
def test_mask2former_evaluates_what_its_parent_leaves(action: str, key: str, bench: Bench) -> None:
    name = {"train": "train/model_epoch_000.pth", "export": "export/model.onnx"}[action]
    parent = bench.job("mask2former", action, files={name: "x"})

    applied = apply(bench, "mask2former", "evaluate", parent=parent)

    filled = {name: value for name, value in applied.strong.items() if name.startswith("evaluate.")}
    assert filled == {f"evaluate.{key}": str(Path(parent.results_dir) / name)}


def test_such_a_parent_is_fine_when_the_spec_has_the_file(bench: Bench) -> None:
    parent = bench.job("sparse4d", "dataset_convert")

    applied = apply(bench, "sparse4d", "evaluate", {"evaluate": {"checkpoint": "/x.pth"}}, parent=parent)

    assert applied.problems == []
    assert "evaluate.checkpoint" not in applied.strong


def test_a_finished_parent_without_checkpoint_is_an_error(bench: Bench) -> None:
    parent = bench.job("mask2former", "train", files={"train/status.json": "{}"})

    applied = apply(bench, "mask2former", "export", parent=parent)

    assert [type(problem) for problem in applied.problems] == [NotFoundError]
    assert parent.id in applied.problems[0].message


def test_a_parent_that_still_runs_defers_the_value(bench: Bench) -> None:
    parent = bench.job("mask2former", "train", state="running")

    applied = apply(bench, "mask2former", "evaluate", parent=parent)

    assert applied.deferred == {"evaluate.checkpoint": f"<from job {parent.id} when it is done>"}
    assert applied.strong["evaluate.checkpoint"].endswith(".pth")


def test_an_override_needs_no_function(bench: Bench) -> None:
    parent = bench.job("mask2former", "train")

    applied = apply(bench, "mask2former", "export", parent=parent, skip=("export.checkpoint",))

    assert applied.problems == []


def test_results_go_to_the_folder_of_the_job(bench: Bench) -> None:
    applied = apply(bench, "mask2former", "export", skip=("export.checkpoint",))

    assert applied.strong["results_dir"] == "/results/new"
    assert applied.weak["export.onnx_file"] == "/results/new/export/model.onnx"
    assert applied.kinds["export.onnx_file"] == "output"


def test_only_declared_outputs_get_a_name(bench: Bench) -> None:
    applied = apply(bench, "nvpanoptix3d", "export", skip=("export.checkpoint",))

    assert applied.weak["export.onnx_file_2d"].endswith("model_2d.onnx")
    assert "export.onnx_file_3d" not in applied.weak


def test_the_encryption_key_is_never_filled_in(bench: Bench) -> None:
    applied = apply(bench, "mask2former", "train")

    assert "encryption_key" not in {**applied.strong, **applied.weak}


def test_weights_of_the_base_experiment_start_a_training(bench: Bench) -> None:
    applied = apply(bench, "mask2former", "train", base_experiment=WEIGHTS)

    assert applied.weak["train.pretrained_model_path"] == "s3://bucket/start.pth"
    assert applied.kinds["train.pretrained_model_path"] == "base-experiment"


def test_a_training_parent_beats_the_base_experiment(bench: Bench) -> None:
    parent = trained(bench)

    applied = apply(bench, "mask2former", "train", parent=parent, base_experiment=WEIGHTS)

    assert applied.strong["train.pretrained_model_path"] == path_of(parent)


def test_a_run_that_resumes_takes_no_pretrained_weights(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "train"
    folder.mkdir(parents=True)
    (folder / "model_epoch_002.pth").write_text("x")
    (folder / "mask2former_model_latest.pth").symlink_to("model_epoch_002.pth")

    applied = apply(bench, "mask2former", "train", base_experiment=WEIGHTS, results_dir=str(tmp_path / "out"))

    assert applied.weak["train.resume_training_checkpoint_path"] == str(folder / "model_epoch_002.pth")
    assert "train.pretrained_model_path" not in applied.weak


def test_deleting_the_link_starts_afresh(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "train"
    folder.mkdir(parents=True)
    (folder / "model_epoch_002.pth").write_text("x")

    applied = apply(bench, "mask2former", "train", results_dir=str(tmp_path / "out"))

    assert "train.resume_training_checkpoint_path" not in applied.weak


def test_a_search_is_a_training_parent(bench: Bench) -> None:
    winner = trained(bench)
    search = bench.job("mask2former", "train", policy={"route": "automl"})
    bench.store.register_artifact(
        search.id, bench.write(search, "best_trial.json", f'{{"job_id": "{winner.id}"}}'), kind="best_trial"
    )

    applied = apply(bench, "mask2former", "evaluate", parent=search)

    assert applied.strong["evaluate.checkpoint"] == path_of(winner)


def test_stage_one_starts_from_the_base_experiment(bench: Bench) -> None:
    applied = apply(bench, "nvpanoptix3d", "train", STAGE_1, base_experiment=WEIGHTS)

    assert applied.weak["train.checkpoint_2d"] == "s3://bucket/start.pth"
    assert "train.checkpoint_3d" not in applied.weak


def test_stage_two_takes_the_weights_of_its_stage_one_parent(bench: Bench) -> None:
    parent = trained(bench, "nvpanoptix3d", STAGE_1)

    applied = apply(bench, "nvpanoptix3d", "train", STAGE_2, parent=parent)

    assert applied.strong["train.checkpoint_2d"] == path_of(parent)
    assert "train.checkpoint_3d" not in {**applied.strong, **applied.weak}
    assert "dataset.enable_3d=false" in applied.details["train.checkpoint_2d"]


def test_stage_two_goes_on_from_stage_two_with_the_stage_one_ancestor(bench: Bench) -> None:
    first = trained(bench, "nvpanoptix3d", STAGE_1)
    second = trained(bench, "nvpanoptix3d", STAGE_2, parent=first)

    applied = apply(bench, "nvpanoptix3d", "train", STAGE_2, parent=second)

    assert applied.strong["train.checkpoint_2d"] == path_of(first)
    assert applied.strong["train.checkpoint_3d"] == path_of(second)
    assert "train.resume_training_checkpoint_path" not in {**applied.strong, **applied.weak}


def test_an_epoch_concerns_the_parent_only(bench: Bench) -> None:
    first = trained(bench, "nvpanoptix3d", STAGE_1)
    second = bench.job("nvpanoptix3d", "train", STAGE_2, parent=first)
    wanted = bench.checkpoint(second, "train/model_epoch_007.pth", epoch=7)

    applied = apply(bench, "nvpanoptix3d", "train", STAGE_2, parent=second, method="epoch:7")

    assert applied.strong["train.checkpoint_3d"] == str(wanted)
    assert applied.strong["train.checkpoint_2d"] == path_of(first)
    assert applied.problems == []


def test_a_stage_that_no_job_trained_is_taken_over_from_the_parent(bench: Bench) -> None:
    spec = {**STAGE_2, "train": {"checkpoint_2d": "/elsewhere/stage1.pth"}}
    second = trained(bench, "nvpanoptix3d", spec)

    applied = apply(bench, "nvpanoptix3d", "train", STAGE_2, parent=second)

    assert applied.weak["train.checkpoint_2d"] == "/elsewhere/stage1.pth"
    assert applied.strong["train.checkpoint_3d"] == path_of(second)


def test_stage_one_can_be_continued(bench: Bench) -> None:
    first = trained(bench, "nvpanoptix3d", STAGE_1)

    applied = apply(bench, "nvpanoptix3d", "train", STAGE_1, parent=first)

    assert applied.strong["train.checkpoint_2d"] == path_of(first)


def test_stage_two_waits_for_a_stage_one_that_runs(bench: Bench) -> None:
    first = bench.job("nvpanoptix3d", "train", STAGE_1, state="running")

    applied = apply(bench, "nvpanoptix3d", "train", STAGE_2, parent=first)

    assert list(applied.deferred) == ["train.checkpoint_2d"]


def test_export_takes_the_stage_two_checkpoint_which_holds_all_2d_weights(bench: Bench) -> None:
    first = trained(bench, "nvpanoptix3d", STAGE_1)
    second = trained(bench, "nvpanoptix3d", STAGE_2, parent=first)

    applied = apply(bench, "nvpanoptix3d", "export", STAGE_2, parent=second)

    assert applied.strong["export.checkpoint"] == path_of(second)


def test_a_stage_one_parent_cannot_be_evaluated_in_3d(bench: Bench) -> None:
    first = trained(bench, "nvpanoptix3d", STAGE_1)

    applied = apply(bench, "nvpanoptix3d", "evaluate", STAGE_2, parent=first)

    assert [type(problem) for problem in applied.problems] == [ConflictError]
    assert first.id in applied.problems[0].message
    assert applied.problems[0].hint.startswith("dataset.enable_3d=false")


def test_functions_without_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    params = {
        "train": {
            "train.checkpoint_interval": "assign_const_value,train.num_epochs,train.seed",
            "train.seed": "from_csv",
            "train.verbose": "verbose",
            "train.is_dry_run": "resume_model_bool",
            "model.backbone.pretrained_weights": {"link": "https://x/y.pth", "destination_path": "y.pth"},
        }
    }
    join_network(monkeypatch, tmp_path, "mask2former", info={"spec_params": params})

    plain = apply(bench, "mask2former", "train", {"train": {"num_epochs": 7}})
    started = apply(bench, "mask2former", "train", base_experiment=WEIGHTS)

    assert plain.weak == {"train.checkpoint_interval": 7, "train.verbose": True, "train.is_dry_run": False}
    assert plain.details["train.checkpoint_interval"] == "copy of train.num_epochs"
    assert started.weak["model.backbone.pretrained_weights"] == "https://x/y.pth"


def test_a_folder_instead_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    params = {"evaluate": {"evaluate.checkpoint": "parent_model_folder"}}
    join_network(monkeypatch, tmp_path, "mask2former", info={"spec_params": params})
    parent = trained(bench)

    applied = apply(bench, "mask2former", "evaluate", parent=parent)

    assert applied.strong["evaluate.checkpoint"] == str(Path(parent.results_dir) / "train")


def test_an_unknown_function_is_an_error_when_it_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    join_network(
        monkeypatch, tmp_path, "mask2former", info={"spec_params": {"train": {"train.seed": "guess"}}}
    )

    applied = apply(bench, "mask2former", "train")

    assert "there is no function 'guess'" in applied.problems[0].message
