"""What a job inherits: ancestors, their specs and stages, and the model settings that follow the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillbank.errors import ConflictError, JobFailedError, NotFoundError
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.states import State
from skillbank.nested import value_at
from skillbank.resolve.values import flatten, is_set
from skillbank.skill_info import SkillInfo, load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import spec_class

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = [
    "Carried",
    "ancestors",
    "carried_model",
    "find_parent",
    "is_ready",
    "job_spec",
    "stage_of",
    "stage_rank",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Values that come along with a parent's weights.

    Attributes:
        strong: dotted keys that beat defaults and base experiment.
        weak: dotted keys that only fill what nothing else sets.
        notes: where file and parent disagree.
    """

    strong: dict[str, Any]
    weak: dict[str, Any]
    notes: tuple[str, ...]


def find_parent(store: JobStore, parent_id: str, network: str) -> Job:
    """The parent of a new job, fit to be one.

    Raises:
        NotFoundError: no such job.
        JobFailedError: it ended without success, so nothing will ever come of it.
        ConflictError: it belongs to another network.
    """
    parent = store.get(parent_id)
    if parent.network != network:
        raise ConflictError(
            f"parent job {parent.id} belongs to {parent.network}; {network} cannot take anything from it",
            hint=f"skillbank jobs list --network {network}", key="parent_job_id", value=parent.id,
        )  # fmt: skip
    if parent.state in (State.ERROR, State.CANCELED):
        raise failed_parent(parent)
    return parent


def failed_parent(parent: Job) -> JobFailedError:
    """The error for a parent that ended without success, with its own message."""
    cause = (parent.error or {}).get("message") or parent.message
    return JobFailedError(
        f"parent job {parent.id} ended as {parent.state}{f': {cause}' if cause else ''}",
        hint=f"skillbank jobs logs {parent.id}", key="parent_job_id", value=parent.id,
    )  # fmt: skip


def is_ready(job: Job) -> bool:
    """Whether results of a job can be used; one that is still on its way has to be waited for."""
    return job.state is State.DONE


def ancestors(store: JobStore, job: Job) -> Iterator[Job]:
    """The job, its parent, and so on; ends at a job whose parent was deleted."""
    seen: set[str] = set()
    current: Job | None = job
    while current is not None and current.id not in seen:
        yield current
        seen.add(current.id)
        if current.parent_id is None:
            return
        try:
            current = store.get(current.parent_id)
        except NotFoundError:
            log.debug("the parent %s of %s is gone", current.parent_id, current.id)
            return


def job_spec(job: Job) -> dict[str, Any]:
    """The nested spec a job runs with; before its worker has settled it, as it was when created."""
    from skillbank.specs.load import Layer, build_spec, load_yaml

    path = JobFolder(job.folder).spec
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        layers = [
            Layer("file", "the request", job.request.specs),
            Layer("override", "the request", job.request.overrides),
        ]
        return build_spec(job.network, job.action, layers, draft=True).nested()
    loaded = load_yaml(text, str(path))
    return dict(loaded) if isinstance(loaded, Mapping) else {}


def stage_of(info: SkillInfo, nested: Mapping[str, Any]) -> int | None:
    """Position of a spec among the training stages of its network; None for a network without stages."""
    if info.stages is None:
        return None
    value = value_at(nested, info.stages.key)
    return info.stages.values.index(value) if value in info.stages.values else None


def stage_rank(info: SkillInfo, job: Job) -> int | None:
    """The stage of a job."""
    return stage_of(info, job_spec(job))


def carried_model(parent: Job, network: str, action: str, given: Mapping[str, Any], *, by: str) -> Carried:
    """Model settings of a parent for a job that loads its weights.

    They fill what the user did not choose. Places of input files are not carried, except data that this
    action needs too.

    Args:
        given: nested canonical values that the user chose; what a file repeats of the defaults is none.
        by: name of what gave it, for notes.
    """
    from skillbank.specs.load import default_spec

    if parent.network != network:
        return Carried(strong={}, weak={}, notes=())
    found = find_network(network)
    info = load_skill_info(found)
    spec = spec_class(network, action)
    defaults = flatten(default_spec(network, action), spec)
    flat_given = flatten(given, spec)
    places = _input_keys(info)
    strong: dict[str, Any] = {}
    weak: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in flatten({"model": job_spec(parent).get("model") or {}}, spec).items():
        if key in places:
            if key in info.data_sources.get(action, {}) and is_set(value):
                weak[key] = value
            continue
        if key not in defaults:
            continue
        own = flat_given.get(key)
        if own is not None and own != value:
            notes.append(f"{key}: {own!r} of {by} is used, parent job {parent.id} has {value!r}")
            continue
        strong[key] = value
    return Carried(strong=strong, weak=weak, notes=tuple(notes))


def _input_keys(info: SkillInfo) -> set[str]:
    """Keys that name files, in whatever action."""
    declared = {key for action in info.actions.values() for key in action.inputs}
    return declared | {key for params in info.spec_params.values() for key in params}
