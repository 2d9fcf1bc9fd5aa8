"""Pictures of rooms made by several processes, the same whatever their number."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skillbank.errors import OutOfMemoryError
from skillbank_models.nvpanoptix3d.rooms.annotated import STORED_GRID, annotate
from skillbank_models.nvpanoptix3d.rooms.layout import furnished_room
from skillbank_models.nvpanoptix3d.rooms.store import STORES
from skillbank_models.nvpanoptix3d.views import view_of

__all__ = ["Made", "Task", "make_all", "make_one"]


@dataclass(frozen=True, slots=True)
class Task:
    """A picture to make.

    Attributes:
        folder: dataset root.
        layout: of the files.
        seed: of the data set.
        scene: number of the room, from 0.
        image: number of the picture in it, from 0.
        size: (height, width).
        is_empty: without furniture.
    """

    folder: Path
    layout: str
    seed: int
    scene: int
    image: int
    size: tuple[int, int]
    is_empty: bool

    @property
    def scene_id(self) -> str:
        """Name of the folder of the room."""
        return f"room_{self.scene:05d}"


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that was made.

    Attributes:
        image_id: name in the split files.
        picture: file, relative to the dataset root.
        labels: classes of the things in it, one for each thing.
    """

    image_id: str
    picture: str
    labels: tuple[int, ...]


def make_one(task: Task) -> Made:
    """Furnish a room, take the picture, write its files."""
    # a picture depends on these numbers alone: not on the process, nor on how many there are
    room = furnished_room(np.random.default_rng([task.seed, task.scene]), empty=task.is_empty)
    rng = np.random.default_rng([task.seed, task.scene, task.image + 1])
    store = STORES[task.layout]
    camera = store.camera(rng, task.size)
    image_id = store.name(rng, task.image)
    seen = annotate(rng, room, view_of(camera, STORED_GRID, shifted=store.shifted, rule="measured"))
    picture = store.write(task.folder, task.scene_id, image_id, seen)
    found = [
        room.pieces[number - 1].label for number in np.unique(seen.instance) if number <= len(room.pieces)
    ]
    return Made(image_id, str(picture.relative_to(task.folder)), tuple(found))


def make_all(tasks: Sequence[Task], *, workers: int, progress: Callable[[int], None]) -> list[Made]:
    """Make pictures, in the order of the tasks.

    Args:
        workers: processes; with 1 this one makes all.
        progress: called with the number of finished pictures.

    Raises:
        OutOfMemoryError: the system ended a process.
    """
    found: dict[int, Made] = {}
    if workers == 1 or len(tasks) == 1:
        for number, task in enumerate(tasks):
            found[number] = make_one(task)
            progress(len(found))
        return list(found.values())
    with _pool(min(workers, len(tasks))) as pool:
        futures = {pool.submit(make_one, task): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress(len(found))
        except BrokenProcessPool as error:
            raise OutOfMemoryError(
                f"one of {workers} processes that make rooms was ended by the system, most likely for memory",
                hint="--workers 1",
                key="--workers",
                value=workers,
            ) from error
    return [found[number] for number in range(len(tasks))]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that stop soon after this one is interrupted."""
    # where there is a fork server it imports once for all; plain forks of a process with threads are unsafe
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_the_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
