"""Jobs inside the calling process: the same interface, nothing detached, a debugger stops where it should."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from skillbank.errors import LaunchError, StorageError
from skillbank.jobs.files import write_json
from skillbank.jobs.processes import this_process
from skillbank.jobs.reconcile import read_exit
from skillbank.jobs.record import JobFolder
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore
from skillbank.launch.base import Bundle, Report
from skillbank.launch.devices import describe
from skillbank.launch.logs import opened, read_lines
from skillbank.launch.start import prepare
from skillbank.launch.supervisor import record_exit

__all__ = ["DebugLauncher"]

_KEYBOARD_INTERRUPT = 130


class DebugLauncher:
    """Calls a function for each job; `submit` returns when the job has ended.

    Args:
        run: takes the job folder, returns the exit code; an exception is code 1, its traceback is logged.
        store: store that has the jobs; without one only the job folder is written.
    """

    name = "debug"

    def __init__(self, run: Callable[[Path], int], store: JobStore | None = None) -> None:
        self._run = run
        self._store = store

    def submit(self, bundle: Bundle) -> dict[str, Any]:
        """Run the job to its end; what it prints goes to its log.

        Raises:
            LaunchError: the job runs already or is final.
            NotFoundError: the job folder is gone.
            InvalidValueError: the settings file is broken.
        """
        folder = JobFolder(bundle.folder)
        env = prepare(bundle, self._store)
        ref = {
            "worker": this_process().to_dict(),
            "folder": str(folder.root),
            "is_in_process": True,
        }
        write_json(folder.launch, {**ref, "command": list(bundle.argv)})
        if self._store is not None:
            self._store.set_backend(bundle.job_id, ref)
        with (
            os.fdopen(opened(folder.log), "a", encoding="utf-8") as output,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            _environment(env),
        ):
            code = self._call(folder.root)
        try:
            record_exit(folder.root, code)
        except OSError as error:
            raise StorageError(
                f"{folder.exit}: the file cannot be written ({error.strerror})", hint=f"df -h {folder.root}"
            ) from error
        return ref

    def status(self, ref: dict[str, Any]) -> Report:
        """How the job ended; `running` only when asked from inside the job."""
        found = read_exit(Path(ref["folder"]))
        if found is None:
            return Report(state=State.RUNNING)
        state = State.DONE if found.code == 0 else State.ERROR
        return Report(state=state, message=found.text, exit_code=found.code)

    def logs(self, ref: dict[str, Any], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """Lines of the log, without line ends."""
        folder = JobFolder(Path(ref["folder"]))
        is_over: Callable[[], bool] = folder.exit.exists if follow else (lambda: True)
        return read_lines(folder.log, tail=tail, is_over=is_over)

    def cancel(self, ref: dict[str, Any], *, grace_s: float = 10.0) -> None:
        """Nothing for a job that has ended, as every job has once `submit` returned.

        Raises:
            LaunchError: asked from inside the job.
        """
        if not JobFolder(Path(ref["folder"])).exit.exists():
            raise LaunchError(
                "a job of the debug launcher cannot be canceled from inside", hint="interrupt it: Ctrl-C"
            )

    def devices(self) -> dict[str, Any]:
        """``{"nodes": 1, "gpus_per_node": n, "cpus": n}``."""
        return describe()

    def _call(self, folder: Path) -> int:
        try:
            return self._run(folder)
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except KeyboardInterrupt:
            traceback.print_exc()
            return _KEYBOARD_INTERRUPT
        except Exception:  # noqa: BLE001 - the edge of the job, as the edge of a process is
            traceback.print_exc()
            return 1


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """The variables of the job while it runs, and the old ones afterwards."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
