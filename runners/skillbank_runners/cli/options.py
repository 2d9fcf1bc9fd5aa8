"""Options that several commands share; each is described once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Action",
    "AutomlPolicy",
    "AutomlSettings",
    "BackendType",
    "BaseExperimentId",
    "CalibrationDataset",
    "CheckData",
    "CheckpointChoice",
    "DatasetFormat",
    "Description",
    "DryRun",
    "EncryptionKey",
    "EnvSetting",
    "EvalDataset",
    "Explain",
    "IdempotencyKey",
    "InferenceDataset",
    "JobId",
    "JobIdFlag",
    "JobName",
    "Kind",
    "NetworkWord",
    "Output",
    "Overrides",
    "ParentJobId",
    "PlatformId",
    "Specs",
    "Tag",
    "TrainDataset",
    "Wait",
    "WorkspaceId",
]

Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        help="json, yaml, table or id. Without it: a table on a terminal, JSON elsewhere.",
    ),
]
Action = Annotated[
    str, typer.Option("--action", "-a", metavar="ACTION", help="What to do, such as train or evaluate.")
]
NetworkWord = Annotated[str, typer.Argument(metavar="NETWORK", help="Name of a network: skillbank networks.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings of the spec, stronger than file and datasets."),
]
Specs = Annotated[
    str | None,
    typer.Option(
        "--specs", "-e", metavar="SPEC", help="@FILE, a path, or JSON or YAML text; defaults fill the rest."
    ),
]
Kind = Annotated[
    str, typer.Option("--kind", metavar="KIND", help="experiment, or dataset for conversions of a dataset.")
]
JobName = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="Name for people.")]
WorkspaceId = Annotated[
    str | None,
    typer.Option("--workspace-id", metavar="ID", help="Any name that groups jobs; remembered on first use."),
]
TrainDataset = Annotated[
    list[str] | None,
    typer.Option(
        "--train-dataset-uri", "--train", metavar="URI", help="Training dataset: folder, s3:// or http(s)://."
    ),
]
EvalDataset = Annotated[
    str | None, typer.Option("--eval-dataset-uri", "--eval", metavar="URI", help="Evaluation dataset.")
]
InferenceDataset = Annotated[
    str | None,
    typer.Option("--inference-dataset-uri", "--inference", metavar="URI", help="Dataset to run on."),
]
CalibrationDataset = Annotated[
    str | None,
    typer.Option(
        "--calibration-dataset-uri", "--calibration", metavar="URI", help="Dataset for quantisation."
    ),
]
DatasetFormat = Annotated[
    str | None,
    typer.Option(
        "--dataset-format", "--format", metavar="NAME", help="Layout of the datasets, such as coco_panoptic."
    ),
]
ParentJobId = Annotated[
    str | None,
    typer.Option(
        "--parent-job-id", metavar="JOB", help="Job whose results this one starts from; it may still run."
    ),
]
CheckpointChoice = Annotated[
    str,
    typer.Option(
        "--checkpoint", metavar="RULE", help="Which of the parent's checkpoints: best, latest or epoch:N."
    ),
]
BaseExperimentId = Annotated[
    str | None,
    typer.Option("--base-experiment-id", metavar="ID", help="Starting point that ships with the bank."),
]
EncryptionKey = Annotated[
    str | None,
    typer.Option(
        "--encryption-key",
        metavar="KEY",
        help="Key, or @FILE; the variable SKILLBANK_ENCRYPTION_KEY keeps it out of the command line.",
    ),
]
Description = Annotated[
    str, typer.Option("--description", metavar="TEXT", help="Free text kept with the job.")
]
Tag = Annotated[list[str] | None, typer.Option("--tag", metavar="TEXT", help="Label kept with the job.")]
BackendType = Annotated[
    str,
    typer.Option("--backend-type", metavar="NAME", help="Where it runs: local, or debug for this process."),
]
PlatformId = Annotated[
    str | None,
    typer.Option("--platform-id", metavar="ID", help="Accepted; means nothing to the local backend."),
]
EnvSetting = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="Environment variable of the job."),
]
AutomlSettings = Annotated[
    str | None,
    typer.Option("--automl-settings", metavar="JSON", help="Settings of a search as JSON text or @FILE."),
]
AutomlPolicy = Annotated[
    str | None, typer.Option("--automl-policy", "--policy", metavar="POLICY", help="auto, on or off.")
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="The same key again returns the first job."),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Return when the job has ended; exit code 6 if it failed.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and print the plan; start nothing.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Tell where every value of the spec comes from.")]
CheckData = Annotated[
    bool, typer.Option("--check-data", help="Look up every data file first; list all that are missing.")
]
JobId = Annotated[str | None, typer.Argument(metavar="JOB", help="Id of a job.")]
JobIdFlag = Annotated[
    str | None, typer.Option("--job-id", "--id", metavar="JOB", help="The same, as a flag.")
]
