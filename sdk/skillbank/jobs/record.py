"""What is kept of a job, and the files of its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skillbank.jobs.states import State

__all__ = ["Artifact", "Datasets", "Job", "JobFolder", "Request", "Transition", "timestamp"]


def timestamp(now: datetime) -> str:
    """The one form of time in records and status events: RFC 3339 in UTC, microseconds, ``Z``."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """Dataset roots of a request: plain paths or URIs.

    Attributes:
        train: one or more training datasets.
        convert: dataset that `dataset_convert` works on.
    """

    train: tuple[str, ...] = ()
    eval: str | None = None
    inference: str | None = None
    calibration: str | None = None
    convert: str | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        train: Any = self.train
        if isinstance(train, str):  # else each of its letters would count as a dataset
            object.__setattr__(self, "train", (train,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for; enough to resolve the spec again once the parent has finished. Holds no secret.

    Attributes:
        specs: nested spec as given (file or text), before defaults.
        overrides: dotted key -> value, as given on the command line; stronger than everything else.
        checkpoint: ``best``, ``latest`` or ``epoch:N``, for choosing among the parent's checkpoints.
        policy: decision record of the AutoML policy; for a search also its `settings`.
        devices: spec key -> value, where the job was given other devices than its spec says.
        keep_results_dir: the spec's own ``results_dir`` is used instead of a folder of this job.
    """

    network: str
    action: str
    specs: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    datasets: Datasets = Datasets()
    checkpoint: str = "best"
    policy: dict[str, Any] = field(default_factory=dict)
    devices: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    keep_results_dir: bool = False
    spec_source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the store; times are RFC 3339 in UTC.

    Attributes:
        results_dir: folder or URI of this job's results.
        folder: local folder of the job's own files (`JobFolder`).
        launcher: name of the launcher, and its own reference to the job (process id, ...).
        error: `code`, `message`, `hint` of a failed job.
        is_duplicate: this answer is an earlier job that has the same idempotency key.
    """

    id: str
    network: str
    action: str
    name: str
    state: State
    message: str
    created_at: str
    updated_at: str
    folder: Path
    results_dir: str
    request: Request
    kind: str = "experiment"
    description: str = ""
    tags: tuple[str, ...] = ()
    workspace_id: str | None = None
    experiment_id: str | None = None
    base_experiment_id: str | None = None
    parent_id: str | None = None
    launcher: str = "local"
    backend_ref: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    error: dict[str, Any] | None = None
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One entry of a job's history; entries are only ever appended.

    Attributes:
        source: who said so: ``sdk``, ``worker``, ``launcher`` or ``reconcile``.
    """

    job_id: str
    ts: str
    state: State
    message: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that a job left and that others may use.

    Attributes:
        kind: one of `skillbank.jobs.artifacts.KINDS`, such as ``checkpoint`` or ``onnx``.
        epoch: 0-based number of the finished epoch; None where it does not apply.
        metrics: metric values measured with these weights.
        bytes: size; the digest is the SHA-256 of the content.
    """

    job_id: str
    path: str
    kind: str
    bytes: int
    sha256: str
    created_at: str
    epoch: int | None = None
    step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The files of one job, each by name; nothing else knows where they are."""

    root: Path

    @property
    def spec(self) -> Path:
        """The resolved spec the worker ran with."""
        return self.root / "spec.yaml"

    @property
    def origins(self) -> Path:
        """Where every value of the resolved spec came from."""
        return self.root / "origins.json"

    @property
    def record(self) -> Path:
        """A readable copy of the record: argv, versions, digests. Written before launch."""
        return self.root / "job.json"

    @property
    def log(self) -> Path:
        """Everything the worker printed."""
        return self.root / "log.txt"

    @property
    def exit(self) -> Path:
        """Exit record of the worker: code and time."""
        return self.root / "exit.json"

    @property
    def launch(self) -> Path:
        """Launch record: processes and command of the worker; there before the worker runs."""
        return self.root / "launch.json"

    @property
    def lock(self) -> Path:
        """Kept locked by the worker and its supervisor while one of them lives."""
        return self.root / ".lock"

    @property
    def secret(self) -> Path:
        """The encryption key, mode 0600, removed when the job ends."""
        return self.root / ".key"

    @property
    def results(self) -> Path:
        """Default results folder of the job."""
        return self.root / "results"
