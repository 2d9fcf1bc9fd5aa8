"""Every way a job can end is on record. Jobs run inside the test process, by the debug launcher."""

import json
import logging
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import toy_impl
from toy_run import LIGHTNING_WARNING

from skillbank.create import create_job
from skillbank.errors import InterruptedJobError
from skillbank.jobs.record import Job, JobFolder, Request
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore
from skillbank.launch.slots import Slots
from skillbank_runners.lifecycle import main, run_job

pytestmark = pytest.mark.filterwarnings(LIGHTNING_WARNING)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLBANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKILLBANK_NETWORKS", "toy_network")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SKILLBANK_ACCELERATOR", "cpu")


@pytest.fixture
def points(tmp_path: Path) -> str:
    return str(toy_impl.write_points(tmp_path / "points.txt", 40))


def run(action: str = "train", *, parent: Job | None = None, **settings: Any) -> Job:
    """Create a job and run it here; settings are dotted keys with `__` for the dot."""
    options: dict[str, Any] = {"encryption_key": settings.pop("key", None)}
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    if parent is not None:
        options["parent_job_id"] = parent.id
    job = create_job("toy", action, overrides=overrides, launcher="debug", **options)
    return JobStore().get(job.id)


def train(points: str, **settings: Any) -> Job:
    return run(dataset__train_file=points, train__num_epochs=1, **settings)


def events(job: Job, action: str = "train") -> list[dict[str, Any]]:
    path = Path(job.results_dir) / action / "status.json"
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(points: str, **more: Any) -> Job:
    """A job in the store that nothing has started."""
    request = Request(network="toy", action="train", overrides={"dataset.train_file": points, **more})
    return JobStore().create(request, launcher="debug")


def log_of(job: Job) -> str:
    return JobFolder(job.folder).log.read_text()


def test_a_job_ends_done_with_everything_on_record(points: str) -> None:
    job = train(points)
    assert job.state is State.DONE
    history = [entry.state for entry in JobStore().history(job.id)]
    assert history == [State.PENDING, State.RUNNING, State.DONE]
    assert json.loads(JobFolder(job.folder).exit.read_text())["code"] == 0
    seen = events(job)
    assert [seen[0]["status"], seen[-1]["status"]] == ["STARTED", "SUCCESS"]
    assert {event["job_id"] for event in seen} == {job.id}
    folder = Path(job.results_dir) / "train"
    assert (folder / "toy_model_latest.pth").is_file()
    assert "num_epochs: 1" in (folder / "experiment.yaml").read_text()
    (artifact,) = JobStore().artifacts(job.id)
    assert (artifact.kind, artifact.epoch, artifact.step) == ("checkpoint", 0, 5)
    assert len(artifact.sha256) == 64


def test_evaluation_takes_the_checkpoint_of_its_parent(points: str) -> None:
    parent = train(points)
    job = run("evaluate", parent=parent, dataset__test_file=points)
    assert job.state is State.DONE
    found = {artifact.kind: artifact for artifact in JobStore().artifacts(job.id)}
    assert found["metrics"].metrics.keys() == {"accuracy"}
    assert "model_epoch_000.pth" in (Path(job.results_dir) / "evaluate" / "metrics.json").read_text()


