"""Commands about jobs, on records made by the store itself."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.jobs.record import Job, JobFolder, Request
from skillbank.jobs.states import State
from skillbank.jobs.status import StatusWriter
from skillbank.jobs.store import JobStore
from skillbank_runners.cli.progress import Progress, progress_of


@pytest.fixture
def store(own_home: Path) -> JobStore:
    return JobStore(own_home / "store")


def job(store: JobStore, *states: State, network: str = "mask2former", error: dict | None = None) -> Job:
    """A job that went through these states."""
    made = store.create(Request(network=network, action="train"), name="first")
    for state in states:
        store.transition(made.id, state, f"is {state}", error=error if state is State.ERROR else None)
    return store.get(made.id)


DONE = (State.RUNNING, State.DONE)


def reported(of: Job) -> None:
    """Two epochs in the job's status file."""
    path = JobFolder(of.folder).results / "train" / "status.json"
    writer = StatusWriter(path, job_id=of.id, component="mask2former train")
    writer.started()
    writer.metrics({"val_loss": 0.5}, epoch=0, max_epoch=1, eta="0:01:00")
    writer.metrics({"val_loss": 0.25, "mIoU": float("nan")}, epoch=1, max_epoch=1, eta="0:00:00")
    writer.success()


def test_list_is_json_with_the_documented_fields(store: JobStore, cli: Callable) -> None:
    made = job(store, *DONE)
    (row,) = cli("skillbank", "jobs", "list").json()
    assert row["id"] == made.id
    assert {name: row[name] for name in ("network", "action", "name", "state", "message", "kind")} == {
        "network": "mask2former", "action": "train", "name": "first",
        "state": "done", "message": "is done", "kind": "experiment",
    }  # fmt: skip
    assert {"parent_job_id", "results_dir", "created_at", "updated_at", "is_duplicate", "error"} <= set(row)


def test_list_filters(store: JobStore, cli: Callable) -> None:
    first, second = job(store, *DONE), job(store, network="oneformer")
    ids = ["-o", "id"]
    assert cli("skillbank", "jobs", "list", *ids).out.split() == [second.id, first.id]
    assert cli("skillbank", "jobs", "list", "--state", "done", *ids).out.split() == [first.id]
    assert cli("skillbank", "jobs", "list", "--network", "oneformer", *ids).out.split() == [second.id]
    assert cli("tao", "mask2former", "list-jobs", *ids).out.split() == [first.id]
    assert cli("skillbank", "jobs", "list", "--limit", "1", *ids).out.split() == [second.id]
    assert cli("skillbank", "jobs", "list", "--state", "finished").code == 2


@pytest.mark.parametrize("flag", ["--network", "--action", "--parent-job-id"])
def test_a_filter_that_names_nothing_is_an_error(flag: str, store: JobStore, cli: Callable) -> None:
    job(store)
    seen = cli("skillbank", "jobs", "list", flag, "trian")
    assert (seen.code, seen.out) == (4, "")
    assert "'trian'" in seen.err
    assert cli("skillbank", "jobs", "list", "--network", "oneformer", "--action", "export").json() == []


def test_show_has_history_artifacts_and_progress(store: JobStore, cli: Callable, tmp_path: Path) -> None:
    made = job(store, State.RUNNING)
    weights = tmp_path / "model_epoch_001.pth"
    weights.write_bytes(b"weights")
    store.register_artifact(made.id, weights, kind="checkpoint", epoch=1, step=20, metrics={"val_loss": 0.25})
    store.transition(made.id, State.DONE, "finished")
    reported(made)
    for words in (
        ("skillbank", "jobs", "show", made.id),
        ("tao", "mask2former", "get-job", "--job_id", made.id),
    ):
        shown = cli(*words).json()
        assert [entry["state"] for entry in shown["history"]] == ["pending", "running", "done"]
        assert shown["artifacts"][0]["path"] == str(weights)
        assert shown["artifacts"][0]["epoch"] == 1
        assert shown["progress"]["metrics"] == {"val_loss": 0.25, "mIoU": None}
        assert (shown["progress"]["epoch"], shown["progress"]["max_epoch"]) == (1, 1)
    assert cli("skillbank", "jobs", "artifacts", made.id, "-o", "id").out.strip() == str(weights)
    assert cli("tao", "mask2former", "list-artifacts", made.id, "--kind", "onnx").json() == []
    assert cli("skillbank", "jobs", "history", made.id, "-o", "id").out.split() == [
        "pending",
        "running",
        "done",
    ]


def test_a_job_is_shown_to_people_without_json(store: JobStore, cli: Callable) -> None:
    error = {"code": "job.failed", "message": "the loss is nan", "hint": "lower train.optim.lr"}
    made = job(store, State.RUNNING, State.ERROR, error=error)
    reported(made)
    lines = cli("skillbank", "jobs", "show", made.id, "-o", "table").out.splitlines()
    named = {line.split()[0]: line.split(None, 1)[1] for line in lines}
    assert named["error"] == "the loss is nan"
    assert named["hint:"] == "lower train.optim.lr"
    assert named["progress"] == "epoch 2 of 2"
    assert named["history"] == f"3 states: skillbank jobs history {made.id}"
    assert not any("{" in line for line in lines)
    status = cli("tao", "mask2former", "get-job-status", made.id, "-o", "table").out
    assert "epoch 2 of 2" in status
    assert "{" not in status


def test_status_without_anything_reported(store: JobStore, cli: Callable) -> None:
    status = cli("tao", "mask2former", "get-job-status", job(store).id).json()
    assert (status["state"], status["epoch"], status["metrics"]) == ("pending", None, {})


