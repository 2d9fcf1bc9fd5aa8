import json
import signal
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from skillbank.jobs.processes import ProcessId, identify, this_process
from skillbank.jobs.record import Job, JobFolder, Request
from skillbank.jobs.store import JobStore


@pytest.fixture(scope="module")
def dead() -> ProcessId:
    process = subprocess.Popen(["sleep", "30"])
    found = identify(process.pid)
    process.kill()
    process.wait()
    assert found is not None
    return found


def launched(store: JobStore, train: Request, process: ProcessId, state: str = "running", **more: Any) -> Job:
    job = store.create(train, **more)
    store.set_backend(job.id, {"worker": process.to_dict(), "folder": str(job.folder)})
    for step in {"pending": (), "running": ("running",)}.get(state, ("running", state)):
        store.transition(job.id, step)
    return job


def leave(job: Job, code: int) -> None:
    JobFolder(job.folder).exit.write_text(json.dumps({"code": code, "ended_at": "2030-01-02T03:04:05Z"}))


@pytest.mark.parametrize("state", ["pending", "running", "pausing", "unknown"])
def test_a_worker_that_disappeared_is_an_error(
    store: JobStore, train: Request, dead: ProcessId, state: str
) -> None:
    job = launched(store, train, dead, state)
    found = store.get(job.id)
    assert found.state == "error"
    assert found.message == f"worker process {dead.pid} disappeared"
    assert found.error is not None
    assert found.error["code"] == "job.interrupted"
    assert str(JobFolder(job.folder).log) in found.error["hint"]
    assert "run the same command again" in found.error["hint"]
    assert store.history(job.id)[-1].source == "reconcile"


def test_a_living_worker_is_left_alone(store: JobStore, train: Request) -> None:
    job = launched(store, train, this_process())
    assert store.get(job.id).state == "running"
    assert store.reconcile() == []


def test_a_reused_process_number_does_not_keep_a_job_running(store: JobStore, train: Request) -> None:
    job = launched(store, train, replace(this_process(), started="1"))
    assert store.get(job.id).state == "error"


def test_a_job_of_another_host_is_left_alone(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, replace(dead, host="elsewhere"))
    assert store.get(job.id).state == "running"


def test_a_job_of_another_launcher_is_left_alone(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, dead, launcher="slurm")
    assert store.get(job.id).state == "running"


@pytest.mark.parametrize("state", ["pending", "running"])
def test_exit_code_zero_is_done(store: JobStore, train: Request, dead: ProcessId, state: str) -> None:
    job = launched(store, train, dead, state)
    leave(job, 0)
    assert store.get(job.id).state == "done"
    assert [entry.state for entry in store.history(job.id)] == ["pending", "running", "done"]


def test_another_exit_code_is_an_error(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, dead)
    leave(job, 6)
    found = store.get(job.id)
    assert found.error is not None
    assert (found.state, found.error["code"]) == ("error", "job.failed")
    assert found.message == f"worker process {dead.pid} ended with exit code 6"


def test_a_kill_is_named_and_memory_is_suspected(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, dead)
    leave(job, 128 + signal.SIGKILL)
    found = store.get(job.id)
    assert found.message == f"worker process {dead.pid} was killed: exit code 137 (SIGKILL)"
    assert found.error is not None
    assert "ran out of memory" in found.error["hint"]


def test_a_broken_exit_record_counts_as_none(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, dead)
    JobFolder(job.folder).exit.write_text('{"code"')
    assert store.get(job.id).message.endswith("disappeared")


@pytest.mark.parametrize(("code", "state"), [(None, "canceled"), (143, "canceled"), (0, "done")])
def test_a_worker_that_ended_while_it_was_canceled(
    store: JobStore, train: Request, dead: ProcessId, code: int | None, state: str
) -> None:
    job = launched(store, train, dead, "canceling")
    if code is not None:
        leave(job, code)
    assert store.get(job.id).state == state


def test_a_paused_job_has_no_process_by_right(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, this_process(), "pausing")
    store.transition(job.id, "paused")
    store.set_backend(job.id, {"worker": dead.to_dict()})
    assert store.get(job.id).state == "paused"


def set_creator(store: JobStore, job: Job, process: ProcessId) -> None:
    with store._database.write() as connection:
        connection.execute(
            "UPDATE jobs SET creator = ? WHERE id = ?", (json.dumps(process.to_dict()), job.id)
        )


def test_a_job_that_was_never_started_ends_with_its_creator(
    store: JobStore, train: Request, dead: ProcessId
) -> None:
    job = store.create(train)
    assert store.get(job.id).state == "pending"
    set_creator(store, job, dead)
    found = store.get(job.id)
    assert found.state == "error"
    assert f"never started: process {dead.pid} that created it is gone" in found.message
    assert found.error is not None
    assert found.error["hint"] == "run the same command again"


def test_the_launch_record_helps_when_the_creator_died_after_the_start(
    store: JobStore, train: Request, dead: ProcessId
) -> None:
    job = store.create(train)
    set_creator(store, job, dead)
    JobFolder(job.folder).launch.write_text(json.dumps({"worker": this_process().to_dict()}))
    assert store.get(job.id).state == "pending"


def test_listing_and_reconciling_settle_all_dead_jobs(
    store: JobStore, train: Request, dead: ProcessId
) -> None:
    gone = [launched(store, train, dead).id for _ in range(3)]
    alive = launched(store, train, this_process())
    assert [job.id for job in store.list(state="running")] == [alive.id]
    assert {job.id for job in store.list(state="error")} == set(gone)
    late = launched(store, train, dead)
    assert [job.id for job in store.reconcile()] == [late.id]
    assert store.reconcile(late.id) == []


def test_the_workers_own_word_wins_the_race(store: JobStore, train: Request, dead: ProcessId) -> None:
    job = launched(store, train, dead)
    read_before = store._read(job.id)
    store.transition(job.id, "done", source="worker")
    assert store._settle(read_before) is True
    assert store.get(job.id).state == "done"
