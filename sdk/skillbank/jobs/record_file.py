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

__all__ = ["renew", "versions", "write"]

log = logging.getLogger(__name__)

RECORD_VERSION = 1

_PLAIN = (
    "id",
    "network",
    "action",
    "name",
    "kind",
    "description",
    "state",
    "message",
    "created_at",
    "updated_at",
    "results_dir",
    "workspace_id",
    "experiment_id",
    "base_experiment_id",
    "parent_id",
    "launcher",
    "idempotency_key",
    "request_digest",
    "encryption_key_digest",
)
_JSON = ("tags", "text", "backend_ref", "error", "versions")
_NAMES = {"parent_id": "parent_job_id", "text": "request"}
_TRANSITION = ("ts", "state", "message", "source")


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
    columns = (*_PLAIN, *_JSON)
    query = f"SELECT {', '.join(columns)} FROM jobs JOIN requests ON job_id = id WHERE id = ?"  # noqa: S608
    row = connection.execute(query, (job_id,)).fetchone()
    record: dict[str, Any] = {"schema_version": RECORD_VERSION, "redacted": True}
    for column, value in zip(columns, row, strict=True):
        is_text = column in _PLAIN or value is None
        record[_NAMES.get(column, column)] = value if is_text else json.loads(value)
    query = f"SELECT {', '.join(_TRANSITION)} FROM transitions WHERE job_id = ? ORDER BY seq"  # noqa: S608
    entries = connection.execute(query, (job_id,))
    record["transitions"] = [dict(zip(_TRANSITION, entry, strict=True)) for entry in entries]
    return record
