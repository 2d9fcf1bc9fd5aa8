import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from job_bench import Bench, Recorder, join_network

import skillbank
from skillbank.create import create_job, finalize
from skillbank.errors import (
    InvalidValueError,
    JobError,
    JobFailedError,
    LaunchError,
    MissingValueError,
    NotFoundError,
    RuntimeMissingError,
)
from skillbank.jobs.record import Datasets, Job, JobFolder
from skillbank.jobs.states import State
from skillbank.launch.debug import DebugLauncher

DATA = Datasets(train=("s3://bucket/train",), eval="s3://bucket/eval", format="coco_panoptic")
LOCAL = Datasets(train=("/no/such/train",), eval="/no/such/eval")
SECRET = "nvidia_tlt_secret"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A store, and Mask2Former with an implementation that exists."""
    join_network(monkeypatch, tmp_path, "mask2former")
    monkeypatch.setenv("SKILLBANK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SKILLBANK_ENCRYPTION_KEY", raising=False)
    made = Bench(tmp_path / "home")
    yield made
    made.store.close()


def create(bench: Bench, action: str = "train", network: str = "mask2former", **options: Any) -> Job:
    options = {"launcher": Recorder(), "automl_policy": "off", "store": bench.store, **options}
    if action == "train":
        options.setdefault("datasets", DATA)
    return create_job(network, action, **options)


def test_a_job_is_recorded_and_handed_to_the_launcher(bench: Bench) -> None:
    launcher = Recorder(gpus=2)

    job = create(
        bench, launcher=launcher, name="first", description="d", tags=["a"], workspace_id="w",
        experiment_id="e", overrides=["train.num_gpus=2"], env={"OMP_NUM_THREADS": "1"},
        base_experiment_id="mask2former-scratch",
    )  # fmt: skip

    stored = bench.store.get(job.id)
    assert (stored.state, stored.name, stored.tags) == (State.PENDING, "first", ("a",))
    assert (stored.workspace_id, stored.experiment_id) == ("w", "e")
    assert (stored.base_experiment_id, stored.launcher) == ("mask2former-scratch", "local")
    bundle = launcher.bundles[0]
    assert (bundle.job_id, bundle.folder, bundle.gpus, bundle.gpu_ids) == (job.id, job.folder, 2, (0, 1))
    assert bundle.argv[-2:] == ("skillbank_runners.worker", str(job.folder))
    assert bundle.env == {"OMP_NUM_THREADS": "1"}


def test_results_go_where_the_command_line_says(bench: Bench, tmp_path: Path) -> None:
    own = create(bench)
    asked = create(bench, overrides=[f"results_dir={tmp_path}/out"])
    remote = create(bench, overrides=["results_dir=s3://bucket/runs/1"])

    assert own.results_dir == str(JobFolder(own.folder).results)
    assert asked.results_dir == f"{tmp_path}/out"
    assert remote.results_dir == "s3://bucket/runs/1"
    spec = yaml.safe_load(JobFolder(remote.folder).spec.read_text())
    assert spec["results_dir"] == str(JobFolder(remote.folder).results)


def test_spec_and_origins_are_there_before_the_launch(bench: Bench) -> None:
    seen: list[dict[str, Any]] = []

    class Looking(Recorder):
        def submit(self, bundle: Any) -> dict[str, Any]:
            seen.append(yaml.safe_load(JobFolder(bundle.folder).spec.read_text()))
            return super().submit(bundle)

    job = create(bench, launcher=Looking(), overrides=["train.num_epochs=3"])

    origins = json.loads(JobFolder(job.folder).origins.read_text())
    assert seen[0]["train"]["num_epochs"] == 3
    assert seen[0]["results_dir"] == job.results_dir
    assert origins["train.num_epochs"] == {"kind": "override", "detail": "command line"}
    assert origins["dataset.train.img_dir"]["kind"] == "dataset"


def test_the_encryption_key_is_nowhere_but_in_its_file(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    launcher = Recorder()

    job = create(bench, launcher=launcher, encryption_key=SECRET, specs={"encryption_key": "old_secret_key"})

    folder = JobFolder(job.folder)
    assert folder.secret.read_text() == SECRET
    assert stat.S_IMODE(folder.secret.stat().st_mode) == 0o600
    others = [path for path in bench.store.home.rglob("*") if path.is_file() and path != folder.secret]
    assert len(others) >= 4
    for path in others:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert b"old_secret_key" not in content, path
    assert SECRET not in f"{job} {launcher.bundles} {caplog.text}"


def test_secret_variables_reach_the_worker_and_no_text(bench: Bench) -> None:
    launcher = Recorder()

    create(bench, launcher=launcher, env={"HF_TOKEN": SECRET, "NGC_KEY": SECRET, "MODE": "x"})

    assert launcher.bundles[0].env == {"HF_TOKEN": SECRET, "NGC_KEY": SECRET, "MODE": "x"}
    assert SECRET not in f"{launcher.bundles}"
    files = [path for path in bench.store.home.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_the_spec_is_checked_before_the_runtime(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKILLBANK_NETWORKS")
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: module != "torch")

    with pytest.raises(MissingValueError):
        create(bench, datasets=Datasets(train=("s3://bucket/t",)))
    with pytest.raises(RuntimeMissingError) as caught:
        create(bench)

    assert caught.value.exit_code == 5
    assert bench.store.list() == []


def test_a_network_without_implementation_says_what_works(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_network(monkeypatch, tmp_path, "mask2former", impl="no_such_package.mask2former")
    monkeypatch.setattr(
        "skillbank.runtime.is_installed", lambda module: module != "no_such_package.mask2former"
    )

    with pytest.raises(RuntimeMissingError) as caught:
        create(bench)

    assert caught.value.message == (
        "this version has no implementation of mask2former yet; there is nothing to install"
    )
    assert "--dry-run" in caught.value.hint


@pytest.mark.parametrize(
    ("missing", "extra"), [("torch", "skillbank[runtime]"), ("optuna", "skillbank[automl]")]
)
def test_what_is_not_installed_comes_with_its_command(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str
) -> None:
    join_network(monkeypatch, tmp_path, "mask2former", info={"automl_enabled": True})
    skill = tmp_path / "skill"
    (skill / "schemas").mkdir()
    (skill / "schemas" / "train.schema.json").write_text("{}")
    (skill / "references" / "spec_template_train.yaml").write_text("{}")
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: module != missing)

    with pytest.raises(RuntimeMissingError) as caught:
        create(bench, automl_policy=None)

    assert "pip install" in caught.value.hint
    assert extra in caught.value.hint
    assert bench.store.list() == []


def test_a_dry_run_needs_no_runtime_and_records_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillbank.runtime.is_installed", lambda module: False)
    launcher = Recorder()

    job = create(bench, launcher=launcher, dry_run=True, name="x")

    assert (job.state, job.name, job.action) == (State.PENDING, "x", "train")
    assert "nothing was recorded" in job.message
    assert bench.store.list() == []
    assert launcher.bundles == []
    assert not bench.store.folders.exists()


def test_a_launcher_that_refuses_leaves_a_failed_job(bench: Bench) -> None:
    with pytest.raises(LaunchError):
        create(bench, launcher=Recorder(error=LaunchError("no process can be started", hint="ulimit -u")))

    (job,) = bench.store.list()
    assert job.state is State.ERROR
    assert job.error is not None
    assert (job.error["code"], job.error["hint"]) == ("backend.launch", "ulimit -u")


def test_the_same_idempotency_key_starts_nothing_twice(bench: Bench) -> None:
    launcher = Recorder()

    first = create(bench, launcher=launcher, idempotency_key="k")
    again = create(bench, launcher=launcher, idempotency_key="k")

    assert (again.id, again.is_duplicate, first.is_duplicate) == (first.id, True, False)
    assert len(launcher.bundles) == 1


def test_notes_are_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    create(bench, specs={"results_dir": "/mine"})

    assert any("results go to the folder of the job" in record.getMessage() for record in caplog.records)


def test_a_job_waits_for_its_parent_and_is_settled_then(bench: Bench) -> None:
    parent = bench.job("mask2former", "train", {"model": {"mode": "instance"}}, state="running")
    child = create(bench, "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="/no/such/data"))

    draft = yaml.safe_load(JobFolder(child.folder).spec.read_text())
    origins = json.loads(JobFolder(child.folder).origins.read_text())
    assert draft["evaluate"]["checkpoint"] is None
    assert origins["evaluate.checkpoint"]["deferred"] == f"<from job {parent.id} when it is done>"
    with pytest.raises(JobError, match="is running"):
        finalize(bench.store, child)

    path = bench.checkpoint(parent, "train/model_epoch_001.pth", epoch=1, metrics={"mIoU": 0.5})
    bench.store.transition(parent.id, State.DONE)
    resolved = finalize(bench.store, child)

    assert resolved.nested()["evaluate"]["checkpoint"] == str(path)
    assert resolved.nested()["model"]["mode"] == "instance"
    written = yaml.safe_load(JobFolder(child.folder).spec.read_text())
    assert written == resolved.nested()
    assert json.loads(JobFolder(child.folder).origins.read_text())["evaluate.checkpoint"] == {
        "kind": "parent",
        "detail": f"job {parent.id}, epoch 1, mIoU 0.5: highest mIoU of 1",
    }


def test_a_parent_that_fails_meanwhile_fails_the_job(bench: Bench) -> None:
    parent = bench.job("mask2former", "train", state="running")
    child = create(bench, "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="/no/such/data"))
    bench.store.transition(parent.id, State.ERROR, "out of memory")

    with pytest.raises(JobFailedError, match="out of memory"):
        finalize(bench.store, child)


def test_a_parent_that_ends_without_checkpoint_fails_the_job(bench: Bench) -> None:
    parent = bench.job("mask2former", "train", state="running")
    child = create(bench, "evaluate", parent_job_id=parent.id, datasets=Datasets(eval="/no/such/data"))
    bench.store.transition(parent.id, State.DONE)

    with pytest.raises(NotFoundError, match=parent.id):
        finalize(bench.store, child)


def test_a_chain_of_waiting_jobs(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 1, stage 2 and evaluation pasted one after the other, as document 000 does."""
    join_network(monkeypatch, tmp_path, "nvpanoptix3d")
    rooms = Datasets(train=("/no/such/rooms",), eval="/no/such/rooms")
    first = create(bench, network="nvpanoptix3d", datasets=rooms, specs={"dataset": {"enable_3d": False}})
    second = create(
        bench,
        network="nvpanoptix3d",
        datasets=rooms,
        specs={"dataset": {"enable_3d": True}},
        parent_job_id=first.id,
    )
    measured = create(bench, "evaluate", "nvpanoptix3d", datasets=rooms, parent_job_id=second.id)

    checkpoints = []
    for job, stage in ((first, 1), (second, 2)):
        finalize(bench.store, job)
        bench.store.transition(job.id, State.RUNNING)
        checkpoints.append(str(bench.checkpoint(job, "train/model_epoch_000.pth", epoch=0)))
        bench.store.transition(job.id, State.DONE)
        spec = yaml.safe_load(JobFolder(job.folder).spec.read_text())
        assert spec["dataset"]["enable_3d"] == (stage == 2)
    resolved = finalize(bench.store, measured).nested()

    assert (
        yaml.safe_load(JobFolder(second.folder).spec.read_text())["train"]["checkpoint_2d"] == checkpoints[0]
    )
    assert resolved["evaluate"]["checkpoint"] == checkpoints[1]
    assert resolved["dataset"]["enable_3d"] is True


