"""Jobs on this machine: one detached process each, watched by a small supervisor that notes how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from skillbank.errors import LaunchError
from skillbank.jobs.files import write_json
from skillbank.jobs.processes import ProcessId, identify, is_alive
from skillbank.jobs.reconcile import lives, processes_of, read_exit
from skillbank.jobs.record import JobFolder
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore
from skillbank.launch import supervisor
from skillbank.launch.base import Bundle, Report
from skillbank.launch.devices import describe
from skillbank.launch.logs import opened, read_lines
from skillbank.launch.start import prepare

__all__ = ["LocalLauncher"]

_START_TIMEOUT_S = 60.0


class LocalLauncher:
    """Starts workers as processes of this machine that live on without the process that started them.

    A job's reference is ``{"worker": {...}, "supervisor": {...}, "folder": ...}``, see `ProcessId`. It is in
    the job folder, and in the store when one is given, before the worker runs its first instruction.

    Args:
        store: store that has the jobs; without one only the job folder is written.
        sleep: how to pass time while a log is followed or a job ends.
    """

    name = "local"

    def __init__(self, store: JobStore | None = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._sleep = sleep

    def submit(self, bundle: Bundle) -> dict[str, Any]:
        """Start the worker and return once it runs its command.

        Raises:
            LaunchError: no such command, the job runs already or is final, or it wants several nodes.
            NotFoundError: the job folder is gone.
            InvalidValueError: the settings file is broken.
        """
        folder = JobFolder(bundle.folder)
        env = prepare(bundle, self._store)
        # Leaving with the gate unopened is what keeps a worker from running that was not noted.
        with _pipe() as (report, report_end), _pipe() as (gate_end, gate):
            self._start_supervisor(bundle, env, report_end, gate_end)
            ref = self._reference(bundle, _read_line(report, bundle))
            write_json(folder.launch, {**ref, "command": list(bundle.argv)})
            if self._store is not None:
                self._store.set_backend(bundle.job_id, ref)
            gate.write(b"\n")
            self._check_command(bundle, report.readall() or b"")
        return ref

    def status(self, ref: dict[str, Any]) -> Report:
        """What the processes and the exit record say; `unknown` for a job of another machine."""
        folder = Path(ref["folder"])
        alive = lives(ref, folder)
        if alive:
            return Report(state=State.RUNNING)
        if alive is None:
            host = _worker(ref).host
            return Report(state=State.UNKNOWN, message=f"the job runs on {host}, which is asked only there")
        found = read_exit(folder)
        if found is None:
            return Report(state=State.ERROR, message=f"worker process {_worker(ref).pid} disappeared")
        state = State.DONE if found.code == 0 else State.ERROR
        return Report(state=state, message=found.text, exit_code=found.code)

    def logs(self, ref: dict[str, Any], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """Lines of the log, without line ends; empty while there is no log yet."""
        folder = JobFolder(Path(ref["folder"]))
        is_over: Callable[[], bool] = (lambda: not lives(ref, folder.root)) if follow else (lambda: True)
        return read_lines(folder.log, tail=tail, is_over=is_over, sleep=self._sleep)

    def cancel(self, ref: dict[str, Any], *, grace_s: float = 10.0) -> None:
        """SIGTERM to the worker and what it started, after the grace time SIGKILL; waits for their end.

        Raises:
            LaunchError: the job runs on another machine, or the signal is refused.
        """
        folder = Path(ref["folder"])
        worker = _worker(ref)
        if lives(ref, folder) is None:
            raise LaunchError(
                f"job in {folder}: its worker runs on {worker.host}", hint=f"run the command on {worker.host}"
            )
        for number, patience_s in (
            (signal.SIGTERM, grace_s),
            (signal.SIGKILL, supervisor.LEFT_OVERS_GRACE_S),
        ):
            if is_alive(worker):
                _signal_group(worker, number)
                self._wait_until(lambda: not is_alive(worker), patience_s)
        # The supervisor ends what is left of the group and writes the exit record.
        self._wait_until(lambda: not lives(ref, folder), supervisor.LEFT_OVERS_GRACE_S + 2.0)

    def devices(self) -> dict[str, Any]:
        """``{"nodes": 1, "gpus_per_node": n, "cpus": n}``."""
        return describe()

    def _start_supervisor(
        self, bundle: Bundle, env: dict[str, str], report_end: FileIO, gate_end: FileIO
    ) -> None:
        ends = (report_end.fileno(), gate_end.fileno())
        script = [sys.executable, "-I", "-S", supervisor.__file__, *map(str, ends)]
        folder = JobFolder(bundle.folder)
        output = opened(folder.log)
        try:
            starter = subprocess.Popen(
                [*script, str(folder.root), *bundle.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder.root,
                env=env,
                pass_fds=ends,
            )
        except (OSError, ValueError) as error:
            raise LaunchError(f"job {bundle.job_id}: no process can be started ({error})") from error
        finally:
            os.close(output)
        report_end.close()
        gate_end.close()
        starter.wait()

    def _reference(self, bundle: Bundle, reported: dict[str, Any]) -> dict[str, Any]:
        processes = {name: identify(reported[name]) for name in ("worker", "supervisor")}
        gone = [name for name, process in processes.items() if process is None]
        if gone:
            raise LaunchError(f"job {bundle.job_id}: its {gone[0]} was killed while it started")
        found = {name: process.to_dict() for name, process in processes.items() if process is not None}
        return {**found, "folder": str(bundle.folder)}

    def _check_command(self, bundle: Bundle, answer: bytes) -> None:
        if answer:
            reason = json.loads(answer)["error"]
            raise LaunchError(
                f"job {bundle.job_id}: command {bundle.argv[0]!r} cannot be started ({reason})",
                hint=f"ls -l {bundle.argv[0]}",
                value=bundle.argv[0],
            )

    def _wait_until(self, is_true: Callable[[], bool], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not is_true() and time.monotonic() < deadline:
            self._sleep(0.05)


def _worker(ref: dict[str, Any]) -> ProcessId:
    found = processes_of(ref)
    if not found:
        raise LaunchError(
            "job reference: it names no process of this launcher",
            hint="the job was started by another launcher, or never",
            value=ref,
        )
    return found[0]


def _signal_group(worker: ProcessId, number: signal.Signals) -> None:
    try:
        os.killpg(worker.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise LaunchError(
            f"worker process {worker.pid}: it belongs to another user and cannot be stopped",
            hint=f"sudo kill {worker.pid}",
        ) from error


def _read_line(report: FileIO, bundle: Bundle) -> dict[str, Any]:
    """The process ids that the supervisor reports.

    Raises:
        LaunchError: the supervisor died, or does not answer.
    """
    text = b""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not text.endswith(b"\n"):
        ready, _, _ = select.select([report], [], [], max(0.0, deadline - time.monotonic()))
        piece = report.read(4096) if ready else b""
        if not piece:
            log_file = JobFolder(bundle.folder).log
            raise LaunchError(
                f"job {bundle.job_id}: its supervisor did not start", hint=f"the log says more: {log_file}"
            )
        text += piece
    reported: dict[str, Any] = json.loads(text)
    return reported


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """The reading and the writing end; file objects, since those may be closed twice."""
    reading, writing = os.pipe()
    with FileIO(reading, "rb") as out, FileIO(writing, "wb") as into:
        yield out, into
