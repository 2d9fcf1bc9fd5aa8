"""``job.json``: the record of a job, readable without the store and renewed with each change of the job."""

from __future__ import annotations

import json
import logging
import platform
import sqlite3
from pathlib import Path
from typing import Any

from skillbank._version import __version__
from skillbank.errors import StorageError
from skillbank.jobs.files import write_json
from skillbank.jobs.record import JobFolder

__all__ = ["RECORD_VERSION", "renew", "versions", "write"]

log = logging.getLogger(__name__)

RECORD_VERSION = 1

_PLAIN = (
    "id, network, action, name, kind, description, state, message, created_at, updated_at, results_dir, "
    "workspace_id, experiment_id, base_experiment_id, parent_id, launcher, idempotency_key, request_digest, "
    "encryption_key_digest"
)
_JSON = "tags, request, backend_ref, error, versions"


def versions() -> dict[str, str]:
    """What the job was created with."""
    return {
        "skillbank": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def write(connection: sqlite3.Connection, job_id: str, folder: Path) -> None:
    """Write the record as the open transaction sees it.

    Raises:
        StorageError: the folder is missing or not writable, or the disk is full.
    """
    write_json(JobFolder(folder).record, _record(connection, job_id))


def renew(connection: sqlite3.Connection, job_id: str, folder: Path) -> None:
    """`write` for a job that exists already: the store is the truth, so a failure is only logged."""
    try:
        write(connection, job_id, folder)
    except StorageError as error:
        log.warning("job %s: its job.json is behind the store: %s", job_id, error.message)


def _record(connection: sqlite3.Connection, job_id: str) -> dict[str, Any]:
    plain = [name.strip() for name in _PLAIN.split(",")]
    parsed = [name.strip() for name in _JSON.split(",")]
    row = connection.execute(f"SELECT {_PLAIN}, {_JSON} FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
    record: dict[str, Any] = {"schema_version": RECORD_VERSION, "redacted": True}
    record.update(zip(plain, row, strict=False))
    record["parent_job_id"] = record.pop("parent_id")
    for name, text in zip(parsed, row[len(plain) :], strict=True):
        record[name] = None if text is None else json.loads(text)
    found = connection.execute(
        "SELECT ts, state, message, source FROM transitions WHERE job_id = ? ORDER BY seq", (job_id,)
    )
    record["transitions"] = [
        dict(zip(("ts", "state", "message", "source"), entry, strict=True)) for entry in found
    ]
    return record
