"""Waiting for jobs: logs, progress, the end, and stopping them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skillbank.errors import (
    BackendError,
    InterruptedJobError,
    JobError,
    JobFailedError,
    OutOfMemoryError,
)
from skillbank.jobs.states import State
from skillbank_runners.cli.output import talk
from skillbank_runners.cli.progress import Progress

if TYPE_CHECKING:
    from skillbank.jobs.record import Job
    from skillbank.jobs.store import JobStore

__all__ = ["cancel", "log_lines", "raise_unless_done", "stream_log", "wait_for"]

_POLL_S = 0.5


def log_lines(store: JobStore, job: Job, *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
    """Lines of a job's log, without line ends; `follow` ends with the job."""
    from skillbank.launch import get_launcher

    ref = job.backend_ref or store.get(job.id).backend_ref
    if ref:
        yield from get_launcher(job.launcher, store).logs(ref, follow=follow, tail=tail)


def stream_log(store: JobStore, job: Job) -> Job:
    """Repeat a job's log on stderr until it has ended; returns the job as it is then."""
    for line in log_lines(store, job, follow=True):
        talk(line)
    return store.wait(job.id)


def wait_for(store: JobStore, job: Job, *, timeout_s: float | None = None, quiet: bool = False) -> Job:
    """Wait for the end of a job, with progress on stderr.

    Raises:
        BackendError: it has not ended in time.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    with Progress(shown=not quiet) as progress:
        while True:
            job = store.get(job.id)
            progress.show(job)
            if job.state.is_final:
                return job
            left = _POLL_S if end is None else min(_POLL_S, end - time.monotonic())
            if left <= 0:
                raise BackendError(
                    f"{job.id} is still {job.state.value} after {timeout_s:g} s; it goes on",
                    hint=f"skillbank jobs watch {job.id}",
                )
            time.sleep(left)


def cancel(store: JobStore, job: Job, *, grace_s: float = 10.0) -> Job:
    """Stop a job through its launcher; returns when it has ended."""
    from skillbank.launch import cancel_job

    return cancel_job(store, job.id, grace_s=grace_s)


def raise_unless_done(job: Job) -> None:
    """Turn the end of a job into the end of the command.

    Raises:
        JobError: the job failed or was stopped; exit code 6.
    """
    if job.state is State.DONE:
        return
    error = job.error or {}
    message = error.get("message") or job.message or "no reason was recorded"
    hint = error.get("hint") or f"skillbank jobs logs {job.id}"
    kinds: dict[str, type[JobError]] = {OutOfMemoryError.code: OutOfMemoryError}
    kind = kinds.get(str(error.get("code")), JobFailedError)
    if job.state is State.CANCELED:
        kind = InterruptedJobError
    raise kind(f"{job.id} ended as {job.state.value}: {message}", hint=hint, key="job", value=job.id)
