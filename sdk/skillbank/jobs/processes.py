"""Which process did it, and does it still live: numbers are reused, so one alone is never trusted."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["ProcessId", "identify", "is_alive", "is_locked", "this_process"]

_START_TIME = 19  # fields after the command name in /proc/<pid>/stat, counted from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process that cannot be confused with a later one of the same number.

    Attributes:
        started: start time as the kernel gives it, comparable within one boot.
        boot: identity of this run of the kernel; empty where there is none.
        namespace: process-number namespace (a container has its own); empty where there is none.
    """

    pid: int
    started: str
    boot: str
    host: str
    namespace: str

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> ProcessId | None:
        """The opposite of `to_dict`; None when something else is given."""
        if not isinstance(value, Mapping) or not isinstance(value.get("pid"), int):
            return None
        texts = {name: str(value.get(name, "")) for name in ("started", "boot", "host", "namespace")}
        return cls(pid=value["pid"], **texts)


def identify(pid: int) -> ProcessId | None:
    """The process that has this number now on this machine; None when there is none that still runs."""
    started = _start_time(pid)
    if started is None:
        return None
    return ProcessId(
        pid=pid, started=started, boot=_boot(), host=socket.gethostname(), namespace=_namespace()
    )


def this_process() -> ProcessId:
    """The calling process."""
    pid = os.getpid()
    return ProcessId(
        pid=pid,
        started=_start_time(pid) or "",
        boot=_boot(),
        host=socket.gethostname(),
        namespace=_namespace(),
    )


def is_alive(process: ProcessId, lock: Path | None = None) -> bool | None:
    """Whether the process still runs; None when that cannot be told from here.

    Args:
        process: as noted when it was started.
        lock: file that the process, or its supervisor, holds locked while it lives. It decides where process
            numbers say nothing: in another container that shares the home, and after a container restart.
    """
    if process.host != socket.gethostname():
        return None
    if process.boot != _boot():
        return False
    if process.namespace != _namespace():
        return is_locked(lock) if lock is not None else None
    return _start_time(process.pid) == process.started


def is_locked(path: Path) -> bool | None:
    """Whether some process holds the lock of this file; None when there is no such file or no locking."""
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _start_time(pid: int) -> str | None:
    """Start time of a process; None when it is gone, a zombie included."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_time_by_ps(pid)
    except ProcessLookupError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[_START_TIME].decode()


def _start_time_by_ps(pid: int) -> str | None:
    """The same where there is no /proc."""
    answer = subprocess.run(
        ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        pass
    try:
        answer = subprocess.run(
            ["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip()


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
