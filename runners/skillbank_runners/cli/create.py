"""Commands that start jobs: `create-job`, `skillbank run` with AutoML routing, and the routing alone."""

from __future__ import annotations

from typing import Annotated

import typer

from skillbank_runners.cli.options import (
    Action,
    AutomlPolicy,
    AutomlSettings,
    BackendType,
    BaseExperimentId,
    CalibrationDataset,
    CheckData,
    CheckpointChoice,
    DatasetFormat,
    Description,
    DryRun,
    EncryptionKey,
    EnvSetting,
    EvalDataset,
    Explain,
    IdempotencyKey,
    InferenceDataset,
    JobName,
    Kind,
    NetworkWord,
    Output,
    Overrides,
    ParentJobId,
    PlatformId,
    Specs,
    Tag,
    TrainDataset,
    Wait,
    WorkspaceId,
)
from skillbank_runners.cli.output import emit
from skillbank_runners.cli.specs import ActionWord
from skillbank_runners.cli.submit import Submission, submit
from skillbank_runners.cli.table import Scope

__all__ = ["create_job", "policy", "run"]

Request = Annotated[
    str | None,
    typer.Option(
        "--request", metavar="TEXT", help='The request in the user\'s words; "no HPO" turns AutoML off.'
    ),
]


def create_job(
    ctx: typer.Context,
    action: Action,
    overrides: Overrides = None,
    kind: Kind = "experiment",
    name: JobName = None,
    workspace_id: WorkspaceId = None,
    specs: Specs = None,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    calibration: CalibrationDataset = None,
    dataset_format: DatasetFormat = None,
    parent_job_id: ParentJobId = None,
    checkpoint: CheckpointChoice = "best",
    base_experiment_id: BaseExperimentId = None,
    encryption_key: EncryptionKey = None,
    description: Description = "",
    tag: Tag = None,
    backend_type: BackendType = "local",
    platform_id: PlatformId = None,
    env: EnvSetting = None,
    automl_policy: AutomlPolicy = None,
    automl_settings: AutomlSettings = None,
    idempotency_key: IdempotencyKey = None,
    check_data: CheckData = False,
    dry_run: DryRun = False,
    explain: Explain = False,
    wait: Wait = False,
    output: Output = None,
) -> None:
    """Check a spec, record a job and start it; prints the job with its id.

    A job with a parent waits for it and takes its checkpoint. Training is plain training here; AutoML
    only with --automl-policy auto or on.

    Example:
    tao mask2former create-job --action train --specs @spec.yaml --train data/train --eval data/val
    """
    scope: Scope = ctx.obj
    asked = Submission(
        network=scope.network,
        action=action,
        specs=specs,
        settings=overrides or (),
        kind=kind,
        name=name,
        description=description,
        tags=tag or (),
        workspace_id=workspace_id,
        train=train or (),
        eval=evaluation,
        inference=inference,
        calibration=calibration,
        dataset_format=dataset_format,
        parent_job_id=parent_job_id,
        base_experiment_id=base_experiment_id,
        checkpoint=checkpoint,
        encryption_key=encryption_key,
        env=env or (),
        backend=backend_type,
        platform_id=platform_id,
        automl_policy=automl_policy or "off",
        automl_settings=automl_settings,
        idempotency_key=idempotency_key,
        check_data=check_data,
    )
    submit(asked, dry_run=dry_run, explained=explain, wait=wait, output=output)


def run(
    network: NetworkWord,
    action: ActionWord,
    overrides: Overrides = None,
    specs: Specs = None,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    calibration: CalibrationDataset = None,
    dataset_format: DatasetFormat = None,
    parent_job_id: ParentJobId = None,
    checkpoint: CheckpointChoice = "best",
    base_experiment_id: BaseExperimentId = None,
    request: Request = None,
    automl_policy: AutomlPolicy = None,
    automl_settings: AutomlSettings = None,
    name: JobName = None,
    env: EnvSetting = None,
    backend_type: BackendType = "local",
    idempotency_key: IdempotencyKey = None,
    check_data: CheckData = False,
    dry_run: DryRun = False,
    explain: Explain = False,
    wait: Wait = False,
    output: Output = None,
) -> None:
    """Start a job the way the skills do: a train request goes to AutoML or to plain training by its policy.

    Example:
    skillbank run mask2former train --specs @spec.yaml --request "train it, no HPO please"
    """
    asked = Submission(
        network=network,
        action=action,
        specs=specs,
        settings=overrides or (),
        name=name,
        train=train or (),
        eval=evaluation,
        inference=inference,
        calibration=calibration,
        dataset_format=dataset_format,
        parent_job_id=parent_job_id,
        base_experiment_id=base_experiment_id,
        checkpoint=checkpoint,
        env=env or (),
        backend=backend_type,
        automl_policy=automl_policy,
        automl_settings=automl_settings,
        request_text=request,
        idempotency_key=idempotency_key,
        check_data=check_data,
    )
    submit(asked, dry_run=dry_run, explained=explain, wait=wait, output=output)


def policy(
    network: NetworkWord,
    action: ActionWord = "train",
    request: Request = None,
    automl_policy: AutomlPolicy = None,
    output: Output = None,
) -> None:
    """Tell whether a request goes to AutoML or to plain training, and why; starts nothing.

    Example:
    skillbank policy mask2former train --request "please turn off AutoML"
    """
    from skillbank.automl.policy import decide
    from skillbank.specs import spec_class

    spec_class(network, action)
    emit(decide(network, action, policy=automl_policy, text=request).to_dict(), output, name="route")
