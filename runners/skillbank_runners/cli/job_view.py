"""What commands show of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillbank.jobs.record import Artifact, Job, Transition

__all__ = [
    "ARTIFACT_COLUMNS",
    "HISTORY_COLUMNS",
    "JOB_COLUMNS",
    "artifact_record",
    "job_record",
    "job_summary",
    "progress_text",
    "transition_record",
]

JOB_COLUMNS = ("id", "state", "created_at", "name", "message")
ARTIFACT_COLUMNS = ("kind", "path", "epoch", "step", "metrics", "bytes")
HISTORY_COLUMNS = ("ts", "state", "source", "message")


def job_record(job: Job, **more: Any) -> dict[str, Any]:
    """A job as a record; `more` is put behind the fields of the job."""
    return {
        "id": job.id,
        "network": job.network,
        "action": job.action,
        "name": job.name,
        "state": job.state.value,
        "message": job.message,
        "error": job.error,
        "kind": job.kind,
        "parent_job_id": job.parent_id,
        "base_experiment_id": job.base_experiment_id,
        "workspace_id": job.workspace_id,
        "experiment_id": job.experiment_id,
        "description": job.description,
        "tags": list(job.tags),
        "results_dir": job.results_dir,
        "folder": str(job.folder),
        "launcher": job.launcher,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "is_duplicate": job.is_duplicate,
        **more,
    }


def job_summary(job: Job, progress: Mapping[str, Any], *, states: int, artifacts: int) -> dict[str, Any]:
    """A job for people: what it is, how far it is, and the commands that show the rest."""
    record = job_record(job)
    first = ("id", "network", "action", "name", "state", "message", "error")
    where = ("parent_job_id", "base_experiment_id", "results_dir", "folder", "created_at", "updated_at")
    return {
        **{name: record[name] for name in first if name != "message" or not record["error"]},
        "progress": progress_text(progress),
        "metrics": progress["metrics"],
        "overrides": dict(job.request.overrides),
        **{name: record[name] for name in where},
        "description": record["description"],
        "tags": record["tags"],
        "history": f"{states} states: skillbank jobs history {job.id}",
        "artifacts": f"{artifacts} files: skillbank jobs artifacts {job.id}" if artifacts else "",
        "log": f"skillbank jobs logs {job.id}",
    }


def progress_text(progress: Mapping[str, Any]) -> str:
    """``epoch 5 of 5``, counted from 1; empty before the first."""
    if progress["epoch"] is None:
        return ""
    of = f" of {progress['max_epoch'] + 1}" if progress["max_epoch"] is not None else ""
    return f"epoch {progress['epoch'] + 1}{of}"


def artifact_record(artifact: Artifact) -> dict[str, Any]:
    """An artifact as a record."""
    return {
        "job_id": artifact.job_id,
        "kind": artifact.kind,
        "path": artifact.path,
        "epoch": artifact.epoch,
        "step": artifact.step,
        "metrics": artifact.metrics,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "created_at": artifact.created_at,
    }


def transition_record(transition: Transition) -> dict[str, Any]:
    """An entry of a job's history as a record."""
    return {
        "ts": transition.ts,
        "state": transition.state.value,
        "source": transition.source,
        "message": transition.message,
    }
