"""Rows of the store and the objects they stand for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidValueError
from skillbank.jobs.record import Artifact, Datasets, Job, Request, Transition
from skillbank.jobs.states import State

__all__ = [
    "ARTIFACT_COLUMNS",
    "JOB_COLUMNS",
    "TRANSITION_COLUMNS",
    "artifact",
    "dump",
    "job",
    "parse",
    "request_digest",
    "transition",
]

JOB_COLUMNS = (
    "id, network, action, name, state, message, created_at, updated_at, results_dir, request, "
    "kind, description, tags, workspace_id, experiment_id, base_experiment_id, parent_id, "
    "launcher, backend_ref, idempotency_key, error"
)
TRANSITION_COLUMNS = "job_id, ts, state, message, source"
ARTIFACT_COLUMNS = "job_id, path, kind, bytes, sha256, created_at, epoch, step, metrics"

_STATES = {state.value: state for state in State}


class _StoredRequest(Request):
    """A request that is parsed when one of its fields is read: a list of jobs rarely needs them."""

    __slots__ = ("_text",)
    _text: str

    def __getattr__(self, name: str) -> Any:
        # Only called while the field is unset, so once per object.
        if name not in _REQUEST_FIELDS:
            raise AttributeError(name)
        values = json.loads(self._text)
        values["datasets"] = Datasets(**{**values["datasets"], "train": tuple(values["datasets"]["train"])})
        for field in _REQUEST_FIELDS:
            object.__setattr__(self, field, values[field])
        return values[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and asdict(self) == asdict(other)

    __hash__ = None  # type: ignore[assignment]


_REQUEST_FIELDS = frozenset(field.name for field in fields(Request))


def dump(value: Any, what: str) -> str:
    """Compact strict JSON.

    Raises:
        InvalidValueError: a value that JSON cannot hold, NaN and infinity included.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{what}: cannot be stored ({error}); allowed are texts, finite numbers, booleans, lists and maps"
        ) from error


def parse(text: str) -> Any:
    """The opposite of `dump`."""
    return json.loads(text)


def request_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over the values of a request, the same for the same values in any order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def job(row: Sequence[Any], folders: Path, *, is_duplicate: bool = False) -> Job:
    """The job of a row with `JOB_COLUMNS`; its request is parsed when it is first looked at."""
    request = object.__new__(_StoredRequest)
    object.__setattr__(request, "_text", row[9])
    error = row[20]
    return Job(
        id=row[0],
        network=row[1],
        action=row[2],
        name=row[3],
        state=_STATES[row[4]],
        message=row[5],
        created_at=row[6],
        updated_at=row[7],
        results_dir=row[8],
        request=request,
        kind=row[10],
        description=row[11],
        tags=() if row[12] == "[]" else tuple(json.loads(row[12])),
        workspace_id=row[13],
        experiment_id=row[14],
        base_experiment_id=row[15],
        parent_id=row[16],
        launcher=row[17],
        backend_ref={} if row[18] == "{}" else json.loads(row[18]),
        idempotency_key=row[19],
        error=None if error is None else json.loads(error),
        folder=folders / row[0],
        is_duplicate=is_duplicate,
    )


def transition(row: Sequence[Any]) -> Transition:
    """The entry of a row with `TRANSITION_COLUMNS`."""
    return Transition(job_id=row[0], ts=row[1], state=_STATES[row[2]], message=row[3], source=row[4])


def artifact(row: Sequence[Any]) -> Artifact:
    """The artifact of a row with `ARTIFACT_COLUMNS`."""
    return Artifact(
        job_id=row[0],
        path=row[1],
        kind=row[2],
        bytes=row[3],
        sha256=row[4],
        created_at=row[5],
        epoch=row[6],
        step=row[7],
        metrics=json.loads(row[8]),
    )
