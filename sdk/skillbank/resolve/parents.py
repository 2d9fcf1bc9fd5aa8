"""Values that come from a parent job, a base experiment or an earlier run in the same folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import ConflictError, NotFoundError
from skillbank.jobs.record import Job
from skillbank.nested import value_at
from skillbank.resolve.checkpoints import Choice, choose_checkpoint
from skillbank.resolve.lineage import ancestors, is_ready, job_spec, stage_of, stage_rank
from skillbank.resolve.values import is_set
from skillbank.skill_info import SkillInfo
from skillbank.specs.base import BaseExperiment, Network
from skillbank.storage.uri import is_remote

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = [
    "Filled",
    "Scope",
    "accepts",
    "from_base_experiment",
    "from_parent",
    "from_stage",
    "latest_link",
    "produces",
    "stand_in",
    "wrong_parent",
]

# What an action leaves for others when its skill does not say.
_PRODUCES = {
    "train": (".pth",),
    "distill": (".pth",),
    "prune": (".pth",),
    "quantize": (".pth",),
    "export": (".onnx",),
    "gen_trt_engine": (".engine",),
}
_GRAPHS = (".onnx", ".engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a function may look at.

    Attributes:
        spec: nested canonical spec of the new job as far as it is known, defaults included.
        results_dir: results folder or URI of the new job.
        method: how to choose among checkpoints.
    """

    store: JobStore | None
    network: Network
    info: SkillInfo
    action: str
    spec: Mapping[str, Any]
    results_dir: str
    parent: Job | None = None
    base_experiment: BaseExperiment | None = None
    method: str = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A value with its provenance.

    Attributes:
        kind: ``parent``, ``base-experiment`` or ``output``.
        strong: beats a value of the spec file.
        deferred: what will fill it, when `value` is only a stand-in.
    """

    value: Any
    kind: str
    detail: str
    strong: bool = False
    deferred: str = ""
    notes: tuple[str, ...] = field(default=())


def accepts(info: SkillInfo, action: str, key: str) -> tuple[str, ...]:
    """File endings that fit a key: engines and graphs by the key's name, else the action's own weights."""
    leaf = key.rpartition(".")[2]
    declared = info.actions[action].accepts if action in info.actions else []
    if "engine" in leaf:
        return tuple(ending for ending in declared if ending in _GRAPHS) or (".engine",)
    if "onnx" in leaf:
        return (".onnx",)
    return tuple(ending for ending in declared if ending not in _GRAPHS) or (".pth",)


def produces(info: SkillInfo, job: Job) -> tuple[str, ...]:
    """File endings of what a job leaves for others."""
    declared = info.actions[job.action].produces if job.action in info.actions else []
    return tuple(declared) or _PRODUCES.get(job.action, ())


def from_parent(scope: Scope, key: str) -> Filled | None:
    """A file of the parent that fits the key; None when there is no parent or its action leaves no such file.

    Raises:
        NotFoundError: the parent should have one but has none.
        ConflictError: the parent belongs to an earlier stage than the job asks for.
    """
    parent, store = scope.parent, scope.store
    if parent is None or store is None:
        return None
    left = set(produces(scope.info, parent))
    wanted = accepts(scope.info, scope.action, key)
    if ".pth" in left:
        # a job that leaves weights or a graph is taken for its weights; a graph of it is named by hand
        wanted = tuple(ending for ending in wanted if ending != ".onnx" or "onnx" in key)
    wanted = tuple(ending for ending in wanted if ending in left)
    if not wanted:
        return None
    _check_stage(scope, parent, key)
    return from_job(store, parent, wanted, scope.method)


def from_job(store: JobStore, job: Job, wanted: tuple[str, ...], method: str, *, why: str = "") -> Filled:
    """A file of a job, or the promise of one while the job has not finished."""
    if not is_ready(job):
        # With the right ending, so that relations between keys can be checked now already.
        return Filled(
            value=f"job:{job.id}/checkpoint{wanted[0]}",
            kind="parent",
            detail=f"{why}job {job.id}, {method}",
            strong=True,
            deferred=f"<from job {job.id} when it is done>",
        )
    choice = choose_checkpoint(store, job, accepts=wanted, method=method)
    return _chosen(choice, why)


def from_base_experiment(scope: Scope, key: str) -> Filled | None:
    """Weights of the base experiment; None when it has none or decides the key itself."""
    base = scope.base_experiment
    if base is None or not base.weights or key in base.specs:
        return None
    return Filled(value=base.weights, kind="base-experiment", detail=f"weights of {base.id}")


def from_stage(scope: Scope, key: str) -> Filled | None:
    """Weights for one stage of a training that builds on others.

    The nearest job of that stage among parent and ancestors gives them. When no job trained a stage, the
    value that the parent itself started from is taken over.
    """
    stages, parent, store = scope.info.stages, scope.parent, scope.store
    now = stage_of(scope.info, scope.spec)
    if stages is None or now is None:
        return None
    wanted = stages.weights.index(key)
    if wanted > now:
        return None
    if parent is not None and store is not None:
        name = f"{stages.key}={_plain(stages.values[wanted])}"
        line = [job for job in ancestors(store, parent) if job.action == "train"]
        for job in line:
            if stage_rank(scope.info, job) == wanted:
                endings = accepts(scope.info, scope.action, key)
                # What was asked for, such as an epoch, concerns the parent that was named.
                method = scope.method if job.id == parent.id else "best"
                return from_job(store, job, endings, method, why=f"nearest job with {name}: ")
        for job in line:
            inherited = value_at(job_spec(job), key)
            if is_set(inherited):
                detail = f"as in job {job.id}, no job with {name} among its ancestors"
                return Filled(value=inherited, kind="parent", detail=detail)
    return from_base_experiment(scope, key)


def latest_link(scope: Scope) -> Filled | None:
    """The checkpoint that the network's link to the newest one points to, in this job's own results."""
    if is_remote(scope.results_dir):
        return None
    own = value_at(scope.spec, f"{scope.action}.results_dir")
    folder = Path(str(own)) if is_set(own) else Path(scope.results_dir.removeprefix("file://"), scope.action)
    link = folder / scope.network.latest_link(scope.spec)
    try:
        target = link.resolve(strict=True)
    except OSError:
        return None
    return Filled(value=str(target), kind="output", detail=f"{link} of an earlier run")


def _check_stage(scope: Scope, parent: Job, key: str) -> None:
    """Refuse weights of an earlier stage where a later one is asked for."""
    stages = scope.info.stages
    now = stage_of(scope.info, scope.spec)
    theirs = stage_rank(scope.info, parent) if parent.action == "train" else None
    if stages is None or now is None or theirs is None or theirs >= now:
        return
    raise ConflictError(
        f"{stages.key}: {_plain(stages.values[now])} does not fit parent job {parent.id}, which was trained "
        f"with {_plain(stages.values[theirs])} and has no weights of that stage for {key}",
        hint=f"{stages.key}={_plain(stages.values[theirs])}, or name a later job with --parent-job-id",
        key=stages.key,
        value=stages.values[now],
        allowed=[stages.values[theirs]],
    )


def _chosen(choice: Choice, why: str) -> Filled:
    return Filled(
        value=choice.path, kind="parent", detail=f"{why}{choice.describe()}", strong=True, notes=choice.notes
    )


def stand_in(scope: Scope, key: str) -> str:
    """A value that passes the check of the spec where the real one could not be had."""
    return f"job:none/checkpoint{accepts(scope.info, scope.action, key)[0]}"


def wrong_parent(scope: Scope, key: str) -> NotFoundError:
    """The error for a key that the parent's action can never fill."""
    parent = scope.parent
    assert parent is not None
    leaves = ", ".join(produces(scope.info, parent)) or "no weights"
    wanted = ", ".join(accepts(scope.info, scope.action, key))
    return NotFoundError(
        f"{key}: parent job {parent.id} is {parent.action}, which leaves {leaves}; "
        f"needed is a file ending in {wanted}",
        hint=f"name a job that leaves one with --parent-job-id, or set {key}=PATH",
        key=key,
        value=parent.id,
    )


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
