"""The status file of a job: one JSON object per line, appended by the process of rank 0.

Readers of the older form find what they know, under the same names and in the same spelling: `date`, `time`,
`status`, `verbosity`, `message`, and `categorical`, `graphical` and `kpi` where there is something in them.
What is added stands behind: `ts`, `event`, `job_id`, `global_step`, `rank`, `schema_version`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from skillbank.errors import StorageError
from skillbank.jobs.record import timestamp

__all__ = ["Event", "Status", "StatusEvent", "StatusWriter", "Verbosity", "read_events"]

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

Status = Literal["STARTED", "RUNNING", "SUCCESS", "FAILURE", "SKIPPED"]
Verbosity = Literal["DISABLE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Event = Literal["started", "running", "metrics", "success", "failure", "skipped"]

_STATUSES = frozenset({"STARTED", "RUNNING", "SUCCESS", "FAILURE", "SKIPPED"})
_ENDS = frozenset({"SUCCESS", "FAILURE"})
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """One line of a status file.

    Attributes:
        ts: RFC 3339 in UTC; None in a line of an older writer, whose local `date` and `time` are in `fields`.
        kpi: metric name -> value; None stands for a value that was not finite.
        epoch: 0-based number of the epoch.
        fields: everything else in the line, such as ``eta`` or ``time_per_epoch``.
    """

    status: str
    message: str = ""
    verbosity: str = "INFO"
    ts: str | None = None
    event: str | None = None
    job_id: str | None = None
    epoch: int | None = None
    max_epoch: int | None = None
    global_step: int | None = None
    rank: int | None = None
    kpi: Mapping[str, Any] = field(default_factory=dict)
    graphical: Mapping[str, Any] = field(default_factory=dict)
    categorical: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_end(self) -> bool:
        """True for the last line of a run."""
        return self.status in _ENDS


class StatusWriter:
    """Appends events; every line goes out whole, in one write, and can be read on return.

    Args:
        path: the file; its folder is created.
        job_id: job the events belong to.
        component: what runs, such as ``mask2former train``; named in the standard messages.
        rank: only rank 0 writes, the other ranks do nothing.
        now: the clock, in local time.

    Every method raises `StorageError` when the line cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        job_id: str,
        component: str,
        rank: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self.path = Path(path)
        self._job_id = job_id
        self._component = component
        self._rank = rank
        self._now = now

    def started(self, message: str = "", **fields: Any) -> None:
        """The first event of a run."""
        self._write("STARTED", "started", message or f"Starting {self._component}", fields=fields)

    def running(
        self,
        message: str = "",
        *,
        verbosity: Verbosity = "INFO",
        kpi: Mapping[str, Any] | None = None,
        graphical: Mapping[str, Any] | None = None,
        categorical: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Progress, or a word on what is waited for.

        Args:
            message: for people.
            verbosity: how much it matters.
            kpi: single numbers.
            graphical: curves.
            categorical: values per class.
            fields: ``epoch``, ``max_epoch``, ``global_step``, ``time_per_epoch``, ``eta``, ...
        """
        maps = {"categorical": categorical, "graphical": graphical, "kpi": kpi}
        self._write("RUNNING", "running", message, verbosity=verbosity, maps=maps, fields=fields)

    def metrics(self, kpi: Mapping[str, Any], *, message: str = "", **fields: Any) -> None:
        """Metric values, with ``epoch``, ``global_step``, ... among `fields`."""
        self._write("RUNNING", "metrics", message, maps={"kpi": kpi}, fields=fields)

    def success(self, message: str = "", **fields: Any) -> None:
        """The last event of a run that ended well."""
        self._write(
            "SUCCESS", "success", message or f"{self._component} finished successfully", fields=fields
        )

    def failure(self, message: str, **fields: Any) -> None:
        """The last event of a run that did not, an interrupted one included."""
        self._write("FAILURE", "failure", message, verbosity="ERROR", fields=fields)

    def _write(
        self,
        status: Status,
        event: Event,
        message: str,
        *,
        verbosity: Verbosity = "INFO",
        maps: Mapping[str, Mapping[str, Any] | None] | None = None,
        fields: Mapping[str, Any],
    ) -> None:
        if self._rank != 0:
            return
        now = self._now()
        step = fields.get("global_step")
        line = {
            **{name: value for name, value in fields.items() if value is not None and name != "global_step"},
            "date": f"{now.month}/{now.day}/{now.year}",
            "time": f"{now.hour}:{now.minute}:{now.second}",
            "status": status,
            "verbosity": verbosity,
            **({"message": message} if message else {}),
            **{name: dict(value) for name, value in (maps or {}).items() if value},
            "ts": timestamp(now),
            "event": event,
            "job_id": self._job_id,
            **({"global_step": step} if step is not None else {}),
            "rank": self._rank,
            "schema_version": SCHEMA_VERSION,
        }
        self._append(json.dumps(_strict(line), allow_nan=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                _lock(file)
                size = os.fstat(file).st_size
                if size and os.pread(file, 1, size - 1) != b"\n":
                    # A writer died in the middle of a line; ours must not become part of it.
                    line = b"\n" + line
                written = os.write(file, line)
            finally:
                os.close(file)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        if written < len(line):
            raise self._failed(f"{written} of {len(line)} bytes were written, the disk is full")

    def _failed(self, reason: str) -> StorageError:
        return StorageError(
            f"status file {self.path}: the event cannot be written ({reason})",
            hint=f"df -h {self.path.parent}",
        )


def _lock(file: int) -> None:
    """Keep other writers out until the file is closed: its end is looked at, then written behind."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        log.debug("a status file on a file system without locks: %s", error)


def read_events(
    path: Path,
    *,
    follow: bool = False,
    job_id: str | None = None,
    is_over: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    poll_s: float = _POLL_S,
) -> Iterator[StatusEvent]:
    """Events of a status file, oldest first; lines of others and a half-written last line are passed over.

    Args:
        path: the file; while it does not exist there are no events.
        follow: go on with what is appended, until the run ends or `is_over`.
        job_id: events of this job only; several runs may share a results folder.
        is_over: the job is final, so nothing will be appended any more; asked before each look.
        sleep: waits between two looks.
        poll_s: time between two looks.
    """
    tail = _Tail(path)
    try:
        while True:
            ended = not follow or is_over()
            lines, rest = tail.look()
            # What has no line end may still be written at; it counts only when nothing more will come.
            for line in [*lines, rest] if ended else lines:
                event = _parse(line)
                if event is None or (job_id is not None and event.job_id != job_id):
                    continue
                yield event
                if follow and event.is_end:
                    return
            if ended:
                return
            sleep(poll_s)
    finally:
        tail.close()


class _Tail:
    """What was added to a file since the last look.

    The file stays open: a new file in its place could otherwise get the same inode number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def look(self) -> tuple[list[bytes], bytes]:
        """Whole lines, and what stands behind the last of them; a file that was replaced is read anew.

        Raises:
            StorageError: the file is there but cannot be read.
        """
        try:
            text = self._rest + (self._file.read() if self._file is not None else b"")
            if self._has_new_file():
                self.close()
                self._file = self._path.open("rb")
                # What an earlier file ends with is whole by now.
                text = (text + b"\n" if text else b"") + self._file.read()
        except FileNotFoundError:
            # Removed, and perhaps soon replaced.
            pass
        except OSError as error:
            raise StorageError(
                f"status file {self._path}: it cannot be read ({error.strerror})", hint=f"ls -l {self._path}"
            ) from error
        *lines, self._rest = text.split(b"\n")
        return lines, self._rest

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _has_new_file(self) -> bool:
        found = self._path.stat()
        if self._file is None:
            return True
        opened = os.fstat(self._file.fileno())
        return (found.st_dev, found.st_ino) != (
            opened.st_dev,
            opened.st_ino,
        ) or found.st_size < self._file.tell()


def _parse(line: bytes) -> StatusEvent | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict) or values.get("status") not in _STATUSES:
        return None
    known: dict[str, Any] = {"status": values.pop("status")}
    values.pop("schema_version", None)
    for name in ("message", "verbosity", "ts", "event", "job_id"):
        if isinstance(values.get(name), str):
            known[name] = values.pop(name)
    for name in ("epoch", "max_epoch", "global_step", "rank"):
        if isinstance(values.get(name), int) and not isinstance(values[name], bool):
            known[name] = values.pop(name)
    for name in ("kpi", "graphical", "categorical"):
        if isinstance(values.get(name), dict):
            known[name] = values.pop(name)
    return StatusEvent(**known, fields=values)


def _strict(value: Any) -> Any:
    """The value as strict JSON can hold it: NaN and infinity become null, other objects their text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_strict(item) for item in value]
    # A tensor or array of one number, without importing the library it comes from.
    item = getattr(value, "item", None)
    try:
        return _strict(item()) if callable(item) else str(value)
    except (TypeError, ValueError, RuntimeError):
        return str(value)
