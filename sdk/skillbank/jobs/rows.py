"""Rows of the store and the objects they stand for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
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
    "request_digest",
    "transition",
]

JOB_COLUMNS = (
    "id, network, action, name, state, message, created_at, updated_at, results_dir, kind, "
    "description, tags, workspace_id, experiment_id, base_experiment_id, parent_id, launcher, "
    "backend_ref, idempotency_key, error"
)
TRANSITION_COLUMNS = "job_id, ts, state, message, source"
ARTIFACT_COLUMNS = "job_id, path, kind, bytes, sha256, created_at, epoch, step, metrics"

_set = object.__setattr__


class _StoredJob(Job):
    """A job whose fields are made from its row when they are read: a list of thousands needs few of them."""

    __slots__ = ("_folders", "_load_request", "_row")
    _row: Sequence[Any]
    _folders: Path
    _load_request: Callable[[str], str]

    def __getattr__(self, name: str) -> Any:
        # Only called while a field is unset, so once per field and object.
        index = _COLUMN.get(name)
        value: Any
        if index is not None:
            value = self._row[index]
            convert = _CONVERT.get(name)
            value = value if convert is None else convert(value)
        elif name == "folder":
            value = self._folders / self.id
        elif name == "request":
            value = _request(json.loads(self._load_request(self.id)))
        elif name == "is_duplicate":
            value = False
        else:
            raise AttributeError(name)
        object.__setattr__(self, name, value)
        return value


_COLUMN = {name: index for index, name in enumerate(JOB_COLUMNS.split(", "))}
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "state": State,
    "tags": lambda text: tuple(json.loads(text)),
    "backend_ref": json.loads,
    "error": lambda text: None if text is None else json.loads(text),
}


def _request(values: dict[str, Any]) -> Request:
    datasets = values["datasets"]
    return Request(**{**values, "datasets": Datasets(**{**datasets, "train": tuple(datasets["train"])})})


def dump(value: Any, what: str) -> str:
    """Compact strict JSON.

    Raises:
        InvalidValueError: a value that JSON cannot hold: NaN, infinity, text that is no Unicode.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
        return text
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{what}: cannot be stored ({error}); allowed are texts, finite numbers, booleans, lists and maps"
        ) from error


def request_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over the values of a request, the same for the same values in any order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def job(row: Sequence[Any], folders: Path, load_request: Callable[[str], str]) -> Job:
    """The job of a row with `JOB_COLUMNS`.

    Args:
        row: values in the order of the columns.
        folders: folder of all job folders.
        load_request: job id -> text of its request; called when the request is first looked at.
    """
    found = object.__new__(_StoredJob)
    _set(found, "_row", row)
    _set(found, "_folders", folders)
    _set(found, "_load_request", load_request)
    return found


def transition(row: Sequence[Any]) -> Transition:
    """The entry of a row with `TRANSITION_COLUMNS`."""
    return Transition(job_id=row[0], ts=row[1], state=State(row[2]), message=row[3], source=row[4])


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
