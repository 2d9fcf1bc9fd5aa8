"""Runs one worker, outlives it, and notes how it ended, a killed worker included.

Started by the local launcher as a script, in an interpreter without site packages to stay small:

    python -I -S supervisor.py REPORT_FD GATE_FD FOLDER COMMAND...

It detaches, reports the process ids of itself and of the worker through REPORT_FD, and lets the worker run
its command only after a byte has come through GATE_FD: by then the launcher has written them down. When the
launcher dies before that, nothing is run. Only the standard library may be imported here.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

__all__ = ["LEFT_OVERS_GRACE_S", "NOT_STARTED", "main", "record_exit"]

# How long processes that a worker left behind may take to end on their own.
LEFT_OVERS_GRACE_S = 3.0

_PR_SET_CHILD_SUBREAPER = 36

# Exit code of a worker whose launcher died before it could be noted.
NOT_STARTED = 125


def main(arguments: list[str]) -> int:
    """Run the worker and wait for it; the exit code is the worker's."""
    report, gate, folder, command = int(arguments[0]), int(arguments[1]), Path(arguments[2]), arguments[3:]
    if os.fork():
        # The launcher waits for this process only, so no zombie is left to it.
        os._exit(0)
    os.setsid()
    _adopt_orphans()
    _hold_lock(folder)
    worker = os.fork()
    if worker == 0:
        _become_worker(report, gate, command)
    os.close(gate)
    os.write(report, f"{json.dumps({'supervisor': os.getpid(), 'worker': worker})}\n".encode())
    os.close(report)

    def pass_on(number: int, frame: FrameType | None) -> None:
        _signal_group(worker, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = _wait_for(worker)
    try:
        record_exit(folder, code)
    except OSError as error:
        sys.stderr.write(f"the exit record of the job cannot be written: {error}\n")
    _end_group(worker)
    return code


def record_exit(folder: Path, code: int, *, replace: bool = False) -> None:
    """Write the exit record of a job folder; one that is there already is kept unless `replace`.

    Args:
        folder: job folder.
        code: exit code; 128 + number of the signal for a killed worker.
        replace: the worker itself says how it ended, which is worth more than what its parent saw.

    Raises:
        OSError: the folder is gone or the disk is full.
    """
    path = folder / "exit.json"
    if path.exists() and not replace:
        return
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
    temporary = folder / f".exit.json.{os.getpid()}.part"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"code": code, "ended_at": stamp}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _hold_lock(folder: Path) -> None:
    """Lock a file until this process and the worker are gone; the worker inherits the lock."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        sys.stderr.write(f"the job folder cannot be locked: {error}\n")


def _become_worker(report: int, gate: int, command: list[str]) -> None:
    os.setsid()
    if not os.read(gate, 1):
        os._exit(NOT_STARTED)
    os.close(gate)
    os.set_inheritable(report, False)
    # Python ignores these two, and what is ignored stays ignored in the new program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(report, json.dumps({"error": error.strerror}).encode())
        os._exit(127)


def _adopt_orphans() -> None:
    """Become the parent of what the worker leaves, so that its end is seen here and not left to process 1."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_for(worker: int) -> int:
    """Exit code of the worker; adopted processes that end before it are taken note of on the way."""
    ended = 0
    while ended != worker:
        ended, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_group(group: int) -> None:
    """End what the worker started and left: ranks of a distributed run, data loaders."""
    if not _signal_group(group, signal.SIGTERM):
        return
    deadline = time.monotonic() + LEFT_OVERS_GRACE_S
    while _reap() and _signal_group(group, 0):
        if time.monotonic() > deadline:
            _signal_group(group, signal.SIGKILL)
            return
        time.sleep(0.05)


def _reap() -> bool:
    """Bury children that have ended; False when none is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return sys.platform != "linux"
    return True


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False when nobody is in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
