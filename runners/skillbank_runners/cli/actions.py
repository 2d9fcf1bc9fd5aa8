"""The launcher form: ``tao model NETWORK ACTION -e SPEC KEY=VALUE ...`` runs a job in the foreground."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skillbank.errors import UsageError
from skillbank_runners.cli.job_view import job_record
from skillbank_runners.cli.options import (
    BackendType,
    BaseExperimentId,
    CalibrationDataset,
    DatasetFormat,
    DryRun,
    EncryptionKey,
    EnvSetting,
    EvalDataset,
    Explain,
    InferenceDataset,
    Output,
    ParentJobId,
    TrainDataset,
)
from skillbank_runners.cli.output import emit, talk
from skillbank_runners.cli.submit import Submission, create, explain
from skillbank_runners.cli.table import Scope

if TYPE_CHECKING:
    from skillbank.jobs.record import Job

__all__ = ["popular_settings", "run_action", "run_in_foreground"]

SpecFile = Annotated[
    str | None,
    typer.Option(
        "--experiment-spec", "--experiment-spec-file", "-e", metavar="SPEC", help="Spec file, YAML or JSON."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings of the spec, such as train.num_epochs=5; they win over the file."
    ),
]


def run_action(
    ctx: typer.Context,
    settings: Settings = None,
    experiment_spec: SpecFile = None,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    calibration: CalibrationDataset = None,
    dataset_format: DatasetFormat = None,
    parent_job_id: ParentJobId = None,
    base_experiment_id: BaseExperimentId = None,
    encryption_key: EncryptionKey = None,
    env: EnvSetting = None,
    backend_type: BackendType = "local",
    dry_run: DryRun = False,
    explained: Explain = False,
    output: Output = None,
) -> None:
    """Run the action in the foreground: the log on stderr, the finished job on stdout, Ctrl-C stops it.

    Results go where the spec's results_dir says; the same command again resumes training from there.

    Example:
    tao model mask2former train -e spec.yaml --train data --eval data results_dir=out
    """
    scope: Scope = ctx.obj
    where = ctx.info_name or "tao"
    if experiment_spec is None:
        raise UsageError(
            f"{where}: -e is missing; name the spec file", hint=f"{where} -e spec.yaml", key="-e"
        )
    asked = Submission(
        network=scope.network,
        action=scope.action,
        specs=experiment_spec,
        settings=_only_settings(settings or [], where),
        train=train or (),
        eval=evaluation,
        inference=inference,
        calibration=calibration,
        dataset_format=dataset_format,
        parent_job_id=parent_job_id,
        base_experiment_id=base_experiment_id,
        encryption_key=encryption_key,
        env=env or (),
        backend=backend_type,
        keep_results_dir=True,
    )
    if dry_run or explained:
        explain(asked, dry_run=dry_run, explained=explained, output=output)
    if not dry_run:
        run_in_foreground(asked, output)


def _only_settings(words: list[str], where: str) -> list[str]:
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise UsageError(
            f"{where}: {wrong[0]!r} is no setting; settings are written KEY=VALUE",
            hint=f"{where} -e spec.yaml train.num_epochs=5",
            key=wrong[0],
        )
    return words


def run_in_foreground(asked: Submission, output: str | None) -> None:
    """Create the job, repeat its log on stderr until it has ended, print it.

    Raises:
        JobError: it did not end well.
        KeyboardInterrupt: it was stopped from the keyboard; the job has been canceled.
    """
    from skillbank.jobs.store import JobStore
    from skillbank_runners.cli.follow import cancel, raise_unless_done, stream_log
    from skillbank_runners.cli.progress import progress_of

    job: Job | None = None
    store = JobStore()
    try:
        with _stopped_by_signals():
            job = create(asked)
            talk(f"{job.id}: results in {job.results_dir}")
            ended = stream_log(store, job)
    except KeyboardInterrupt:
        if job is not None:
            talk(f"stopping {job.id} ...")
            ended = cancel(store, job)
            emit(job_record(ended), output)
        raise
    emit(job_record(ended, **progress_of(ended)), output)
    raise_unless_done(ended)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Being told to end means the same as Ctrl-C: the job in the foreground goes too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def popular_settings(scope: Scope) -> str:
    """The block of an action's help page with the keys that are often edited."""
    from skillbank_runners.cli.specs import key_rows
    from skillbank_runners.cli.words import ACTION

    if scope.action == ACTION:
        return ""
    from skillbank.specs import spec_class

    rows = [
        row for row in key_rows(spec_class(scope.network, scope.action)) if _worth_showing(row, scope.action)
    ]
    wide = max((len(str(row["key"])) for row in rows), default=0)
    lines = [f"Settings often changed (all: skillbank spec keys {scope.network} {scope.action}):"]
    lines += [_setting_line(row, wide, scope.action) for row in rows]
    return "\n".join(lines)


def _worth_showing(row: dict[str, Any], action: str) -> bool:
    return bool(row["popular"]) or action in row["mandatory_for"]


def _setting_line(row: dict[str, Any], wide: int, action: str) -> str:
    import json

    value = "needed" if action in row["mandatory_for"] else json.dumps(row["default"], ensure_ascii=False)
    return f"  {row['key']:<{wide}}  {value:<12}  {row['description']}".rstrip()
