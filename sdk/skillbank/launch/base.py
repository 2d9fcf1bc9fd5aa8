"""What a launcher does; local, debug and later slurm, kubernetes and docker stand behind this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from skillbank.jobs.states import State

__all__ = ["Bundle", "Launcher", "Report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A job ready to be started: everything a backend needs.

    Attributes:
        folder: the job's folder, see `skillbank.jobs.record.JobFolder`.
        argv: command of the worker; no shell is involved.
        env: variables to set on top of those of the caller; may hold secrets, so it is never shown or stored.
        gpus: GPUs per node, `gpu_ids` those asked for; empty = none asked for.
        nodes: number of nodes.
    """

    job_id: str
    folder: Path
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict, repr=False)
    gpus: int = 1
    gpu_ids: tuple[int, ...] = ()
    nodes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a backend says of a job; `state` is `unknown` when it cannot tell."""

    state: State
    message: str = ""
    exit_code: int | None = None


class Launcher(Protocol):
    """The verbs of a backend. All raise `LaunchError` when the backend refuses."""

    name: str

    def submit(self, bundle: Bundle) -> dict[str, Any]:
        """Start the job and return the backend's own reference to it, JSON-ready."""

    def status(self, ref: dict[str, Any]) -> Report:
        """Ask the backend; never guesses: a process that is gone without exit record is an `error`."""

    def logs(self, ref: dict[str, Any], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """Lines of the job's log, the last `tail` first when given; `follow` ends with the job."""

    def cancel(self, ref: dict[str, Any], *, grace_s: float = 10.0) -> None:
        """Ask the job to stop, and end it after the grace time. Nothing happens to a job that has ended."""

    def devices(self) -> dict[str, Any]:
        """What jobs may be given here: ``{"nodes": n, "gpus_per_node": n, ...}``."""
