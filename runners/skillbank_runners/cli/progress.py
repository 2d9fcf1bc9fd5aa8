"""How far a job or a download is: numbers from the status file, a bar for people, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from skillbank_runners.cli.job_view import progress_text
from skillbank_runners.cli.output import for_people, talk

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from skillbank.jobs.record import Job
    from skillbank.jobs.status import StatusEvent

__all__ = ["Progress", "byte_meter", "progress_of", "status_file"]


def status_file(job: Job) -> Path | None:
    """The status file of a job; None while there is none on this machine."""
    from skillbank.jobs.record import JobFolder

    folders = [] if "://" in job.results_dir else [Path(job.results_dir)]
    folders.append(JobFolder(job.folder).results)
    for folder in folders:
        path = folder / job.action / "status.json"
        if path.is_file():
            return path
    return None


def progress_of(job: Job) -> dict[str, Any]:
    """What a job reported last: epoch and last epoch (from 0), step, time left, newest metric values."""
    from skillbank.jobs.status import read_events

    path = status_file(job)
    return _summary(read_events(path, job_id=job.id)) if path else _summary(())


def _summary(events: Iterable[StatusEvent]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "epoch": None,
        "max_epoch": None,
        "global_step": None,
        "eta": None,
        "metrics": {},
    }
    for event in events:
        for name in ("epoch", "max_epoch", "global_step"):
            value = getattr(event, name)
            if value is not None:
                found[name] = value
        found["eta"] = event.fields.get("eta", found["eta"])
        found["metrics"].update(event.kpi)
        found["status"] = event.status
        found["status_message"] = event.message
    return found


def _line(job: Job, summary: dict[str, Any]) -> str:
    """One line on where a job is."""
    parts = [f"{job.id} {job.state.value}"]
    if summary["epoch"] is not None:
        parts.append(progress_text(summary))
    parts += [
        f"{name} {value:.5g}" for name, value in summary["metrics"].items() if isinstance(value, int | float)
    ][:4]
    if job.message and (summary["epoch"] is None or job.state.is_final):
        parts.append(job.message.splitlines()[0])
    return "  ".join(parts)


class Progress:
    """Shows a job on stderr each time it is looked at: a bar on a terminal, else a line for each change."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._last = ""
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._shown and for_people(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, job: Job) -> None:
        """Bring the display up to date."""
        if not self._shown:
            return
        summary = progress_of(job)
        line = _line(job, summary)
        if self._bar is not None:
            total = None if summary["max_epoch"] is None else summary["max_epoch"] + 1
            done = 0 if summary["epoch"] is None else summary["epoch"] + 1
            if self._task is None:
                self._task = self._bar.add_task(line, total=total)
            self._bar.update(self._task, description=line, total=total, completed=done)
            if job.state.is_final:
                self._bar.console.print(line, highlight=False)
        elif line != self._last:
            talk(line)
        self._last = line


def byte_meter(what: str) -> Callable[[int, int, int], None] | None:
    """Shows bytes, total bytes and finished objects of a transfer; None where nobody looks on."""
    if not for_people(sys.stderr):
        return None

    def show(done: int, total: int, objects: int) -> None:
        text = f"\r{what}: {done / 1e6:.1f} of {total / 1e6:.1f} MB, {objects} files"
        sys.stderr.write(text + ("\n" if done >= total else ""))
        sys.stderr.flush()

    return show
