"""What became of a job whose worker may be gone: no record may say "running" for a dead job."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillbank.jobs.files import read_json
from skillbank.jobs.processes import ProcessId, is_alive
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.states import State

__all__ = ["Exit", "Verdict", "judge", "lives", "processes_of", "read_exit"]

# A paused job has no process by right, and a resuming one gets a new one.
_WATCHED = frozenset({State.PENDING, State.RUNNING, State.PAUSING, State.CANCELING, State.UNKNOWN})
_LOCAL = frozenset({"local", "debug"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a worker ended.

    Attributes:
        code: exit code; 128 + the number of the signal for a killed worker.
        ended_at: RFC 3339 in UTC.
    """

    code: int
    ended_at: str = ""

    @property
    def text(self) -> str:
        """The code in words."""
        if self.code <= 128:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(self.code - 128).name
        except ValueError:
            return f"exit code {self.code}"
        return f"exit code {self.code} ({name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The states a dead job has to go through, with message and error of the last one."""

    states: tuple[State, ...]
    message: str
    error: dict[str, Any] | None = None


def read_exit(folder: Path) -> Exit | None:
    """The exit record of a job folder; None when the worker left none."""
    values = read_json(JobFolder(folder).exit)
    if values is None or not isinstance(values.get("code"), int):
        return None
    return Exit(code=values["code"], ended_at=str(values.get("ended_at", "")))


def processes_of(ref: dict[str, Any]) -> list[ProcessId]:
    """Worker and supervisor of a local job's reference, as far as they are named."""
    found = (ProcessId.from_dict(ref.get(name)) for name in ("worker", "supervisor"))
    return [process for process in found if process is not None]


def lives(ref: dict[str, Any], folder: Path) -> bool | None:
    """Whether a process of the job still runs; None when that cannot be told from here."""
    answers = [is_alive(process, JobFolder(folder).lock) for process in processes_of(ref)]
    if any(answers):
        return True
    return None if None in answers else False


def judge(job: Job, creator: Callable[[], ProcessId | None]) -> Verdict | None:
    """What the record of a job has to say now; None when it is right, or cannot be told from this machine.

    Args:
        job: as recorded.
        creator: the process that recorded it; asked only when the job was never handed to a launcher.
    """
    if job.launcher not in _LOCAL or job.state not in _WATCHED:
        return None
    folder = JobFolder(job.folder)
    ref = job.backend_ref if processes_of(job.backend_ref) else read_json(folder.launch) or {}
    if not processes_of(ref):
        return _judge_unlaunched(creator())
    # A job of the debug launcher ends while the process that ran it goes on.
    has_ended = bool(ref.get("is_in_process")) and read_exit(job.folder) is not None
    if not has_ended and lives(ref, job.folder) is not False:
        return None
    found = read_exit(job.folder)
    if found is not None and found.code == 0:
        first = (State.RUNNING,) if job.state is State.PENDING else ()
        return Verdict(states=(*first, State.DONE), message="the worker ended with exit code 0")
    if job.state is State.CANCELING:
        return Verdict(states=(State.CANCELED,), message="canceled")
    return _failed(f"worker process {processes_of(ref)[0].pid}", found, folder)


def _judge_unlaunched(creator: ProcessId | None) -> Verdict | None:
    if creator is None or is_alive(creator) is not False:
        return None
    message = f"the job was recorded but never started: process {creator.pid} that created it is gone"
    error = {"code": "job.interrupted", "message": message, "hint": "run the same command again"}
    return Verdict(states=(State.ERROR,), message=message, error=error)


def _failed(worker: str, found: Exit | None, folder: JobFolder) -> Verdict:
    if found is None:
        code, message = "job.interrupted", f"{worker} disappeared"
    elif found.code > 128:
        code, message = "job.interrupted", f"{worker} was killed: {found.text}"
    else:
        code, message = "job.failed", f"{worker} ended with {found.text}"
    hint = f"see {folder.log}; run the same command again: training in the same results_dir resumes"
    if found is not None and found.code == 128 + signal.SIGKILL:
        hint += "; when nobody killed it, the host ran out of memory: fewer workers or a smaller batch"
    error = {"code": code, "message": message, "hint": hint}
    return Verdict(states=(State.ERROR,), message=message, error=error)