def test_no_secret_is_in_anything_a_job_leaves(
    points: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-value")
    job = train(points, key="nvidia_tlt_secret")
    bad = train(f"{points}.aws-secret-value.gone")
    assert (job.state, bad.state) == (State.DONE, State.ERROR)
    assert not JobFolder(job.folder).secret.exists()
    seen = 0
    for path in [*job.folder.rglob("*"), *bad.folder.rglob("*"), tmp_path / "home" / "store.db"]:
        if path.is_file() and path.name not in ("spec.yaml", "job.json", "experiment.yaml", "origins.json"):
            content = path.read_bytes()
            assert b"nvidia_tlt_secret" not in content, path
            if path.name != "store.db":
                assert b"aws-secret-value" not in content, path
            seen += 1
    assert seen > 8
    assert "nvidia_tlt_secret" not in (job.folder / "job.json").read_text()
    assert "***" in (bad.error or {})["message"]


def test_missing_data_is_told_before_anything_heavy_is_loaded(points: str) -> None:
    job = train(f"{points}.gone")
    assert job.state is State.ERROR
    assert job.error is not None
    assert job.error["code"] == "data.missing-files"
    assert job.error["message"].startswith(f"dataset.train_file: {points}.gone: no such file")
    assert json.loads(JobFolder(job.folder).exit.read_text())["code"] == 3
    last = events(job)[-1]
    assert (last["status"], last["error_code"]) == ("FAILURE", "data.missing-files")
    assert "STARTED" not in {event["status"] for event in events(job)}
    assert "hint: " in log_of(job)


def test_memory_that_runs_out_names_the_settings_to_lower(points: str) -> None:
    job = train(points, train__fail="memory")
    assert job.error is not None
    assert job.error["code"] == "job.out-of-memory"
    assert job.error["hint"] == "lower dataset.batch_size=4, or model.hidden=4"
    assert json.loads(JobFolder(job.folder).exit.read_text())["code"] == 6


def test_a_bug_is_an_error_with_its_traceback_in_the_log_only(points: str) -> None:
    job = train(points, train__fail="bug")
    assert job.error is not None
    assert job.error["code"] == "internal"
    assert job.error["message"] == "train: KeyError: 'a bug'"
    assert "Traceback" in log_of(job)
    assert "toy_impl.py" in log_of(job)
    assert "Traceback" not in json.dumps(job.error)
    assert json.loads(JobFolder(job.folder).exit.read_text())["code"] == 1
    assert events(job)[-1]["message"] == "train: KeyError: 'a bug'"


def test_a_parent_that_failed_is_named(points: str) -> None:
    parent = recorded(points)
    request = Request(network="toy", action="evaluate", overrides={"dataset.test_file": points})
    child = JobStore().create(request, launcher="debug", parent_id=parent.id)
    JobStore().transition(parent.id, State.ERROR, "it broke", error={"code": "x", "message": "it broke"})
    assert run_job(child.folder) == 6
    job = JobStore().get(child.id)
    assert job.state is State.ERROR
    assert job.message == f"parent job {parent.id} ended as error: it broke"
    assert job.error is not None
    assert job.error["hint"] == f"skillbank jobs logs {parent.id}"
    assert events(job, "evaluate")[-1]["status"] == "FAILURE"


def test_a_job_waits_for_its_parent_and_says_so(points: str) -> None:
    parent = recorded(points)
    request = Request(network="toy", action="evaluate", overrides={"dataset.test_file": points})
    child = JobStore().create(request, launcher="debug", parent_id=parent.id)
    looks = []

    def meanwhile(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            assert run_job(parent.folder) == 0

    assert run_job(child.folder, sleep=meanwhile, poll_s=0.1) == 0
    assert looks == [0.1, 0.1, 0.1]
    first = events(JobStore().get(child.id), "evaluate")[0]
    assert first["message"] == f"waiting for parent job {parent.id}, which is pending"


def test_a_job_waits_for_its_device_and_says_so(points: str, tmp_path: Path) -> None:
    job = recorded(points)
    slots = Slots(tmp_path / "home", poll_s=0.02)
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(run_job(job.folder)))
    with slots.acquire("other-job", ("cpu",)):
        worker.start()
        status = Path(job.results_dir) / "train" / "status.json"
        for _ in range(200):
            if status.exists() and "waiting for cpu: held by other-job" in status.read_text():
                break
            threading.Event().wait(0.05)
        assert JobStore().get(job.id).state is State.PENDING
        assert "waiting for cpu" in status.read_text()
    worker.join(60)
    assert codes == [0]


def test_a_job_canceled_before_it_began_stays_canceled(points: str) -> None:
    job = recorded(points)
    JobStore().transition(job.id, State.CANCELING, "cancel asked for")
    assert run_job(job.folder) == 6
    found = JobStore().get(job.id)
    assert found.state is State.CANCELED
    assert events(found)[-1]["message"] == "canceled"
    assert run_job(job.folder) == 6  # and does not begin again
    assert [entry.state for entry in JobStore().history(job.id)][-1] is State.CANCELED


def test_an_incomplete_spec_is_an_error_of_the_job() -> None:
    job = JobStore().create(Request(network="toy", action="train"), launcher="debug")
    assert run_job(job.folder) == 3
    assert "dataset.train_file" in JobStore().get(job.id).message


def test_an_implementation_that_does_not_load_is_exit_5(points: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = recorded(points)
    monkeypatch.delattr(toy_impl, "NETWORK")
    assert run_job(job.folder) == 5
    found = JobStore().get(job.id)
    assert "toy: its implementation toy_impl cannot be used" in found.message


def test_results_are_readable_and_job_files_are_private(points: str) -> None:
    job = train(points)
    mode = stat.S_IMODE((Path(job.results_dir) / "train" / "experiment.yaml").stat().st_mode)
    assert mode & stat.S_IRGRP
    assert not stat.S_IMODE(job.folder.stat().st_mode) & 0o077


def test_the_log_is_left_as_it_was(points: str) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    train(points)
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_the_command_line_has_one_form() -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m skillbank_runners\.worker"):
        main([])


def test_a_final_job_is_not_run_again(points: str) -> None:
    job = train(points)
    assert run_job(job.folder) == 6
    assert JobStore().get(job.id).state is State.DONE


@pytest.mark.parametrize("stopped", [False, True])
def test_without_the_store_the_end_is_still_one_clear_line(
    points: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, stopped: bool
) -> None:
    parent = recorded(points)
    request = Request(network="toy", action="evaluate", overrides={"dataset.test_file": points})
    child = JobStore().create(request, launcher="debug", parent_id=parent.id)

    def meanwhile(seconds: float) -> None:
        for path in (tmp_path / "home").glob("store.db*"):
            path.unlink()
        if stopped:
            raise InterruptedJobError("the job was stopped by SIGTERM")

    code = 6 if stopped else 4
    assert run_job(child.folder, sleep=meanwhile) == code
    assert json.loads(JobFolder(child.folder).exit.read_text())["code"] == code
    said = [record for record in caplog.records if "cannot be recorded" in record.getMessage()]
    assert [record.levelname for record in said] == ["ERROR"]
    assert f"the end of job {child.id} as error cannot be recorded: " in said[0].getMessage()
    assert not [record for record in caplog.records if record.exc_info]


def test_a_results_folder_that_cannot_be_used_is_one_error(
    points: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("x")
    job = recorded(points, results_dir=str(tmp_path / "file" / "below"))
    assert run_job(job.folder) == 5
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    (error,) = [text for text in errors if not text.startswith("hint: ")]
    assert str(tmp_path / "file") in error
