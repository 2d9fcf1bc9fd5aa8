"""Made-up data on the command line: a small data set to try a network with."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
        typer.Option(
            "--format",
            metavar="NAME",
            help="Data format of the network, or all where one folder holds them. Default: all or the first.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", metavar="N", min=1, help="How many images. Default: 32.")
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(
            "--scenes",
            metavar="N",
            min=1,
            help="How many rooms, for nvpanoptix3d, instead of --images. Default: 20.",
        ),
    ] = None,
    images_per_scene: Annotated[
        int | None,
        typer.Option("--images-per-scene", metavar="K", min=1, help="Images of each room. Default: 1."),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            "--held-out",
            metavar="SHARE",
            min=0,
            max=0.4,
            help="Share of the rooms for validation, and for test; 0 = all splits have all. Default: 0.1.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Height and width in pixels. Default: the network's own."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="The same seed makes the same data.")
    ] = 0,
    empty: Annotated[
        int,
        typer.Option("--empty", metavar="N", min=0, help="Images or rooms among them with nothing in them."),
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Processes that make rooms. Default: one per processor."
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Make a small data set of made-up images with exact annotations, to try a network with.

    Rooms come in splits for training, validation and test. Of flat images, take another --seed for validation
    than for training.

    Example:
    skillbank data make mask2former --images 64 --size 128x128 --seed 1 --to data/train
    """
    source = _source(network)
    from skillbank_models.data.synthetic import Order

    formats = _formats(network, source, data_format)
    given = {"images_per_scene": images_per_scene, "held_out": held_out, "workers": workers}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    refused = [name for name in options if name not in source.options]
    counts = {"images": images, "scenes": scenes}
    refused += [name for name, value in counts.items() if value is not None and name != source.unit]
    if refused:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        raise UsageError(
            f"{words}: not an option of made-up data for {network}, which are counted in {source.unit}",
            hint=f"skillbank data make {network} --{source.unit} {source.count} --to {to}",
            key=words,
        )
    count = counts[source.unit] or source.count
    if empty > count:
        raise UsageError(
            f"--empty: {empty} of {count} {source.unit} cannot be empty",
            hint="--empty 1",
            key="--empty",
            value=empty,
        )
    height_width = _size(size) if size else source.size
    with _bar(count * (images_per_scene or 1)) as progress:
        made = source.write(
            Order(
                folder=to,
                formats=formats,
                count=count,
                size=height_width,
                seed=seed,
                empty=empty,
                progress=progress,
                **options,
            )
        )
    emit(dict(made), output, name="path")
    talk(f"{made['images']} images in {to}; as a dataset root: --train {to}")


def _formats(network: str, source: SyntheticData, name: str | None) -> list[str]:
    """The formats that are asked for.

    Raises:
        UsageError: the network has no such data.
    """
    allowed = (["all"] if source.formats_share_a_folder else []) + list(source.formats)
    name = name or allowed[0]
    if name not in allowed:
        raise UsageError(
            f"--format: {network} has no made-up data in format {name!r}; use "
            + ("all or " if source.formats_share_a_folder else "")
            + ", ".join(source.formats),
            hint=f"--format {source.formats[0]}",
            key="--format",
            value=name,
            allowed=allowed,
        )
    return list(source.formats) if name == "all" else [name]


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
