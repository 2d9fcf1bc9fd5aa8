"""``skillbank automl``: start a search, look at its trials, see what would be searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from skillbank.errors import NotFoundError, UsageError
from skillbank_runners.cli.options import (
    BackendType,
    BaseExperimentId,
    CheckData,
    DatasetFormat,
    DryRun,
    EvalDataset,
    Explain,
    InferenceDataset,
    JobName,
    NetworkWord,
    Output,
    Overrides,
    ParentJobId,
    Specs,
    TrainDataset,
    Wait,
)
from skillbank_runners.cli.output import emit
from skillbank_runners.cli.plan_view import axis_record
from skillbank_runners.cli.submit import Submission, submit

__all__ = ["metrics", "run", "show", "space"]

Keys = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="KEY", help="Search this key instead of the default ones; repeat."),
]
Ranges = Annotated[
    list[str] | None, typer.Option("--range", metavar="KEY=LOW..HIGH", help="Own bounds of a key; repeat.")
]
Options = Annotated[
    list[str] | None, typer.Option("--choices", metavar="KEY=A,B", help="Own options of a key; repeat.")
]


def run(
    network: NetworkWord,
    overrides: Overrides = None,
    specs: Specs = None,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    dataset_format: DatasetFormat = None,
    parent_job_id: ParentJobId = None,
    base_experiment_id: BaseExperimentId = None,
    algorithm: Annotated[
        str,
        typer.Option("--algorithm", metavar="NAME", help="bayesian, bfbo, random, hyperband, bohb or asha."),
    ] = "bayesian",
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Number of trials.")] = 20,
    concurrent: Annotated[
        int, typer.Option("--concurrent", metavar="N", help="Trials under way at once.")
    ] = 1,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Objective; default the network's main metric."),
    ] = None,
    direction: Annotated[
        str | None, typer.Option("--direction", metavar="WAY", help="max or min, for a metric of your own.")
    ] = None,
    keys: Keys = None,
    ranges: Ranges = None,
    choices: Options = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", metavar="H", help="Start no trial after this time.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", metavar="N", help="Stop after N trials without a better one.")
    ] = None,
    name: JobName = None,
    backend_type: BackendType = "local",
    check_data: CheckData = False,
    dry_run: DryRun = False,
    explain: Explain = False,
    wait: Wait = False,
    output: Output = None,
) -> None:
    """Search hyper-parameters of a training; the search and every trial are jobs.

    Name the search as --parent-job-id of a later job to start from its best trial.

    Example:
    skillbank automl run mask2former --specs @spec.yaml --trials 8 --train data/train --eval data/val
    """
    settings: dict[str, Any] = {
        "algorithm": algorithm,
        "trials": trials,
        "concurrent": concurrent,
        "metric": metric,
        "direction": direction,
        "keys": list(keys or ()),
        "ranges": {**_bounds(ranges or ()), **_options(choices or ())},
        "max_hours": max_hours,
        "patience": patience,
    }
    asked = Submission(
        network=network,
        action="train",
        specs=specs,
        settings=overrides or (),
        name=name,
        train=train or (),
        eval=evaluation,
        inference=inference,
        dataset_format=dataset_format,
        parent_job_id=parent_job_id,
        base_experiment_id=base_experiment_id,
        backend=backend_type,
        automl_policy="on",
        automl_settings=json.dumps(
            {key: value for key, value in settings.items() if value not in (None, [], {})}
        ),
        check_data=check_data,
    )
    submit(asked, dry_run=dry_run, explained=explain, wait=wait, output=output)


def show(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of a search.")],
    output: Output = None,
) -> None:
    """Show the trials of a search, their values and the best one so far.

    Example:
    skillbank automl show mask2former-train-3fa2c1
    """
    from skillbank.automl.search import BEST_FILE
    from skillbank.jobs.record import JobFolder
    from skillbank.jobs.store import JobStore

    with JobStore() as store:
        job = store.get(job_id)
    places = (
        Path(job.results_dir) / "train" / BEST_FILE,
        JobFolder(job.folder).results / "train" / BEST_FILE,
    )
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise NotFoundError(
            f"{job.id} ({job.state}) has no record of trials yet, or is no search",
            hint=f"skillbank jobs show {job.id}",
            key="job",
            value=job.id,
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    emit({"state": job.state, **record}, output, name="experiment_id")


def metrics(network: NetworkWord, output: Output = None) -> None:
    """List the metrics of a network with their direction; the main one is the default objective.

    Example:
    skillbank automl metrics nvpanoptix3d
    """
    from skillbank.specs import network as find_network

    rows = [
        {
            "name": metric.name,
            "direction": metric.direction,
            "main": metric.primary,
            "when": dict(metric.when),
            "description": metric.description,
        }
        for metric in find_network(network).metrics
    ]
    emit(rows, output, name="name")


def space(
    network: NetworkWord,
    overrides: Overrides = None,
    specs: Specs = None,
    keys: Keys = None,
    ranges: Ranges = None,
    choices: Options = None,
    output: Output = None,
) -> None:
    """Show what a search would vary: keys, bounds or options, scale; starts nothing.

    Example:
    skillbank automl space mask2former --range train.optim.lr=1e-5..1e-3
    """
    from skillbank.automl.settings import read_settings
    from skillbank.automl.space import search_space
    from skillbank.specs.load import Layer, build_spec, parse_overrides, read_spec

    given = read_spec(specs) if specs else {}
    typed = parse_overrides(overrides or (), network=network, action="train")
    layers = [Layer("file", "spec", given), Layer("override", "command line", typed)]
    nested = build_spec(network, "train", layers, draft=True).nested()
    own = read_settings(
        {"keys": list(keys or ()), "ranges": {**_bounds(ranges or ()), **_options(choices or ())}}
    )
    rows = [axis_record(axis) for axis in search_space(network, nested, keys=own.keys, overrides=own.ranges)]
    emit(rows, output, name="key", columns=("key", "first", "low", "high", "scale", "choices"))


def _bounds(words: list[str] | tuple[str, ...]) -> dict[str, dict[str, float]]:
    """``KEY=LOW..HIGH`` words."""
    found: dict[str, dict[str, float]] = {}
    for word in words:
        key, _, text = word.partition("=")
        low, _, high = text.partition("..")
        try:
            found[key] = {"low": float(low), "high": float(high)}
        except ValueError as err:
            raise UsageError(
                f"--range: {word!r} is not of the form KEY=LOW..HIGH",
                hint="--range train.optim.lr=1e-5..1e-3",
                key="--range",
                value=word,
            ) from err
    return found


def _options(words: list[str] | tuple[str, ...]) -> dict[str, dict[str, list[Any]]]:
    """``KEY=A,B`` words; values are read as YAML."""
    from skillbank.specs.load import load_yaml

    found: dict[str, dict[str, list[Any]]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        values = load_yaml(f"[{text}]", "--choices") if equals and text else []
        if not values:
            raise UsageError(
                f"--choices: {word!r} is not of the form KEY=A,B",
                hint="--choices train.optim.type=AdamW,SGD",
                key="--choices",
                value=word,
            )
        found[key] = {"choices": values}
    return found
