import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skillbank.errors import InvalidValueError, LaunchError, StorageError
from skillbank.jobs.processes import ProcessId, identify, is_alive
from skillbank.jobs.record import Job, JobFolder, Request
from skillbank.jobs.store import JobStore
from skillbank.launch import Bundle, cancel_job
from skillbank.launch.local import LocalLauncher

MakeBundle = Callable[..., Bundle]


def until(is_true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def launcher(store: JobStore) -> LocalLauncher:
    return LocalLauncher(store)


@pytest.fixture
def started(launcher: LocalLauncher, shell: MakeBundle) -> Iterator[Callable[..., dict[str, Any]]]:
    """Submits, and kills what is left at the end."""
    refs: list[dict[str, Any]] = []

    def start(script: str, **more: object) -> dict[str, Any]:
        refs.append(launcher.submit(shell(script, **more)))
        return refs[-1]

    yield start
    for ref in refs:
        for name in ("worker", "supervisor"):
            process = ProcessId.from_dict(ref[name])
            if process is not None and is_alive(process):
                os.killpg(process.pid, signal.SIGKILL)


def children(job: Job, count: int) -> list[ProcessId]:
    """Processes whose numbers the worker's script wrote, one per line."""
    file = job.folder / "pids"
    until(lambda: file.exists() and len(file.read_text().split()) == count)
    found = [identify(int(pid)) for pid in file.read_text().split()]
    assert None not in found
    return [process for process in found if process is not None]


TWO_CHILDREN = "sleep 60 & echo $! > pids; sleep 60 & echo $! >> pids; "


def test_the_worker_is_detached_and_runs_in_its_folder(
    started: Callable[..., dict[str, Any]], job: Job
) -> None:
    started(
        "pwd > where; readlink /proc/self/fd/0 > stdin; ps -o sid= -p $$ > session; touch ready; sleep 60"
    )
    until((job.folder / "ready").exists)
    assert (job.folder / "where").read_text().strip() == str(job.folder)
    assert (job.folder / "stdin").read_text().strip() == "/dev/null"
    assert int((job.folder / "session").read_text()) != os.getsid(0)


def test_a_running_job_is_running(launcher: LocalLauncher, started: Callable[..., dict[str, Any]]) -> None:
    ref = started("exec sleep 60")
    assert launcher.status(ref).state == "running"


def test_no_zombie_is_left_to_the_creator(started: Callable[..., dict[str, Any]], job: Job) -> None:
    started("true")
    until(JobFolder(job.folder).exit.exists)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_killed_worker_is_an_error_in_the_store(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], store: JobStore, job: Job
) -> None:
    ref = started("exec sleep 60")
    store.transition(job.id, "running", source="worker")
    os.kill(ref["worker"]["pid"], signal.SIGKILL)
    found = store.wait(job.id, timeout_s=10, poll_s=0.02)
    assert (found.state, found.error and found.error["code"]) == ("error", "job.interrupted")
    assert f"worker process {ref['worker']['pid']} was killed: exit code 137 (SIGKILL)" == found.message
    assert launcher.status(ref).exit_code == 137


def test_what_a_killed_worker_leaves_is_ended(started: Callable[..., dict[str, Any]], job: Job) -> None:
    ref = started(TWO_CHILDREN + "wait")
    processes = children(job, 2)
    os.kill(ref["worker"]["pid"], signal.SIGKILL)
    until(lambda: not any(is_alive(process) for process in processes))


def test_a_killed_supervisor_does_not_end_the_job(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], store: JobStore, job: Job
) -> None:
    ref = started("while [ ! -e stop ]; do sleep 0.02; done")
    store.transition(job.id, "running", source="worker")
    os.kill(ref["supervisor"]["pid"], signal.SIGKILL)
    supervisor = ProcessId.from_dict(ref["supervisor"])
    assert supervisor is not None
    until(lambda: not is_alive(supervisor))
    assert store.get(job.id).state == "running"
    assert launcher.status(ref).state == "running"
    (job.folder / "stop").touch()
    found = store.wait(job.id, timeout_s=10, poll_s=0.02)
    assert (found.state, found.message) == ("error", f"worker process {ref['worker']['pid']} disappeared")
    assert launcher.status(ref).state == "error"


