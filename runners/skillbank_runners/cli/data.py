"""Data on the command line: what a dataset must hold, fetching, uploading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skillbank.errors import NotFoundError, UsageError
from skillbank_runners.cli.options import (
    CalibrationDataset,
    DatasetFormat,
    EvalDataset,
    InferenceDataset,
    NetworkWord,
    Output,
    TrainDataset,
)
from skillbank_runners.cli.output import emit, talk
from skillbank_runners.cli.progress import byte_meter
from skillbank_runners.cli.specs import ActionWord

__all__ = ["check", "fetch", "overrides", "upload"]

Into = Annotated[
    Path | None,
    typer.Option("--to", metavar="PATH", help="Copy it there; without it the cache's own path is printed."),
]


def overrides(
    network: NetworkWord,
    action: ActionWord,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    calibration: CalibrationDataset = None,
    dataset_format: DatasetFormat = None,
    output: Output = None,
) -> None:
    """Print the spec values that datasets give; an error lists every dataset that is missing.

    Without --format they are those of the format that the network's skill names as its default.

    Example:
    skillbank overrides nvpanoptix3d train --train s3://bucket/train --eval s3://bucket/eval --format front3d
    """
    from skillbank.resolve.datasets import build_spec_overrides
    from skillbank.skill_info import load_skill_info
    from skillbank.specs import network as find_network

    found: dict[str, Any] = build_spec_overrides(
        network,
        action,
        train=train or None,
        eval=evaluation,
        inference=inference,
        calibration=calibration,
        format=dataset_format or load_skill_info(find_network(network)).data_format or None,
    )
    emit(found, output)


def check(
    network: NetworkWord,
    action: ActionWord,
    train: TrainDataset = None,
    evaluation: EvalDataset = None,
    inference: InferenceDataset = None,
    calibration: CalibrationDataset = None,
    dataset_format: DatasetFormat = None,
    output: Output = None,
) -> None:
    """Look up every file an action expects of its datasets; exit code 3 lists all that are missing.

    Example:
    skillbank data check mask2former train --train data/train --eval data/val --format coco_panoptic
    """
    from skillbank.errors import collect
    from skillbank.jobs.record import Datasets
    from skillbank.resolve.datasets import check_data, resolve_data_sources
    from skillbank.storage import Storage

    datasets = Datasets(
        train=tuple(train or ()),
        eval=evaluation,
        inference=inference,
        calibration=calibration,
        format=dataset_format,
    )
    metadata = {"dataset_format": dataset_format} if dataset_format else None
    sources = resolve_data_sources(network, action, datasets, metadata)
    if sources.missing:
        raise collect(list(sources.missing), f"data of {network} {action}")
    check_data(sources.expected, Storage())
    emit(
        [
            {"key": item.key, "uri": item.uri, "kind": item.kind, "optional": item.optional}
            for item in sources.expected
        ],
        output,
        columns=("key", "uri", "kind", "optional"),
        name="uri",
    )
    talk(f"{len(sources.expected)} files and folders are there")


def fetch(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="File, folder or prefix: s3://, http(s)://, file://.")
    ],
    to: Into = None,
    output: Output = None,
) -> None:
    """Bring data to this machine through the cache and print where it is.

    Example:
    skillbank data fetch s3://bucket/train/annotations.json
    """
    from skillbank.storage import Storage

    storage = Storage()
    if storage.stat(uri) is None and not storage.list(uri):
        raise NotFoundError(
            f"{uri}: not there", hint="check the address and the credentials", key="uri", value=uri
        )
    path = storage.fetch_any(uri, progress=byte_meter("fetching"))
    if to is not None:
        _copy(path, to)
        path = to
    emit({"uri": uri, "path": str(path)}, output, name="path")


def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File or folder.")],
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Where to: s3://BUCKET/PREFIX, file:// or a path.")
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Pattern in the manner of .gitignore."),
    ] = None,
    output: Output = None,
) -> None:
    """Upload a file or a folder.

    Example:
    skillbank data upload results s3://bucket/runs/1 --exclude "*.tmp"
    """
    from skillbank.storage import Storage

    if not path.exists():
        raise NotFoundError(
            f"{path}: no such file or folder", hint="check the path", key="path", value=str(path)
        )
    storage = Storage()
    if path.is_dir():
        count = storage.put_tree(path, uri, excludes=tuple(exclude or ()))
    elif exclude:
        raise UsageError(
            f"{path} is one file, so there is nothing to exclude", hint="drop --exclude", key="--exclude"
        )
    else:
        storage.put(path, uri)
        count = 1
    emit({"path": str(path), "uri": uri, "files": count}, output, name="uri")


def _copy(source: Path, target: Path) -> None:
    """Copy out of the cache; the final name appears when everything is there."""
    import shutil
    import tempfile

    if target.exists():
        raise UsageError(
            f"{target}: is there already", hint="name a path that is free", key="--to", value=str(target)
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        part = work / "part"
        shutil.copytree(source, part) if source.is_dir() else shutil.copy2(source, part)
        part.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
