"""Moving a job from state to state, inside an open transaction, so that two writers cannot both win."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidTransitionError
from skillbank.jobs import lookup, record_file, rows
from skillbank.jobs.record import Job, Transition
from skillbank.jobs.states import FOLLOWS, State, may_follow

__all__ = ["advance", "of_job"]


def advance(
    connection: sqlite3.Connection,
    job: Job,
    states: Sequence[State],
    *,
    ts: str,
    message: str,
    source: str,
    error: Mapping[str, Any] | None,
) -> bool:
    """Append one entry per state that the job is not in yet; False when there was none to append.

    Args:
        states: passed one after the other; message and error belong to the last.

    Raises:
        InvalidTransitionError: a state may not follow the one before it.
    """
    now = job.state
    for state in states:
        if state is now:
            continue
        if not may_follow(now, state):
            raise _refused(job.id, now, state)
        is_last = state is states[-1]
        connection.execute(
            "INSERT INTO transitions (job_id, ts, state, message, source, error) VALUES (?, ?, ?, ?, ?, ?)",
            (
                job.id,
                ts,
                state.value,
                message if is_last else "",
                source,
                rows.dump(dict(error), "error") if is_last and error is not None else None,
            ),
        )
        now = state
    if now is job.state:
        return False
    record_file.renew(connection, job.id, job.folder)
    return True


def of_job(connection: sqlite3.Connection, folders: Path, job_id: str) -> list[Transition]:
    """All entries of a job, oldest first."""
    lookup.one(connection, folders, job_id)
    query = f"SELECT {rows.TRANSITION_COLUMNS} FROM transitions WHERE job_id = ? ORDER BY seq"  # noqa: S608
    return [rows.transition(row) for row in connection.execute(query, (job_id,))]


def _refused(job_id: str, now: State, then: State) -> InvalidTransitionError:
    if now.is_final:
        return InvalidTransitionError(
            f"job {job_id}: it cannot become {then}; it is {now}, and that is final",
            hint="create a new job",
            key="state",
            value=then.value,
            allowed=[],
        )
    allowed = sorted(state.value for state in FOLLOWS[now])
    return InvalidTransitionError(
        f"job {job_id}: it cannot become {then}; it is {now}, after which comes {', '.join(allowed)}",
        key="state",
        value=then.value,
        allowed=allowed,
    )