def test_both_killed_is_an_error(started: Callable[..., dict[str, Any]], store: JobStore, job: Job) -> None:
    ref = started("exec sleep 60")
    for name in ("supervisor", "worker"):
        os.kill(ref[name]["pid"], signal.SIGKILL)
    assert store.wait(job.id, timeout_s=10, poll_s=0.02).state == "error"


def test_a_worker_that_says_how_it_ended_is_believed(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], store: JobStore, job: Job
) -> None:
    ref = started("""echo '{"code": 0, "ended_at": ""}' > exit.json; kill -SEGV $$""")
    assert store.wait(job.id, timeout_s=10, poll_s=0.02).state == "done"
    assert launcher.status(ref).exit_code == 0


def test_cancel_ends_the_worker_and_its_children(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], job: Job
) -> None:
    ref = started(TWO_CHILDREN + "wait")
    processes = children(job, 2)
    launcher.cancel(ref)
    assert not any(is_alive(process) for process in processes)
    assert launcher.status(ref).exit_code == 143


def test_cancel_lets_the_worker_save_its_work(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], job: Job
) -> None:
    ref = started(
        "trap 'sleep 0.1; echo saved > saved; exit 0' TERM; touch ready; while :; do sleep 0.02; done"
    )
    until((job.folder / "ready").exists)
    launcher.cancel(ref)
    assert (job.folder / "saved").exists()
    assert launcher.status(ref).state == "done"


def test_cancel_kills_what_does_not_listen(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], job: Job
) -> None:
    ref = started("trap '' TERM; touch ready; while :; do sleep 0.02; done")
    until((job.folder / "ready").exists)
    launcher.cancel(ref, grace_s=0.1)
    assert launcher.status(ref).exit_code == 137


def test_canceling_a_job_by_its_id_settles_the_record(
    started: Callable[..., dict[str, Any]], store: JobStore, job: Job
) -> None:
    started("exec sleep 60")
    store.transition(job.id, "running", source="worker")
    assert cancel_job(store, job.id).state == "canceled"
    assert [entry.state for entry in store.history(job.id)] == ["pending", "running", "canceling", "canceled"]
    assert cancel_job(store, job.id).state == "canceled"


def test_a_job_that_was_not_started_is_canceled_too(
    store: JobStore, job: Job, launcher: LocalLauncher
) -> None:
    assert cancel_job(store, job.id).state == "canceled"
    with pytest.raises(LaunchError, match="it is canceled and cannot be started"):
        launcher.submit(Bundle(job_id=job.id, folder=job.folder, argv=("true",)))


def test_a_job_of_another_machine_is_not_touched(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]]
) -> None:
    ref = started("exec sleep 60")
    elsewhere = {name: {**ref[name], "host": "elsewhere"} for name in ("worker", "supervisor")}
    moved = {**ref, **elsewhere}
    assert launcher.status(moved).state == "unknown"
    with pytest.raises(LaunchError, match="its worker runs on elsewhere"):
        launcher.cancel(moved)
    assert launcher.status(ref).state == "running"


def test_a_job_that_runs_is_not_started_twice(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], shell: MakeBundle
) -> None:
    started("exec sleep 60")
    with pytest.raises(LaunchError, match="it runs already"):
        launcher.submit(shell("true"))


def test_a_command_that_does_not_exist_is_a_launch_error(launcher: LocalLauncher, job: Job) -> None:
    with pytest.raises(LaunchError, match=r"'/no/such' cannot be started \(No such file") as caught:
        launcher.submit(Bundle(job_id=job.id, folder=job.folder, argv=("/no/such", "x")))
    assert caught.value.exit_code == 5


def test_several_nodes_are_refused(launcher: LocalLauncher, shell: MakeBundle, job: Job) -> None:
    with pytest.raises(LaunchError, match="2 nodes are asked for") as caught:
        launcher.submit(shell("true", nodes=2))
    assert caught.value.key == "train.num_nodes"
    assert not JobFolder(job.folder).launch.exists()


def test_nothing_runs_when_the_start_cannot_be_noted(
    shell: MakeBundle, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job_id: str, ref: object) -> None:
        raise LaunchError("the store is gone")

    monkeypatch.setattr(store, "set_backend", refuse)
    with pytest.raises(LaunchError, match="the store is gone"):
        LocalLauncher(store).submit(shell("touch ran"))
    until(JobFolder(job.folder).exit.exists)
    assert not (job.folder / "ran").exists()


