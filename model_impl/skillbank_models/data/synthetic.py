"""Made-up data sets: what a network that can write one offers to the command line.

A network package that can make data has a module ``synthetic`` with a `SyntheticData` named ``SYNTHETIC``.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skillbank.errors import DataError

__all__ = ["Order", "SyntheticData", "new_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make.

    Attributes:
        folder: to make; must not hold anything yet.
        formats: some of those the network offers.
        count: how many images or scenes, as `SyntheticData.unit` says.
        size: (height, width).
        seed: the same seed gives the same data.
        empty: how many of these have nothing in them.
        progress: called with the number of finished images.
        images_per_scene: images that show the same scene.
        held_out: share of the scenes that validation and test get each; 0 = every split has all scenes.
        workers: processes; None = one for each processor.

    The last three are read by networks that list them in `SyntheticData.options`.
    """

    folder: Path
    formats: Sequence[str]
    count: int
    size: tuple[int, int]
    seed: int
    empty: int
    progress: Callable[[int], None]
    images_per_scene: int = 1
    held_out: float = 0.1
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticData:
    """The data sets a network can make.

    Attributes:
        formats: data formats of the network's skill, the default first.
        formats_share_a_folder: whether one data set can be in several formats.
        size: (height, width) that fits the network.
        unit: what is counted.
        count: how many are made when nothing is said.
        options: names of the fields of `Order` that not all networks read.
        write: makes a data set and tells what it holds, as JSON-ready fields.
    """

    formats: Sequence[str]
    formats_share_a_folder: bool
    size: tuple[int, int]
    unit: Literal["images", "scenes"]
    count: int
    options: frozenset[str]
    write: Callable[[Order], Mapping[str, Any]]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its final name when all went well, and vanishes otherwise.

    Raises:
        DataError: there is something under that name already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder}: is there already; nothing is overwritten",
            hint=f"name a free folder, or rm -r {folder}",
            key="--to",
            value=str(folder),
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    work.mkdir()
    try:
        yield work
        if folder.is_dir():
            folder.rmdir()
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
