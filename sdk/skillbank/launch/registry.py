"""Launchers by name, and the one way to cancel a job whatever started it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidTransitionError, LaunchError, RuntimeMissingError, UsageError
from skillbank.jobs.files import read_json
from skillbank.jobs.reconcile import processes_of
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore
from skillbank.launch.base import Launcher

__all__ = ["NAMES", "cancel_job", "get_launcher"]

log = logging.getLogger(__name__)

NAMES = ("local", "debug")
# behind the same interface one day; asking for one is no mistake of the user
_LATER = ("slurm", "kubernetes", "docker")


def get_launcher(name: str, store: JobStore, *, run: Callable[[Path], int] | None = None) -> Launcher:
    """The launcher of this name.

    Args:
        name: one of `NAMES`.
        store: where the jobs are recorded.
        run: what the debug launcher calls with the job folder.

    Raises:
        RuntimeMissingError: a launcher that this version does not have yet.
        UsageError: unknown name, or no `run` for the debug launcher.
    """
    if name == "local":
        from skillbank.launch.local import LocalLauncher

        return LocalLauncher(store)
    if name == "debug":
        from skillbank.launch.debug import DebugLauncher

        if run is None:
            raise UsageError(
                "launcher debug: it runs jobs inside the calling process and needs a function to call",
                hint="get_launcher('debug', store, run=function), or use the launcher local",
            )
        return DebugLauncher(run, store)
    if name in _LATER:
        raise RuntimeMissingError(
            f"launcher: {name} is not part of this version; use {' or '.join(NAMES)}",
            hint=f"--backend-type {NAMES[0]}",
            key="launcher",
            value=name,
            allowed=NAMES,
        )
    raise UsageError(
        f"launcher: {name!r} is not available; use {' or '.join(NAMES)}",
        hint=f"--backend-type {NAMES[0]}",
        key="launcher",
        value=name,
        allowed=NAMES,
    )


def _reaching(store: JobStore, job: Job, ref: dict[str, Any]) -> Launcher:
    """The launcher that can stop a job from here; asked before anything is noted in the record.

    Raises:
        LaunchError: the job cannot be stopped from here.
    """
    if job.launcher == "debug":
        raise LaunchError(
            f"job {job.id}: it runs inside another program, process {processes_of(ref)[0].pid}",
            hint="interrupt it there: Ctrl-C",
        )
    launcher = get_launcher(job.launcher, store)
    report = launcher.status(ref)
    if report.state is State.UNKNOWN:
        raise LaunchError(f"job {job.id}: {report.message}", hint="run the command there")
    return launcher


def cancel_job(
    store: JobStore, job_id: str, *, grace_s: float = 10.0, launcher: Launcher | None = None
) -> Job:
    """Stop a job, wherever it is on its way; one that is final is given back as it is.

    Args:
        store: where the job is recorded.
        job_id: the job.
        grace_s: how long the worker may take to save its work.
        launcher: what started the job; default by the name in its record.

    Raises:
        NotFoundError: no such job.
        LaunchError: the launcher cannot stop it, because it runs on another machine for example.
    """
    job = store.get(job_id)
    if job.state.is_final:
        return job
    ref = job.backend_ref or read_json(JobFolder(job.folder).launch) or {}
    has_started = bool(processes_of(ref))
    if has_started and launcher is None:
        launcher = _reaching(store, job, ref)
    try:
        store.transition(job_id, State.CANCELING, "cancel asked for")
        if has_started and launcher is not None:
            launcher.cancel(ref, grace_s=grace_s)
            # Settles the record, unless even SIGKILL has not ended the worker yet.
            return store.get(job_id)
        store.transition(job_id, State.CANCELED, "canceled before it was started")
    except InvalidTransitionError:
        log.debug("job %s ended by itself meanwhile", job_id)
    return store.get(job_id)
