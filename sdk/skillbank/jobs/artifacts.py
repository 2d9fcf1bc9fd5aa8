"""Files that a job leaves for others: what is noted of them, and how."""

from __future__ import annotations

import hashlib
import logging
import math
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidValueError, NotFoundError, StorageError
from skillbank.jobs import rows
from skillbank.jobs.record import Artifact

__all__ = ["KINDS", "measure", "of_job", "save"]

log = logging.getLogger(__name__)

KINDS = (
    "best_trial",
    "checkpoint",
    "engine",
    "metrics",
    "onnx",
    "predictions",
    "pretrained",
    "report",
)

_INSERT = """
INSERT INTO artifacts (job_id, path, kind, bytes, sha256, created_at, epoch, step, metrics)
VALUES (:job_id, :path, :kind, :bytes, :sha256, :created_at, :epoch, :step, :metrics)
ON CONFLICT (job_id, path) DO UPDATE SET
  kind = excluded.kind, bytes = excluded.bytes, sha256 = excluded.sha256, created_at = excluded.created_at,
  epoch = excluded.epoch, step = excluded.step, metrics = excluded.metrics
"""


def measure(
    job_id: str,
    path: Path,
    *,
    kind: str,
    created_at: str,
    epoch: int | None = None,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Artifact:
    """Describe a file, or a folder of files, with its size and SHA-256.

    The digest of a folder is that of its sorted listing of ``<digest>  <relative path>`` lines. Metric values
    that are not finite are left out: they measure nothing.

    Raises:
        InvalidValueError: unknown kind, or a metric that is no number.
        NotFoundError: the path does not exist.
        StorageError: the file cannot be read.
    """
    if kind not in KINDS:
        raise InvalidValueError(
            f"artifact {path}: kind {kind!r} is not known; use {', '.join(KINDS)}", value=kind, allowed=KINDS
        )
    path = path.absolute()
    try:
        size, sha256 = _folder_digest(path) if path.is_dir() else _file_digest(path)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"artifact {path}: the file does not exist", hint=f"ls -l {path.parent}", value=str(path)
        ) from error
    except OSError as error:
        raise StorageError(
            f"artifact {path}: the file cannot be read ({error.strerror})", hint=f"ls -l {path}"
        ) from error
    values = {name: _number(path, name, value) for name, value in (metrics or {}).items()}
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    if len(finite) < len(values):
        log.warning(
            "artifact %s: metrics that are not finite left out: %s", path, sorted(values.keys() - finite)
        )
    return Artifact(
        job_id=job_id,
        path=str(path),
        kind=kind,
        bytes=size,
        sha256=sha256,
        created_at=created_at,
        epoch=epoch,
        step=step,
        metrics=finite,
    )


def _number(path: Path, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"artifact {path}: metric {name}: {value!r} is no number", key=name, value=value
        ) from error


def save(connection: sqlite3.Connection, artifact: Artifact) -> None:
    """Note an artifact; one of the same job and path is replaced."""
    values = {name: getattr(artifact, name) for name in artifact.__dataclass_fields__}
    connection.execute(_INSERT, {**values, "metrics": rows.dump(artifact.metrics, "metrics")})


def of_job(connection: sqlite3.Connection, job_id: str, kind: str | None) -> list[Artifact]:
    """Artifacts in the order in which they were first noted."""
    found = connection.execute(
        f"SELECT {rows.ARTIFACT_COLUMNS} FROM artifacts "  # noqa: S608
        "WHERE job_id = ? AND (? IS NULL OR kind = ?) ORDER BY seq",
        (job_id, kind, kind),
    )
    return [rows.artifact(row) for row in found]


def _file_digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


def _folder_digest(folder: Path) -> tuple[int, str]:
    total = 0
    listing = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        size, sha256 = _file_digest(path)
        total += size
        listing.update(f"{sha256}  {path.relative_to(folder).as_posix()}\n".encode())
    return total, listing.hexdigest()
