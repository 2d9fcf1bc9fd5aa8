"""One job per device: a queue of tickets, first come, first served.

A ticket is a file that its process keeps locked while it waits for, or holds, its devices. The kernel drops
the lock when the process dies, however it dies, so a dead holder's devices are free at once. All devices of a
ticket are granted together, so two jobs cannot each hold what the other waits for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skillbank.errors import InvalidValueError, LaunchError, StorageError
from skillbank.jobs.processes import this_process
from skillbank.launch.devices import physical
from skillbank.launch.environment import cpu_slots

__all__ = ["Slots"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    """Content of a ticket file; `machine` tells tickets of hosts apart that share a home."""

    number: int
    job_id: str
    pid: int
    machine: str
    devices: tuple[str, ...]
    is_held: bool


class Slots:
    """The devices of this machine, as far as jobs of one store use them.

    Args:
        store_home: home of the store.
        environ: gives ``CUDA_VISIBLE_DEVICES`` and ``SKILLBANK_CPU_SLOTS``; default the process's own.
        poll_s: time between two looks while waiting.
        sleep: waits that time.
        clock: counts seconds for the timeout.
    """

    def __init__(
        self,
        store_home: Path,
        *,
        environ: Mapping[str, str] | None = None,
        poll_s: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = store_home / "slots"
        self._environ = os.environ if environ is None else environ
        self._poll_s = poll_s
        self._sleep = sleep
        self._clock = clock

    @contextlib.contextmanager
    def acquire(
        self,
        job_id: str,
        devices: Sequence[str],
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[str, ...]]:
        """Hold devices for the time of the `with` block; waits until all of them are free.

        Args:
            job_id: shown to those who wait.
            devices: ``cuda:N`` as the job sees them, or ``cpu``; none are granted at once.
            timeout_s: give up after this time.
            on_wait: called with a message when waiting starts and when the jobs in the way change.

        Raises:
            LaunchError: the devices did not become free in time.
            InvalidValueError: a device has another name.
            StorageError: the home cannot be written or does not support locks.
        """
        wanted = tuple(sorted({physical(_checked(device), self._environ) for device in devices}))
        if not wanted:
            yield ()
            return
        with contextlib.ExitStack() as stack:
            ticket, file = self._draw(job_id, wanted)
            stack.callback(self._return, ticket, file)
            deadline = None if timeout_s is None else self._clock() + timeout_s
            told = ""
            while message := self._try(ticket, file):
                if deadline is not None and self._clock() >= deadline:
                    raise LaunchError(
                        f"job {job_id}: {message}; gave up after {timeout_s:g} s",
                        hint="wait for those jobs, cancel one, or choose other devices: train.gpu_ids=[1]",
                    )
                if message != told and on_wait is not None:
                    on_wait(message)
                told = message
                self._sleep(self._poll_s)
            yield wanted

    def holders(self) -> dict[str, list[str]]:
        """Device -> jobs that hold it now on this machine."""
        found: dict[str, list[str]] = {}
        with self._alone():
            for ticket in self._living():
                for device in ticket.devices if ticket.is_held else ():
                    found.setdefault(device, []).append(ticket.job_id)
        return found

    def _draw(self, job_id: str, wanted: tuple[str, ...]) -> tuple[_Ticket, int]:
        me = this_process()
        with self._alone():
            numbers = [int(path.stem) for path in self._folder.glob("*.ticket")]
            ticket = _Ticket(
                number=max(numbers, default=0) + 1,
                job_id=job_id,
                pid=me.pid,
                machine=me.boot or me.host,
                devices=wanted,
                is_held=False,
            )
            with self._explained():
                file = os.open(
                    self._path(ticket.number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _write(file, ticket)
                except BaseException:
                    self._path(ticket.number).unlink()
                    os.close(file)
                    raise
        return ticket, file

    def _try(self, mine: _Ticket, file: int) -> str:
        """Take the devices when nobody is in the way; else who is, as a message."""
        with self._alone():
            others = [ticket for ticket in self._living() if ticket.number != mine.number]
            in_the_way = [
                ticket
                for ticket in others
                if (ticket.is_held or ticket.number < mine.number) and set(ticket.devices) & set(mine.devices)
            ]
            room = cpu_slots(self._environ) if mine.devices == ("cpu",) else 1
            if len(in_the_way) < room:
                with self._explained():
                    _write(file, mine, is_held=True)
                return ""
        holding = sorted({ticket.job_id for ticket in in_the_way if ticket.is_held})
        ahead = sorted({ticket.job_id for ticket in in_the_way if not ticket.is_held})
        parts = [f"held by {', '.join(holding)}"] if holding else []
        parts += [f"{', '.join(ahead)} before it in the queue"] if ahead else []
        return f"waiting for {', '.join(mine.devices)}: {'; '.join(parts)}"

    def _return(self, ticket: _Ticket, file: int) -> None:
        # Removed, not only unlocked: a forked child may still have the file open.
        self._path(ticket.number).unlink(missing_ok=True)
        os.close(file)

    def _living(self) -> list[_Ticket]:
        """Tickets of this machine whose process lives; those of dead processes are removed."""
        me = this_process()
        found = []
        for path in sorted(self._folder.glob("*.ticket")):
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                ticket = _parse(path)
                if ticket is not None and ticket.machine == (me.boot or me.host):
                    found.append(ticket)
            else:
                path.unlink(missing_ok=True)
            finally:
                os.close(file)
        return found

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.ticket"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out for the few file operations of one decision."""
        with self._explained():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except BaseException:
                os.close(file)
                raise
        try:
            yield
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"device slots in {self._folder}: they cannot be kept there ({error.strerror})",
                hint="set SKILLBANK_HOME to a folder on a local disk that you may write",
                key="SKILLBANK_HOME",
            ) from error


def _checked(device: str) -> str:
    kind, _, number = device.partition(":")
    if device == "cpu" or (kind == "cuda" and number.isdigit()):
        return device
    raise InvalidValueError(
        f"device: {device!r} is not allowed; use cpu or cuda:N",
        key="device",
        value=device,
        allowed=["cpu", "cuda:0"],
    )


def _write(file: int, ticket: _Ticket, *, is_held: bool = False) -> None:
    values = {name: getattr(ticket, name) for name in ticket.__dataclass_fields__}
    text = json.dumps({**values, "is_held": is_held}).encode()
    os.ftruncate(file, 0)
    os.pwrite(file, text, 0)


def _parse(path: Path) -> _Ticket | None:
    """The content of a ticket; None for what a process wrote that died, or whose disk was full, halfway."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return _Ticket(**{**values, "devices": tuple(values["devices"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