def test_places_that_serve_are_looked_up_when_the_job_starts(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("images", "images_panoptic"):
        (data / name).mkdir(parents=True)
    (data / "annotations_panoptic.json").write_text("{}")
    (data / "label_map_panoptic.json").write_text("[]")
    job = create(bench, datasets=Datasets(train=(str(data),), eval=str(data)))

    resolved = finalize(bench.store, job)

    spec = resolved.nested()["dataset"]
    assert spec["train"]["img_dir"] == str(data / "images")
    assert spec["val"]["panoptic_dir"] == str(data / "images_panoptic")
    assert spec["train"]["panoptic_json"] == str(data / "annotations_panoptic.json")
    assert "found at" in resolved.origins["dataset.train.img_dir"].detail


def test_optional_data_that_is_not_there_is_left_empty(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    job = create(
        bench, "inference", datasets=Datasets(train=(str(data),), inference=str(data)),
        overrides=["inference.checkpoint=/m.pth"],
    )  # fmt: skip
    assert yaml.safe_load(JobFolder(job.folder).spec.read_text())["dataset"]["label_map"]

    resolved = finalize(bench.store, job)

    assert not resolved.nested()["dataset"]["label_map"]
    assert any("dataset.label_map: left empty" in note for note in resolved.notes)


def test_devices_are_those_given_at_the_start(bench: Bench) -> None:
    job = create(
        bench, launcher=Recorder(gpus=4), datasets=LOCAL, specs={"train": {"num_gpus": 1, "gpu_ids": [1, 2]}}
    )

    train = finalize(bench.store, job).nested()["train"]

    assert (train["num_gpus"], train["gpu_ids"]) == (2, [1, 2])


def test_more_gpus_than_there_are_is_an_error_of_the_launch(bench: Bench) -> None:
    options: dict[str, Any] = {"datasets": LOCAL, "overrides": ["train.num_gpus=4"]}

    with pytest.raises(InvalidValueError, match=r"train\.num_gpus: 4 is more than"):
        create(bench, launcher=Recorder(gpus=1), **options)
    dry = create(bench, launcher=Recorder(gpus=1), dry_run=True, **options)

    assert dry.message.startswith("dry run")
    assert bench.store.list() == []


def test_the_debug_launcher_runs_the_job_here(bench: Bench) -> None:
    ran: list[str] = []

    def run(folder: Path) -> int:
        job = bench.store.get(folder.name)
        ran.append(finalize(bench.store, job).nested()["results_dir"])
        return 0

    job = create(bench, launcher=DebugLauncher(run, bench.store), datasets=LOCAL)

    assert ran == [job.results_dir]
    assert job.launcher == "debug"


def test_a_trial_knows_its_search(bench: Bench) -> None:
    job = create(bench, trial_of="mask2former-train-abc123")

    assert bench.store.get(job.id).request.policy["trial_of"] == "mask2former-train-abc123"


def test_public_names_load_on_first_use() -> None:
    assert skillbank.__all__ == sorted(skillbank.__all__)
    for name in skillbank.__all__:
        assert getattr(skillbank, name) is not None
    assert set(skillbank.__all__) <= set(dir(skillbank))
    with pytest.raises(AttributeError, match="no attribute 'create_jobs'"):
        _ = skillbank.create_jobs


def test_a_fault_of_ours_while_starting_does_not_leave_the_job_pending(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError):
        create(bench, launcher=Recorder(error=ZeroDivisionError("boom")))

    job = bench.store.list()[0]
    assert job.state is State.ERROR
    assert job.error is not None
    assert job.error["code"] == "backend.launch"
    assert "boom" in job.message
