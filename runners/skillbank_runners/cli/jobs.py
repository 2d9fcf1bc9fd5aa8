"""Commands about jobs that exist; `tao NETWORK` and `skillbank jobs` share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from skillbank.errors import NotFoundError, UsageError
from skillbank_runners.cli.job_view import (
    ARTIFACT_COLUMNS,
    HISTORY_COLUMNS,
    JOB_COLUMNS,
    artifact_record,
    job_record,
    job_summary,
    progress_text,
    transition_record,
)
from skillbank_runners.cli.options import JobId, JobIdFlag, Output
from skillbank_runners.cli.output import emit, talk, write
from skillbank_runners.cli.table import Scope

if TYPE_CHECKING:
    from skillbank.jobs.record import Job
    from skillbank.jobs.store import JobStore

__all__ = [
    "cancel_job",
    "delete_job",
    "job_history",
    "job_logs",
    "job_status",
    "list_artifacts",
    "list_jobs",
    "show_job",
    "wait_job",
    "watch_job",
]

Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", help="Give up waiting; the job goes on.", min=0),
]


def open_store() -> JobStore:
    """The store of this user."""
    from skillbank.jobs.store import JobStore

    return JobStore()


def find_job(ctx: typer.Context, job: str | None, flag: str | None) -> tuple[JobStore, Job]:
    """The job a command is about, by argument or flag.

    Raises:
        UsageError: no id, or two.
        NotFoundError: no such job, or one of another network than the command line names.
    """
    given = {value for value in (job, flag) if value}
    if len(given) != 1:
        what = "the id of a job is missing" if not given else "two different jobs are named"
        raise UsageError(
            f"{ctx.info_name}: {what}; is a variable empty?" if not given else f"{ctx.info_name}: {what}",
            hint="list them with: skillbank jobs list",
            key="--job-id",
        )
    store = open_store()
    found = store.get(given.pop())
    scope: Scope = ctx.obj
    if scope.network and found.network != scope.network:
        raise NotFoundError(
            f"job {found.id} is one of {found.network}, not of {scope.network}",
            hint=f"skillbank jobs show {found.id}",
            key="job",
            value=found.id,
        )
    return store, found


def list_jobs(
    ctx: typer.Context,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NETWORK", help="Of this network only.")
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="ACTION", help="Of this action only.")
    ] = None,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="In this state only.")] = None,
    parent_job_id: Annotated[
        str | None, typer.Option("--parent-job-id", metavar="JOB", help="Whose parent this is.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most so many; 0 = all.", min=0)] = 50,
    output: Output = None,
) -> None:
    """List jobs, newest first.

    Example:
    skillbank jobs list --state running
    """
    scope: Scope = ctx.obj
    found = open_store().list(
        network=scope.network or network,
        action=action,
        state=_state(state),
        parent_id=parent_job_id,
        limit=limit or None,
    )
    if not found:
        _refuse_unknown(scope.network or network, action, parent_job_id)
    emit([job_record(job) for job in found], output, columns=JOB_COLUMNS)


def _refuse_unknown(network: str | None, action: str | None, parent_job_id: str | None) -> None:
    """Tell a misspelled filter from one that simply fits no job.

    Raises:
        NotFoundError: no such network, action or parent.
    """
    from skillbank.specs import network as find_network
    from skillbank.specs import network_names

    networks = [find_network(name) for name in ([network] if network else network_names())]
    actions = sorted({name for found in networks for name in found.actions})
    if action and action not in actions:
        raise NotFoundError(
            f"--action: there is no action {action!r}; use {', '.join(actions)}",
            hint="skillbank jobs list",
            key="--action",
            value=action,
            allowed=actions,
        )
    if parent_job_id:
        open_store().get(parent_job_id)


def _state(given: str | None) -> str | None:
    """A state as it is written in records.

    Raises:
        UsageError: no such state.
    """
    from skillbank.jobs.states import State

    known = [state.value for state in State]
    if given is None or given.lower() in known:
        return given.lower() if given else None
    raise UsageError(
        f"--state: {given!r} is no state; use {', '.join(known)}",
        hint="--state running",
        key="--state",
        value=given,
        allowed=known,
    )


def show_job(ctx: typer.Context, job: JobId = None, job_id: JobIdFlag = None, output: Output = None) -> None:
    """Show a job: record, request, history, artifacts, and what it reported last.

    Example:
    skillbank jobs show mask2former-train-0a1b2c
    """
    from skillbank_runners.cli.progress import progress_of

    store, found = find_job(ctx, job, job_id)
    progress, history, artifacts = progress_of(found), store.history(found.id), store.artifacts(found.id)
    emit(
        job_record(
            found,
            backend_ref=found.backend_ref,
            policy=found.request.policy,
            checkpoint=found.request.checkpoint,
            overrides=found.request.overrides,
            progress=progress,
            history=[transition_record(entry) for entry in history],
            artifacts=[artifact_record(item) for item in artifacts],
        ),
        output,
        people=job_summary(found, progress, states=len(history), artifacts=len(artifacts)),
    )


def job_status(
    ctx: typer.Context, job: JobId = None, job_id: JobIdFlag = None, output: Output = None
) -> None:
    """Show the state of a job and the last numbers it reported.

    Example:
    tao mask2former get-job-status mask2former-train-0a1b2c
    """
    from skillbank_runners.cli.progress import progress_of

    _, found = find_job(ctx, job, job_id)
    progress = progress_of(found)
    status = {
        "id": found.id,
        "state": found.state.value,
        "message": found.message,
        "error": found.error,
        "updated_at": found.updated_at,
    }
    people = {**status, "progress": progress_text(progress), "metrics": progress["metrics"]}
    emit({**status, **progress}, output, people=people)


def job_logs(
    ctx: typer.Context,
    job: JobId = None,
    job_id: JobIdFlag = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", metavar="N", help="The last lines only.", min=1)
    ] = None,
) -> None:
    """Print what a job wrote.

    Example:
    skillbank jobs logs mask2former-train-0a1b2c --follow
    """
    from skillbank.jobs.files import require_folder
    from skillbank_runners.cli.follow import log_lines

    store, found = find_job(ctx, job, job_id)
    seen = 0
    for line in log_lines(store, found, follow=follow, tail=tail):
        write(line)
        seen += 1
    if not seen:
        require_folder(found.folder, found.id)
        talk(f"{found.id} is {found.state.value} and has written nothing yet")


def watch_job(
    ctx: typer.Context,
    job: JobId = None,
    job_id: JobIdFlag = None,
    timeout: Timeout = None,
    output: Output = None,
) -> None:
    """Show progress until the job has ended; leaving with Ctrl-C does not stop the job.

    Example:
    skillbank jobs watch mask2former-train-0a1b2c
    """
    _wait(ctx, job, job_id, timeout, output, quiet=False)


def wait_job(
    ctx: typer.Context,
    job: JobId = None,
    job_id: JobIdFlag = None,
    timeout: Timeout = None,
    output: Output = None,
) -> None:
    """Wait until the job has ended; exit code 0 when it is done, 6 when it failed or was canceled.

    Example:
    skillbank jobs wait mask2former-train-0a1b2c --timeout 3600
    """
    _wait(ctx, job, job_id, timeout, output, quiet=True)


def _wait(
    ctx: typer.Context,
    job: str | None,
    flag: str | None,
    timeout: float | None,
    output: str | None,
    *,
    quiet: bool,
) -> None:
    from skillbank_runners.cli.follow import raise_unless_done, wait_for

    store, found = find_job(ctx, job, flag)
    ended = wait_for(store, found, timeout_s=timeout, quiet=quiet)
    emit(job_record(ended), output)
    raise_unless_done(ended)


def cancel_job(
    ctx: typer.Context,
    job: JobId = None,
    job_id: JobIdFlag = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", help="Time to save a checkpoint in.", min=0)
    ] = 10.0,
    output: Output = None,
) -> None:
    """Stop a job: the worker saves a checkpoint and ends. A job that has ended stays as it is.

    Example:
    skillbank jobs cancel mask2former-train-0a1b2c
    """
    from skillbank_runners.cli.follow import cancel

    store, found = find_job(ctx, job, job_id)
    if found.state.is_final:
        talk(f"{found.id} has already ended: {found.state.value}")
    else:
        found = cancel(store, found, grace_s=grace)
    emit(job_record(found), output)


def delete_job(
    ctx: typer.Context, job: JobId = None, job_id: JobIdFlag = None, output: Output = None
) -> None:
    """Delete a job that has ended, with its folder.

    Example:
    skillbank jobs delete mask2former-train-0a1b2c
    """
    store, found = find_job(ctx, job, job_id)
    store.delete(found.id)
    emit({"id": found.id, "deleted": True}, output)


def list_artifacts(
    ctx: typer.Context,
    job: JobId = None,
    job_id: JobIdFlag = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="checkpoint, onnx, engine, metrics, ... only."),
    ] = None,
    output: Output = None,
) -> None:
    """List the files a job left for others: checkpoints with epoch and metrics, exports, reports.

    Example:
    skillbank jobs artifacts mask2former-train-0a1b2c --kind checkpoint
    """
    store, found = find_job(ctx, job, job_id)
    rows: list[Any] = [artifact_record(item) for item in store.artifacts(found.id, kind)]
    emit(rows, output, columns=ARTIFACT_COLUMNS, name="path")


def job_history(
    ctx: typer.Context, job: JobId = None, job_id: JobIdFlag = None, output: Output = None
) -> None:
    """List the states a job went through.

    Example:
    skillbank jobs history mask2former-train-0a1b2c
    """
    store, found = find_job(ctx, job, job_id)
    emit(
        [transition_record(entry) for entry in store.history(found.id)],
        output,
        columns=HISTORY_COLUMNS,
        name="state",
    )
