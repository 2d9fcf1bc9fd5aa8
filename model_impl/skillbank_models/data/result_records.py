"""Records of results that several processes write, and one joins: a line of JSON for each image."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from skillbank.errors import StorageError
from skillbank_models.metrics.reduction import is_shared

__all__ = ["RecordPlace", "ResultRecords"]


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where the record of an image is.

    Attributes:
        name: of the image.
        rank: process that wrote it.
        offset: of its line in the file of that process.
        length: bytes of the line.
        kept: the fields that were asked for.
    """

    name: str
    rank: int
    offset: int
    length: int
    kept: dict[str, Any]


class ResultRecords:
    """Hidden files in a folder that all processes see, one for each process.

    The file of a process goes with the process, so a run that fails leaves none.

    Args:
        folder: it is made when missing.
        rank: number of this process.
        world: how many processes write.

    Raises:
        StorageError: nothing can be written there.
    """

    def __init__(self, folder: Path, *, rank: int, world: int) -> None:
        self.folder = folder
        self._rank, self._world = rank, world
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._part(rank).write_bytes(b"")
        except OSError as error:
            raise StorageError(
                f"{folder}: results cannot be written there ({error.strerror})",
                hint="-o results_dir=<folder you may write to>",
                key="results_dir",
            ) from error
        weakref.finalize(self, _remove, self._part(rank), os.getpid())

    def add(self, record: dict[str, Any]) -> None:
        """Note one image; the record has its ``name``.

        Raises:
            StorageError: it cannot be written.
        """
        self._note(record)
        self._count += 1

    def end(self) -> None:
        """Say that this process has no more, and wait for the others."""
        self._note({"end": self._count})
        self.wait()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._world > 1 and is_shared():
            dist.barrier()

    def places(self, keep: Sequence[str] = ()) -> list[RecordPlace]:
        """Images of all processes by name, each once.

        Args:
            keep: fields of the record to hold in memory.

        Raises:
            StorageError: records of a process are missing.
        """
        found: dict[str, RecordPlace] = {}
        for rank in range(self._world):
            path = self._part(rank)
            ended = False
            if path.is_file():
                with path.open("rb") as file:
                    offset = 0
                    for line in file:
                        row = json.loads(line)
                        ended = "end" in row
                        if not ended:
                            kept = {key: row[key] for key in keep}
                            place = RecordPlace(row["name"], rank, offset, len(line), kept)
                            found.setdefault(row["name"], place)
                        offset += len(line)
            if not ended:
                raise StorageError(
                    f"{path}: process {rank} of {self._world} left no complete results",
                    hint="results_dir must be a folder that all processes share",
                    key="results_dir",
                )
        return [found[name] for name in sorted(found)]

    def read(self, places: Iterable[RecordPlace]) -> Iterator[dict[str, Any]]:
        """The records, one at a time."""
        files = [self._part(rank).open("rb") for rank in range(self._world)]
        try:
            for place in places:
                files[place.rank].seek(place.offset)
                yield json.loads(files[place.rank].readline())
        finally:
            for file in files:
                file.close()

    def remove(self) -> None:
        """Delete the files of all processes."""
        for part in self.folder.glob(".results-*.part"):
            part.unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        return self.folder / f".results-{rank:05d}.part"

    def _note(self, row: dict[str, Any]) -> None:
        path = self._part(self._rank)
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(
                f"{path}: results cannot be written ({error.strerror})",
                hint=f"df -h {self.folder}",
                key="results_dir",
            ) from error


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # a loader process has a copy of what was there when it was started
        path.unlink(missing_ok=True)
