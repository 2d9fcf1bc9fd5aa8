"""Recording a new job: its row, its folder and the files in it, or nothing of it."""

from __future__ import annotations

import re
import secrets
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from skillbank.errors import ConflictError, InvalidValueError, StorageError
from skillbank.jobs import lookup, record_file
from skillbank.jobs.files import write_text
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.states import State

__all__ = ["discard", "earlier", "insert", "new_id"]

_PART_OF_ID = re.compile(r"[a-z0-9][a-z0-9_]*")


def earlier(connection: sqlite3.Connection, folders: Path, values: Mapping[str, Any]) -> Job | None:
    """The job that was created before with the same idempotency key and the same request.

    Raises:
        ConflictError: the key stands for another request.
    """
    key = values["idempotency_key"]
    if key is None:
        return None
    row = connection.execute(
        "SELECT id, request_digest FROM jobs WHERE idempotency_key = ?", (key,)
    ).fetchone()
    if row is None:
        return None
    if row[1] != values["request_digest"]:
        raise ConflictError(
            f"idempotency key {key!r}: job {row[0]} has it for another request",
            hint="use another key for another request, or none",
            key="idempotency_key",
            value=key,
        )
    return replace(lookup.one(connection, folders, row[0]), is_duplicate=True)


def new_id(connection: sqlite3.Connection, folders: Path, network: str, action: str) -> str:
    """An id that neither a row nor a left-over folder has.

    Raises:
        InvalidValueError: network or action cannot be part of a folder name.
    """
    for key, text in (("network", network), ("action", action)):
        if not _PART_OF_ID.fullmatch(text):
            raise InvalidValueError(
                f"{key}: {text!r} is not allowed; use small letters, digits and _", key=key, value=text
            )
    while True:
        job_id = f"{network}-{action}-{secrets.token_hex(3)}"
        taken = connection.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if taken is None and not (folders / job_id).exists():
            return job_id


def insert(
    connection: sqlite3.Connection,
    folders: Path,
    values: Mapping[str, Any],
    request: str,
    *,
    created_at: str,
    encryption_key: str | None,
) -> Job:
    """Record the job inside the open transaction; its folder goes again when something fails.

    Args:
        values: a value per column of the table; empty `name` and `results_dir` get their defaults.
    """
    job_id = values["id"]
    folder = JobFolder(folders / job_id)
    row = {
        **values,
        "name": values["name"] or job_id,
        "results_dir": values["results_dir"] or str(folder.results),
        "state": State.PENDING.value,
        "message": "",
        "created_at": created_at,
        "updated_at": created_at,
    }
    try:
        _make_folder(folder.root)
        names = ", ".join(row)
        places = ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT INTO jobs ({names}) VALUES ({places})", row)  # noqa: S608
        connection.execute("INSERT INTO requests (job_id, text) VALUES (?, ?)", (job_id, request))
        connection.execute(
            "INSERT INTO transitions (job_id, ts, state, message, source) "
            "VALUES (?, ?, 'pending', '', 'sdk')",
            (job_id, created_at),
        )
        if encryption_key:
            write_text(folder.secret, encryption_key)
        record_file.write(connection, job_id, folder.root)
        return lookup.one(connection, folders, job_id)
    except BaseException:
        discard(folder.root)
        raise


def discard(folder: Path) -> None:
    """Remove the folder of a job that was not recorded after all."""
    shutil.rmtree(folder, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(
            f"job folder {folder}: it cannot be created ({error.strerror})",
            hint=f"ls -ld {folder.parent}; df -h {folder.parent}; or set SKILLBANK_HOME elsewhere",
            key="SKILLBANK_HOME",
        ) from error
