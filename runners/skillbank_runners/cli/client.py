"""Commands of ``tao-client``: bare specs and bare job ids, the flags of the older service."""

from __future__ import annotations

from typing import Annotated

import typer

from skillbank.errors import UsageError
from skillbank_runners.cli import jobs
from skillbank_runners.cli.experiments import schema_of
from skillbank_runners.cli.job_view import JOB_COLUMNS, job_record
from skillbank_runners.cli.options import (
    Action,
    BaseExperimentId,
    CalibrationDataset,
    DatasetFormat,
    DryRun,
    EncryptionKey,
    EvalDataset,
    InferenceDataset,
    JobId,
    JobName,
    Output,
    ParentJobId,
    TrainDataset,
)
from skillbank_runners.cli.output import emit, to_json, write
from skillbank_runners.cli.submit import Submission, create, explain
from skillbank_runners.cli.table import Scope

__all__ = [
    "dataset_run_action",
    "experiment_run_action",
    "get_spec",
    "job_cancel",
    "job_logs",
    "job_status",
    "list_jobs",
]

JobType = Annotated[str, typer.Option("--job-type", metavar="TYPE", help="experiment or dataset.")]
Experiment = Annotated[
    str, typer.Option("--id", metavar="ID", help="Experiment; any name, remembered on first use.")
]
MaybeExperiment = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="Experiment the job belongs to.")
]
Job = Annotated[str | None, typer.Option("--job", "--job-id", metavar="JOB", help="The same, as a flag.")]
SpecText = Annotated[
    str | None, typer.Option("--specs", metavar="JSON", help="The spec as JSON text, @FILE or a path.")
]


def get_spec(
    ctx: typer.Context,
    action: Action,
    job_type: JobType = "experiment",
    experiment: MaybeExperiment = None,
    base_experiment_id: BaseExperimentId = None,
    output: Output = None,
) -> None:
    """Print the default spec of an action as indented JSON.

    Example:
    tao-client oneformer get-spec --action train --job_type experiment --id main
    """
    _check_type(job_type)
    scope: Scope = ctx.obj
    found = schema_of(scope.network, action, base_experiment_id)["default"]
    if output in (None, "json"):
        write(to_json(found))
    else:
        emit(found, output)


def _check_type(job_type: str) -> None:
    if job_type not in ("experiment", "dataset"):
        raise UsageError(
            f"--job_type: {job_type!r} is not allowed; use experiment or dataset",
            hint="--job_type experiment",
            key="--job_type",
            value=job_type,
            allowed=("experiment", "dataset"),
        )


def experiment_run_action(
    ctx: typer.Context,
    action: Action,
    experiment: Experiment,
    specs: SpecText = None,
    parent_job_id: ParentJobId = None,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    calibration: CalibrationDataset = None,
    dataset_format: DatasetFormat = None,
    base_experiment_id: BaseExperimentId = None,
    encryption_key: EncryptionKey = None,
    name: JobName = None,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Check a spec, start a job and print its id and nothing else.

    Blocks of other actions in the spec are ignored, so a train spec serves all actions.

    Example:
    tao-client oneformer experiment-run-action --action train --id main --specs "$SPECS"
    """
    scope: Scope = ctx.obj
    _launch(
        Submission(
            network=scope.network,
            action=action,
            specs=specs,
            kind="experiment",
            name=name,
            experiment_id=experiment,
            parent_job_id=parent_job_id,
            train=train or (),
            eval=evaluation,
            inference=inference,
            calibration=calibration,
            dataset_format=dataset_format,
            base_experiment_id=base_experiment_id,
            encryption_key=encryption_key,
        ),
        dry_run=dry_run,
        output=output,
    )


def _launch(asked: Submission, *, dry_run: bool, output: str | None) -> None:
    """Print the id of the new job, or with `dry_run` its plan."""
    if dry_run:
        explain(asked, dry_run=True, explained=False, output=output)
        return
    job = create(asked)
    if output in (None, "id"):
        write(job.id)
    else:
        emit(job_record(job), output)


def dataset_run_action(
    ctx: typer.Context,
    action: Action,
    experiment: Experiment,
    specs: SpecText = None,
    train: TrainDataset = None,
    dataset_format: DatasetFormat = None,
    parent_job_id: ParentJobId = None,
    base_experiment_id: BaseExperimentId = None,
    name: JobName = None,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Start a job on a dataset, such as dataset_convert, and print its id and nothing else.

    Example:
    tao-client sparse4d dataset-run-action --action dataset_convert --id scenes --specs "$SPECS"
    """
    scope: Scope = ctx.obj
    _launch(
        Submission(
            network=scope.network,
            action=action,
            specs=specs,
            kind="dataset",
            name=name,
            experiment_id=experiment,
            parent_job_id=parent_job_id,
            train=train or (),
            dataset_format=dataset_format,
            base_experiment_id=base_experiment_id,
        ),
        dry_run=dry_run,
        output=output,
    )


def job_status(
    ctx: typer.Context,
    job: JobId = None,
    job_flag: Job = None,
    experiment: MaybeExperiment = None,
    output: Output = None,
) -> None:
    """Show the state of a job and the last numbers it reported.

    Example:
    tao-client oneformer experiment-job-status --id main --job oneformer-train-0a1b2c
    """
    jobs.job_status(ctx, job, job_flag, output)


def job_logs(
    ctx: typer.Context,
    job: JobId = None,
    job_flag: Job = None,
    experiment: MaybeExperiment = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    """Print what a job wrote.

    Example:
    tao-client oneformer experiment-job-logs --id main --job oneformer-train-0a1b2c
    """
    jobs.job_logs(ctx, job, job_flag, follow=follow, tail=None)


def job_cancel(
    ctx: typer.Context,
    job: JobId = None,
    job_flag: Job = None,
    experiment: MaybeExperiment = None,
    output: Output = None,
) -> None:
    """Stop a job.

    Example:
    tao-client oneformer experiment-job-cancel --id main --job oneformer-train-0a1b2c
    """
    jobs.cancel_job(ctx, job, job_flag, output=output)


def list_jobs(ctx: typer.Context, experiment: MaybeExperiment = None, output: Output = None) -> None:
    """List the jobs of the network, or of one experiment.

    Example:
    tao-client oneformer list --id main
    """
    scope: Scope = ctx.obj
    found = [
        job_record(job)
        for job in jobs.open_store().list(network=scope.network)
        if experiment is None or job.experiment_id == experiment
    ]
    emit(found, output, columns=JOB_COLUMNS)
