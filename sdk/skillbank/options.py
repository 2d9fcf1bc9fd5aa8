"""Everything that may be said of a new job, and the check of what needs no spec to be seen as wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from skillbank.errors import UsageError
from skillbank.jobs.record import Datasets
from skillbank.launch.base import Launcher
from skillbank.resolve.checkpoints import parse_method

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["JobOptions", "check_options"]

KINDS = ("experiment", "dataset")
_IDS = (
    "parent_job_id",
    "base_experiment_id",
    "workspace_id",
    "experiment_id",
    "idempotency_key",
    "encryption_key",
    "checkpoint",
    "name",
    "launcher",
    "automl_policy",
    "trial_of",
)


class JobOptions(TypedDict, total=False):
    """Everything that may be said of a new job; all of it is optional.

    specs: nested spec as a map, ``@file``, a path, or JSON or YAML text.
    overrides: ``key=value`` items, or a map of dotted keys; stronger than everything else.
    datasets: roots of the datasets; without any the spec is the source.
    parent_job_id: job whose results are used; it may still run.
    base_experiment_id: starting point of the network's list.
    checkpoint: which of the parent's checkpoints: ``best`` (default), ``latest`` or ``epoch:N``.
    automl_policy: ``auto``, ``on`` or ``off``; None lets `request_text` decide, else auto.
    automl_settings: settings of a search, by name.
    request_text: the user's words, searched for phrases such as "no HPO".
    name, kind, description, tags: for people; kind is ``experiment`` or ``dataset``.
    workspace_id, experiment_id: names that group jobs; remembered on first use.
    encryption_key: text or ``@file``, default the variable SKILLBANK_ENCRYPTION_KEY; in no record.
    idempotency_key: the same key and request again give the first job.
    launcher: name or object.
    env: variables of the job; those with a secret's name are handed on but not stored.
    keep_results_dir: results go where the spec says instead of to a folder of the job.
    trial_of: id of the search whose trial the job is.
    store: default the store in `skillbank.bank.home()`.
    check_data: look every data file up before anything starts.
    """

    specs: str | Path | Mapping[str, Any] | None
    overrides: Sequence[str] | Mapping[str, Any]
    datasets: Datasets | None
    parent_job_id: str | None
    base_experiment_id: str | None
    checkpoint: str
    automl_policy: str | None
    automl_settings: Mapping[str, Any] | None
    request_text: str | None
    name: str | None
    kind: str
    description: str
    tags: Sequence[str]
    workspace_id: str | None
    experiment_id: str | None
    encryption_key: str | None
    idempotency_key: str | None
    launcher: str | Launcher
    env: Mapping[str, str] | None
    keep_results_dir: bool
    trial_of: str | None
    store: JobStore | None
    check_data: bool


def check_options(options: JobOptions) -> None:
    """Refuse empty texts, which are unset variables of a script, and values that no option takes.

    Raises:
        UsageError: the first that is found.
    """
    datasets = options.get("datasets") or Datasets()
    for name in (*_IDS, "dataset_format"):
        value = datasets.format if name == "dataset_format" else options.get(name)
        if isinstance(value, str) and not value.strip():
            raise UsageError(
                f"{name}: an empty text is no value; is a variable in the command unset?",
                hint=f"leave --{name.replace('_', '-')} out, or give it a value",
                key=name,
                value="",
            )
    kind = options.get("kind", "experiment")
    if kind not in KINDS:
        raise UsageError(
            f"kind: {kind!r} is not allowed; use {' or '.join(KINDS)}",
            hint="--kind experiment",
            key="kind",
            value=kind,
            allowed=KINDS,
        )
    parse_method(options.get("checkpoint") or "best")
    _check_env(options.get("env") or {})


def _check_env(env: Mapping[str, str]) -> None:
    """Refuse what no process can have in its environment."""
    for name, value in env.items():
        texts = isinstance(name, str) and isinstance(value, str)
        if not texts or not name or "=" in name or "\0" in name + value:
            raise UsageError(
                f"env: {name!r} cannot be set; a name has no = and no NUL, its value is a text without NUL",
                hint="--env NAME=VALUE",
                key="env",
                value=str(name),
            )
