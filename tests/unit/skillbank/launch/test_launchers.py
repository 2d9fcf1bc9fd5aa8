"""What every launcher must do; a new one is added to `KINDS`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.errors import LaunchError, NotFoundError
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.store import JobStore
from skillbank.launch import Bundle, Launcher, get_launcher

KINDS = ("local", "debug")

MakeBundle = Callable[..., Bundle]


def call(folder: Path) -> int:
    """Does in this process what the local worker's command does in its own: run the launched command."""
    command = json.loads(JobFolder(folder).launch.read_text())["command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


@pytest.fixture(params=KINDS)
def launcher(request: pytest.FixtureRequest, store: JobStore) -> Launcher:
    return get_launcher(request.param, store, run=call)


def finish(launcher: Launcher, bundle: Bundle) -> tuple[dict[str, object], list[str]]:
    ref = launcher.submit(bundle)
    return ref, list(launcher.logs(ref, follow=True))


class TestEveryLauncher:
    def test_a_job_that_ends_well_is_done(self, launcher: Launcher, shell: MakeBundle) -> None:
        ref, lines = finish(launcher, shell("echo to stdout; echo to stderr >&2"))
        assert sorted(lines) == ["to stderr", "to stdout"]
        report = launcher.status(ref)
        assert (report.state, report.exit_code) == ("done", 0)

    def test_a_job_that_fails_is_an_error_with_its_exit_code(
        self, launcher: Launcher, shell: MakeBundle
    ) -> None:
        ref, _ = finish(launcher, shell("exit 6"))
        report = launcher.status(ref)
        assert (report.state, report.exit_code, report.message) == ("error", 6, "exit code 6")

    def test_the_reference_survives_json_and_is_noted_in_store_and_folder(
        self, launcher: Launcher, shell: MakeBundle, store: JobStore, job: Job
    ) -> None:
        ref, _ = finish(launcher, shell("true"))
        assert json.loads(json.dumps(ref)) == ref
        assert store.get(job.id).backend_ref == ref
        launch = json.loads(JobFolder(job.folder).launch.read_text())
        assert launch["command"] == ["/bin/sh", "-c", "true"]

    def test_the_store_learns_the_end_from_the_exit_record(
        self, launcher: Launcher, shell: MakeBundle, store: JobStore, job: Job
    ) -> None:
        finish(launcher, shell("exit 5"))
        found = store.wait(job.id, timeout_s=5, poll_s=0.02)
        assert (found.state, found.error and found.error["code"]) == ("error", "job.failed")
        assert json.loads(JobFolder(job.folder).exit.read_text())["code"] == 5

    def test_the_worker_gets_the_variables_of_the_bundle(self, launcher: Launcher, shell: MakeBundle) -> None:
        _, lines = finish(launcher, shell('echo "$MINE $NODE_RANK $NNODES"', env={"MINE": "yes"}))
        assert lines == ["yes 0 1"]
        assert "MINE" not in os.environ

    def test_the_tail_of_the_log_comes_first(self, launcher: Launcher, shell: MakeBundle) -> None:
        ref, _ = finish(launcher, shell("seq 1 100"))
        assert list(launcher.logs(ref, tail=2)) == ["99", "100"]

    def test_canceling_an_ended_job_changes_nothing(self, launcher: Launcher, shell: MakeBundle) -> None:
        ref, _ = finish(launcher, shell("exit 0"))
        launcher.cancel(ref)
        assert launcher.status(ref).state == "done"

    def test_a_missing_folder_is_refused(self, launcher: Launcher, shell: MakeBundle, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"its folder .* is gone"):
            launcher.submit(shell("true", folder=tmp_path / "gone"))

    def test_a_job_that_ended_is_not_started_again(
        self, launcher: Launcher, shell: MakeBundle, store: JobStore, job: Job
    ) -> None:
        finish(launcher, shell("exit 3"))
        store.wait(job.id, timeout_s=5, poll_s=0.02)
        with pytest.raises(LaunchError, match="it is error and cannot be started") as caught:
            launcher.submit(shell("exit 0"))
        assert caught.value.hint == "create a new job"

    def test_devices_are_counted(self, launcher: Launcher) -> None:
        found = launcher.devices()
        assert found["nodes"] == 1
        assert found["cpus"] >= 1
        assert found["gpus_per_node"] >= 0
