"""What happens before any launcher starts a job: is it allowed, and what does its worker find around it."""

from __future__ import annotations

import logging

from skillbank.errors import LaunchError
from skillbank.jobs.files import require_folder
from skillbank.jobs.processes import is_locked
from skillbank.jobs.record import JobFolder
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore
from skillbank.launch.base import Bundle
from skillbank.launch.environment import worker_environment
from skillbank.launch.mounts import read_mounts

__all__ = ["prepare"]

log = logging.getLogger(__name__)


def prepare(bundle: Bundle, store: JobStore | None) -> dict[str, str]:
    """Variables of the worker; records of an earlier run in the folder are removed.

    Raises:
        NotFoundError: the job folder is gone.
        LaunchError: a process of the job lives, its state is final, or it wants several nodes.
        InvalidValueError: the settings file is broken.
    """
    folder = JobFolder(bundle.folder)
    require_folder(folder.root, bundle.job_id)
    if is_locked(folder.lock):
        raise LaunchError(f"job {bundle.job_id}: it runs already", hint="watch it, or cancel it first")
    if store is not None:
        state = store.get(bundle.job_id).state
        if state.is_final or state is State.CANCELING:
            raise LaunchError(
                f"job {bundle.job_id}: it is {state} and cannot be started", hint="create a new job"
            )
    settings = read_mounts()
    for warning in settings.warnings:
        log.warning("%s", warning)
    env = worker_environment(bundle, extra=settings.envs)
    for old in (folder.exit, folder.launch):
        old.unlink(missing_ok=True)
    return env
