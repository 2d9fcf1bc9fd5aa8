"""Made-up data on the command line: a small data set to try a network with."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skillbank.errors import UsageError
from skillbank_runners.cli.options import NetworkWord, Output
from skillbank_runners.cli.output import emit, for_people, talk

if TYPE_CHECKING:
    from skillbank_models.data.synthetic import SyntheticData

__all__ = ["make"]

_SMALLEST, _LARGEST = 32, 8192


def make(
    network: NetworkWord,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="New folder, the dataset root.")],
    data_format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="Data format of the network, or all. Default: all."),
    ] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", min=1, help="How many images.")] = 32,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Height and width in pixels. Default: the network's own."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="The same seed makes the same data.")
    ] = 0,
    empty: Annotated[
        int, typer.Option("--empty", metavar="N", min=0, help="Images among them with nothing in them.")
    ] = 0,
    output: Output = None,
) -> None:
    """Make a small data set of made-up images with exact annotations, to try a network with.

    Take another --seed for validation than for training.

    Example:
    skillbank data make mask2former --images 64 --size 128x128 --seed 1 --to data/train
    """
    source = _source(network)
    from skillbank_models.data.synthetic import Order

    if data_format not in (None, "all", *source.formats):
        raise UsageError(
            f"--format: {network} has no made-up data in format {data_format!r}; use all or "
            + ", ".join(source.formats),
            hint=f"--format {source.formats[0]}",
            key="--format",
            value=data_format,
            allowed=["all", *source.formats],
        )
    if empty > images:
        raise UsageError(
            f"--empty: {empty} of {images} images cannot be empty",
            hint="--empty 1",
            key="--empty",
            value=empty,
        )
    formats = source.formats if data_format in (None, "all") else (data_format,)
    height_width = _size(size) if size else source.size
    with _bar(images) as progress:
        made = source.write(
            Order(
                folder=to,
                formats=[name for name in formats if name],
                images=images,
                size=height_width,
                seed=seed,
                empty=empty,
                progress=progress,
            )
        )
    emit(dict(made), output, name="path")
    talk(f"{images} images in {to}; as a dataset root: --train {to}")


def _source(network: str) -> SyntheticData:
    """What a network offers.

    Raises:
        NotFoundError: no such network.
        RuntimeMissingError: its implementation, or what it needs, is not there.
        UsageError: it makes no data.
    """
    import importlib

    from skillbank.runtime import is_installed, require_runtime
    from skillbank.specs import network as find_network

    found = find_network(network)
    require_runtime(found)
    module = f"{found.impl}.synthetic"
    if not is_installed(module):
        raise UsageError(
            f"{network} has no made-up data", hint="skillbank networks", key="network", value=network
        )
    source: SyntheticData = importlib.import_module(module).SYNTHETIC
    return source


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(_SMALLEST <= side <= _LARGEST for side in sides):
        raise UsageError(
            f"--size: {text!r} is no HEIGHTxWIDTH with sides from {_SMALLEST} to {_LARGEST} pixels",
            hint="--size 480x640",
            key="--size",
            value=text,
        )
    return sides


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not for_people(sys.stderr):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("drawing", total=total)
        yield lambda done: bar.update(task, completed=done)