def test_wait_ends_as_the_job_did(store: JobStore, cli: Callable) -> None:
    done = job(store, *DONE)
    seen = cli("skillbank", "jobs", "wait", done.id)
    assert (seen.code, seen.json()["state"], seen.err) == (0, "done", "")
    failed = job(
        store, State.RUNNING, State.ERROR,
        error={"code": "job.out-of-memory", "message": "no memory left", "hint": "lower the batch size"},
    )  # fmt: skip
    seen = cli("tao", "mask2former", "wait-job", failed.id, "-o", "json")
    assert (seen.code, seen.json()["state"]) == (6, "error")
    assert f"{failed.id} ended as error: no memory left" in seen.err
    assert "hint: lower the batch size" in seen.err
    assert json.loads(seen.err.splitlines()[-1])["error"]["code"] == "job.out-of-memory"
    stopped = job(store, State.CANCELING, State.CANCELED)
    seen = cli("skillbank", "jobs", "watch", stopped.id)
    assert seen.code == 6
    assert f"{stopped.id} canceled" in seen.err
    assert "is canceled" in seen.err


def test_wait_gives_up_and_the_job_goes_on(store: JobStore, cli: Callable) -> None:
    running = job(store)
    seen = cli("skillbank", "jobs", "wait", running.id, "--timeout", "0.01")
    assert (seen.code, seen.out) == (5, "")
    assert f"{running.id} is still pending after 0.01 s; it goes on" in seen.err


def test_cancel_a_job_that_never_started(store: JobStore, cli: Callable) -> None:
    pending = job(store)
    assert cli("skillbank", "jobs", "cancel", pending.id).json()["state"] == "canceled"
    again = cli("tao", "mask2former", "cancel-job", pending.id)
    assert (again.code, again.json()["state"]) == (0, "canceled")
    assert "has already ended: canceled" in again.err


def test_delete_needs_a_job_that_has_ended(store: JobStore, cli: Callable) -> None:
    pending = job(store)
    assert cli("skillbank", "jobs", "delete", pending.id).code == 6
    done = job(store, *DONE)
    assert cli("tao", "mask2former", "delete-job", done.id).json() == {"id": done.id, "deleted": True}
    assert cli("skillbank", "jobs", "show", done.id).code == 4


def test_logs_of_a_job_that_wrote_nothing(store: JobStore, cli: Callable) -> None:
    pending = job(store)
    seen = cli("skillbank", "jobs", "logs", pending.id)
    assert (seen.code, seen.out) == (0, "")
    assert f"{pending.id} is pending and has written nothing yet" in seen.err
    shutil.rmtree(pending.folder)
    seen = cli("skillbank", "jobs", "logs", pending.id)
    assert (seen.code, seen.out) == (4, "")
    assert f"its folder {pending.folder} is gone" in seen.err


def test_logs_come_out_whole_or_by_the_last_lines(store: JobStore, cli: Callable) -> None:
    made = job(store)
    store.set_backend(made.id, {"folder": str(made.folder)})
    JobFolder(made.folder).log.write_text("one\ntwo\nthree\n")
    assert cli("skillbank", "jobs", "logs", made.id).out == "one\ntwo\nthree\n"
    assert cli("tao", "mask2former", "get-job-logs", made.id, "--tail", "2").out == "two\nthree\n"
    assert cli(
        "tao-client", "mask2former", "experiment-job-logs", "--id", "e", "--job", made.id
    ).out.startswith("one")


def test_the_id_must_be_there_once_and_known(store: JobStore, cli: Callable) -> None:
    made = job(store)
    missing = cli("skillbank", "jobs", "show")
    assert missing.code == 2
    assert "the id of a job is missing; is a variable empty?" in missing.err
    assert cli("skillbank", "jobs", "show", "").code == 2
    assert cli("skillbank", "jobs", "show", made.id, "--id", "other").code == 2
    unknown = cli("skillbank", "jobs", "show", f"{made.id}0")
    assert unknown.code == 4
    assert made.id in unknown.err
    other = cli("tao", "oneformer", "get-job", made.id)
    assert other.code == 4
    assert f"job {made.id} is one of mask2former, not of oneformer" in other.err


def test_the_older_client_lists_by_experiment(store: JobStore, cli: Callable) -> None:
    store.create(Request(network="oneformer", action="train"), experiment_id="mine")
    store.create(Request(network="oneformer", action="train"), experiment_id="other")
    assert len(cli("tao-client", "oneformer", "list").json()) == 2
    (row,) = cli("tao-client", "oneformer", "list", "--id", "mine").json()
    assert row["experiment_id"] == "mine"


def test_progress_is_a_line_for_each_change_where_nobody_looks_on(
    store: JobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    made = job(store, State.RUNNING)
    with Progress(shown=True) as progress:
        progress.show(made)
        progress.show(made)
        reported(made)
        progress.show(store.get(made.id))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{made.id} running  is running", f"{made.id} running  epoch 2 of 2  val_loss 0.25"]
    assert progress_of(made)["status"] == "SUCCESS"
    with Progress(shown=False) as progress:
        progress.show(made)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    made = job(store, State.RUNNING)
    reported(made)
    store.transition(made.id, State.DONE, "finished")
    with Progress(shown=True) as progress:
        progress.show(made)
        progress.show(store.get(made.id))
    assert f"{made.id} done  epoch 2 of 2  val_loss 0.25  finished" in screen.getvalue()
    assert "\033[" in screen.getvalue()
