"""Runs the search of a job: its trials are jobs too, and its best one is what later jobs start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.automl.search import BEST_FILE, Search
from skillbank.automl.settings import read_settings
from skillbank.create import create_job
from skillbank.jobs.record import Job, JobFolder
from skillbank.launch import cancel_job
from skillbank.resolve.checkpoints import BEST_TRIAL

if TYPE_CHECKING:
    from skillbank.jobs.status import StatusWriter
    from skillbank.jobs.store import JobStore

__all__ = ["run_search"]


def run_search(
    store: JobStore,
    job: Job,
    nested: Mapping[str, Any],
    results: Path,
    *,
    status: StatusWriter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Search:
    """Run the search of a job to its end and register its best trial.

    Args:
        store: holds the job and its trials.
        job: a train job whose policy has the route ``automl``.
        nested: its complete spec, which the first trial runs.
        results: local folder for the record of the search.
        status: gets an event with the best value after every trial.
        stop: True cancels the trials under way and ends the search.

    Raises:
        SpecError: wrong settings, or a space that cannot be searched.
        JobFailedError: no trial ended with a value.
        RuntimeMissingError: Optuna is not installed.
    """
    settings = read_settings(job.request.policy.get("settings", {}))

    def launch(values: Mapping[str, Any], number: int) -> Job:
        kept = {key: value for key, value in job.request.overrides.items() if key != "results_dir"}
        secret = JobFolder(job.folder).secret
        return create_job(
            job.network,
            job.action,
            specs=job.request.specs or None,
            overrides={**kept, **values},
            datasets=job.request.datasets,
            parent_job_id=job.parent_id,
            base_experiment_id=job.base_experiment_id,
            checkpoint=job.request.checkpoint,
            automl_policy="off",
            name=f"{job.name} trial {number}",
            tags=(*job.tags, f"trial-of:{job.id}"),
            workspace_id=job.workspace_id,
            experiment_id=job.experiment_id,
            encryption_key=f"@{secret}" if secret.is_file() else None,
            launcher=job.launcher,
            env=job.request.env,
            trial_of=job.id,
            store=store,
        )

    def cancel(trial: Job) -> None:
        cancel_job(store, trial.id)

    search = Search(store, job, nested, settings, launch=launch, cancel=cancel, results=results)

    def tell(search: Search) -> None:
        done = [trial for trial in search.trials if trial.state != "running"]
        if status is not None and search.best is not None and search.best.value is not None:
            status.metrics(
                {search.metric.name: search.best.value},
                message=f"{len(done)} of {settings.trials} trials, best is trial {search.best.number}",
            )

    try:
        best = search.run(on_change=tell, stop=stop)
    finally:
        if search.best is not None:
            store.register_artifact(
                job.id, results / BEST_FILE, kind=BEST_TRIAL,
                metrics={search.metric.name: search.best.value} if search.best.value is not None else None,
            )  # fmt: skip
    if status is not None:
        status.running(
            f"best is trial {best.number}, job {best.job_id}", kpi={search.metric.name: best.value}
        )
    return search