CREATE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from skillbank.jobs.store import JobStore
from skillbank.jobs.record import Request
from skillbank.launch import Bundle
from skillbank.launch.local import LocalLauncher
store = JobStore(Path(sys.argv[1]))
job = store.create(Request(network="mask2former", action="train"))
print(job.id, flush=True)
class Dying:
    def get(self, job_id): return store.get(job_id)
    def set_backend(self, job_id, ref): os.kill(os.getpid(), signal.SIGKILL)
LocalLauncher(Dying()).submit(Bundle(job_id=job.id, folder=job.folder, argv=("touch", "ran")))
"""


def test_a_creator_killed_while_it_launches_leaves_no_job_pending(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CREATE_AND_DIE, str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with JobStore(tmp_path / "home") as store:
        found = store.wait(done.stdout.strip(), timeout_s=10, poll_s=0.02)
        assert found.state == "error"
        assert not (found.folder / "ran").exists()


def test_secrets_are_neither_in_command_lines_nor_in_files(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-aws")
    ref = started("echo ${#AWS_SECRET_ACCESS_KEY} > length; sleep 60", env={"HF_TOKEN": "s3cr3t-of-hub"})
    until(lambda: (job.folder / "length").exists() and bool((job.folder / "length").read_text()))
    assert (job.folder / "length").read_text() == "13\n"
    for name in ("worker", "supervisor"):
        assert b"s3cr3t" not in Path(f"/proc/{ref[name]['pid']}/cmdline").read_bytes()
    files = [path for path in job.folder.parent.parent.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []


def test_settings_of_the_launcher_file_reach_the_worker_and_slips_are_told(
    launcher: LocalLauncher,
    started: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "mounts.json"
    file.write_text(json.dumps({"Envs": [{"variable": "OMP_NUM_THREADSR", "value": "1"}]}))
    monkeypatch.setenv("SKILLBANK_MOUNTS_FILE", str(file))
    ref = started("echo $OMP_NUM_THREADSR")
    assert list(launcher.logs(ref, follow=True)) == ["1"]
    assert "did you mean OMP_NUM_THREADS?" in caplog.text


def test_a_broken_launcher_file_stops_the_start(
    started: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    file = tmp_path / "mounts.json"
    file.write_text("{")
    monkeypatch.setenv("SKILLBANK_MOUNTS_FILE", str(file))
    with pytest.raises(InvalidValueError, match="line 1, column 2: no JSON"):
        started("true")
    assert not JobFolder(job.folder).launch.exists()


def test_a_second_run_in_the_same_folder_starts_with_a_clean_exit_record(shell: MakeBundle) -> None:
    launcher = LocalLauncher()
    for code in (3, 0):
        ref = launcher.submit(shell(f"exit {code}"))
        until(lambda: launcher.status(ref).state != "running")  # noqa: B023
        assert launcher.status(ref).exit_code == code


def test_every_job_has_a_meeting_port_of_its_own(store: JobStore) -> None:
    launcher = LocalLauncher(store)
    ports = set()
    for _ in range(3):
        job = store.create(Request(network="mask2former", action="train"))
        ref = launcher.submit(
            Bundle(job_id=job.id, folder=job.folder, argv=("/bin/sh", "-c", "echo $MASTER_PORT"))
        )
        ports.update(launcher.logs(ref, follow=True))
    assert len(ports) == 3


def test_a_log_that_cannot_be_written_is_one_clear_error(
    launcher: LocalLauncher, shell: MakeBundle, job: Job
) -> None:
    JobFolder(job.folder).log.mkdir()
    with pytest.raises(StorageError, match=r"log\.txt: the log cannot be written"):
        launcher.submit(shell("true"))


def test_the_log_is_followed_while_the_job_runs(
    launcher: LocalLauncher, started: Callable[..., dict[str, Any]], job: Job
) -> None:
    ref = started("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; printf three")
    lines = launcher.logs(ref, follow=True)
    assert next(lines) == "one"
    (job.folder / "go").touch()
    assert list(lines) == ["two", "three"]
