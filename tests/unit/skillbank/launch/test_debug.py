import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.errors import LaunchError, StorageError
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.store import JobStore
from skillbank.launch import Bundle
from skillbank.launch.debug import DebugLauncher


def bundle(job: Job) -> Bundle:
    return Bundle(job_id=job.id, folder=job.folder, argv=("worker",), env={"MINE": "yes"})


def boom(folder: Path) -> int:
    raise ValueError("three is too many")


def interrupt(folder: Path) -> int:
    raise KeyboardInterrupt


def leave(folder: Path) -> int:
    raise SystemExit(4)


def complain(folder: Path) -> int:
    raise SystemExit("no data")


@pytest.mark.parametrize(("run", "code"), [(boom, 1), (interrupt, 130), (leave, 4), (complain, 1)])
def test_whatever_the_function_does_becomes_an_exit_code(
    job: Job, run: Callable[[Path], int], code: int
) -> None:
    launcher = DebugLauncher(run)
    assert launcher.status(launcher.submit(bundle(job))).exit_code == code


def test_a_traceback_is_in_the_log(job: Job) -> None:
    launcher = DebugLauncher(boom)
    text = "\n".join(launcher.logs(launcher.submit(bundle(job))))
    assert "ValueError: three is too many" in text
    assert "in boom" in text


def test_the_variables_are_back_to_what_they_were(job: Job) -> None:
    before = dict(os.environ)
    seen: list[str] = []

    def run(folder: Path) -> int:
        seen.append(os.environ["MINE"] + os.environ["SKILLBANK_JOB_ID"])
        os.environ["OF_THE_JOB"] = "x"
        return 0

    DebugLauncher(run).submit(bundle(job))
    assert seen == ["yes" + job.id]
    assert dict(os.environ) == before


def test_from_inside_the_job_it_is_running_and_cannot_be_canceled(job: Job, store: JobStore) -> None:
    def run(folder: Path) -> int:
        ref = store.get(job.id).backend_ref
        assert launcher.status(ref).state == "running"
        with pytest.raises(LaunchError, match="cannot be canceled from inside"):
            launcher.cancel(ref)
        return 0

    launcher = DebugLauncher(run, store)
    ref = launcher.submit(bundle(job))
    assert launcher.status(ref).state == "done", JobFolder(job.folder).log.read_text()


def test_a_log_that_cannot_be_written_is_one_clear_error(job: Job, store: JobStore) -> None:
    JobFolder(job.folder).log.mkdir()
    with pytest.raises(StorageError, match="the log cannot be written"):
        DebugLauncher(lambda _: 0, store).submit(Bundle(job_id=job.id, folder=job.folder, argv=("x",)))
