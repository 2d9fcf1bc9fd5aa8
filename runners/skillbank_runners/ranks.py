"""The processes of one job on one machine: the worker is the first and starts the others.

Every process runs the same action on the same spec; the others get it from a file in the job folder. When one
fails, the rest would wait for it for ever, so the worker is told, with the reason that the failed process
left.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skillbank.errors import JobFailedError
from skillbank.jobs.files import read_json, write_json
from skillbank.launch.environment import free_port

__all__ = ["Rank", "RankFailure", "Ranks", "fail_file", "watch_parent"]

log = logging.getLogger(__name__)

_POLL_S = 0.2
_OWN_REPORT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One process among those of a job.

    Attributes:
        local: number on this node; `number` counts over all nodes.
        seed: of the run, the same everywhere.
    """

    local: int = 0
    per_node: int = 1
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    seed: int = 0

    @property
    def number(self) -> int:
        """Number among all processes; 0 writes records."""
        return self.node * self.per_node + self.local

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.nodes * self.per_node

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RankFailure:
    """What became of a process that failed."""

    number: int
    code: int
    error: dict[str, Any] | None

    def to_error(self) -> JobFailedError:
        """The failure as an error of the job."""
        if self.error:
            return JobFailedError(
                f"process {self.number}: {self.error.get('message', '')}",
                hint=str(self.error.get("hint", "")),
            )
        return JobFailedError(
            f"process {self.number} of the job ended with exit code {self.code}",
            hint="the log says more; when nobody killed it, host memory ran out: fewer workers or GPUs",
        )


def fail_file(folder: Path, number: int) -> Path:
    """Where a process other than the first says why it failed."""
    return folder / f".rank_{number}.error.json"


class Ranks:
    """The processes beside the worker, on this node.

    Args:
        folder: the job's folder.
        plan: what they have to know: spec file, action, device indices; JSON-ready.
        first: the worker's own place; `port` 0 chooses a free one.
        on_lost: called in a thread of its own when a process failed and the worker did not end by itself.
    """

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], first: Rank, on_lost: Callable[[RankFailure], None]
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._on_lost = on_lost
        port = first.port or free_port()
        self.first = Rank(**{**asdict(first), "port": port})
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the others, and see that none is left behind at the end."""
        others = [Rank(**{**asdict(self.first), "local": local}) for local in range(1, self.first.per_node)]
        for rank in others:
            fail_file(self._folder, rank.number).unlink(missing_ok=True)
            path = self._folder / f".rank_{rank.number}.json"
            write_json(path, {**self._plan, "rank": rank.to_dict(), "parent": os.getpid()})
            command = [
                sys.executable,
                "-m",
                "skillbank_runners.worker",
                str(self._folder),
                "--rank",
                str(path),
            ]
            self._processes[rank.number] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            log.info(
                "process %d of %d started: pid %d", rank.number, rank.world, self._processes[rank.number].pid
            )
        watch = threading.Thread(target=self._watch, name="ranks", daemon=True)
        if others:
            watch.start()
        try:
            yield
        except BaseException:
            self._end(patience_s=1.0)
            raise
        else:
            self._end(patience_s=30.0)
        finally:
            self._over.set()
            for rank in others:
                (self._folder / f".rank_{rank.number}.json").unlink(missing_ok=True)

    def failure(self, *, patience_s: float = 0.0) -> RankFailure | None:
        """The first failure that left a reason, or any; None while all are well.

        Args:
            patience_s: how long to wait for one; the worker often sees a broken connection before the reason.
        """
        deadline = time.monotonic() + patience_s
        while True:
            failed = [self._failure(number, code) for number, code in self._codes().items() if code]
            failed.sort(key=lambda failure: failure.error is None)
            if failed or time.monotonic() >= deadline:
                return failed[0] if failed else None
            time.sleep(0.05)

    def _codes(self) -> dict[int, int | None]:
        return {number: process.poll() for number, process in self._processes.items()}

    def _failure(self, number: int, code: int) -> RankFailure:
        return RankFailure(number, code, read_json(fail_file(self._folder, number)))

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            found = self.failure()
            if found is not None:
                if not self._over.wait(_OWN_REPORT_S):
                    self._on_lost(found)
                return

    def _end(self, *, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        for stop in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in self._processes.values():
                if stop is not None and process.poll() is None:
                    stop(process)
            for process in self._processes.values():
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
            deadline = time.monotonic() + 2.0


def watch_parent(pid: int) -> None:
    """End this process when the worker that started it is gone, however that happened."""

    def watch() -> None:
        while os.getppid() == pid:
            time.sleep(0.5)
        log.error("the worker (pid %d) is gone: this process ends too", pid)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def read_rank(path: Path) -> tuple[Rank, dict[str, Any]]:
    """What `Ranks` left for a process."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    return Rank(**plan.pop("rank")), plan
