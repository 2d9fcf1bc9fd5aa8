"""Finding jobs in an open connection."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skillbank.errors import JobError, NotFoundError, UsageError
from skillbank.jobs import rows
from skillbank.jobs.processes import ProcessId
from skillbank.jobs.record import Job
from skillbank.jobs.states import State

__all__ = ["creator", "one", "refuse_waited_for", "request", "select", "unsettled"]

_OPEN = ", ".join(f"'{state.value}'" for state in State if not state.is_final)


def select(
    connection: sqlite3.Connection,
    folders: Path,
    load_request: Callable[[str], str],
    where: str,
    **values: Any,
) -> list[Job]:
    """Jobs of a condition; `where` is ours, what users give stands in `values`.

    Args:
        load_request: job id -> text of its request, called when a request is first looked at.
    """
    query = f"SELECT {rows.JOB_COLUMNS} FROM jobs WHERE {where}"  # noqa: S608
    return [rows.job(row, folders, load_request) for row in connection.execute(query, values)]


def unsettled(connection: sqlite3.Connection, folders: Path, load_request: Callable[[str], str]) -> list[Job]:
    """Jobs that are not final; a list of states, not a negation, so that the index serves."""
    return select(connection, folders, load_request, f"state IN ({_OPEN})")


def refuse_waited_for(connection: sqlite3.Connection, job_id: str) -> None:
    """Refuse a job that others wait for.

    Raises:
        JobError: names jobs that have this one as their parent and are not final.
    """
    query = f"SELECT id FROM jobs WHERE parent_id = ? AND state IN ({_OPEN}) ORDER BY seq"  # noqa: S608
    waiting = [row[0] for row in connection.execute(query, (job_id,))]
    if waiting:
        raise JobError(
            f"job {job_id}: {len(waiting)} job(s) still wait for it: {', '.join(waiting[:5])}",
            hint="cancel them first",
            key="job_id",
            value=job_id,
        )


def one(connection: sqlite3.Connection, folders: Path, job_id: str) -> Job:
    """The job of this id, complete.

    Raises:
        UsageError: the id is empty, as from an unset shell variable.
        NotFoundError: no such job; names the nearest ids.
    """
    query = f"SELECT {rows.JOB_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608
    row = connection.execute(query, (job_id,)).fetchone()
    if row is not None:
        text = request(connection, job_id)
        return rows.job(row, folders, lambda _: text)
    if not job_id.strip():
        raise UsageError("job id: it is empty", hint="is the shell variable set that holds the job id?")
    recent = connection.execute("SELECT id FROM jobs ORDER BY seq DESC LIMIT 1000")
    near = difflib.get_close_matches(job_id, [row[0] for row in recent], n=3, cutoff=0.6)
    raise NotFoundError(
        f"job {job_id!r}: there is no such job in {folders.parent}",
        hint=f"did you mean {' or '.join(near)}?" if near else "list the jobs, and check SKILLBANK_HOME",
        key="job_id",
        value=job_id,
        allowed=near,
    )


def request(connection: sqlite3.Connection, job_id: str) -> str:
    """Text of the request of a job.

    Raises:
        NotFoundError: the job was deleted after it was listed.
    """
    row = connection.execute("SELECT text FROM requests WHERE job_id = ?", (job_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"job {job_id!r}: it was deleted meanwhile", key="job_id", value=job_id)
    return str(row[0])


def creator(connection: sqlite3.Connection, job_id: str) -> ProcessId | None:
    """The process that recorded the job."""
    row = connection.execute("SELECT creator FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else ProcessId.from_dict(json.loads(row[0]))
