"""Creating a job: checked first, recorded second, started last."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Unpack

from skillbank.errors import JobError, LaunchError, SkillBankError
from skillbank.jobs.files import write_json, write_text
from skillbank.jobs.record import Job, JobFolder, timestamp
from skillbank.jobs.states import State
from skillbank.options import JobOptions
from skillbank.plan import NEW, Plan, find_base_experiment, plan_job, worker_command
from skillbank.resolve.layers import Resolution, resolve
from skillbank.resolve.lineage import failed_parent, is_ready
from skillbank.runtime import require_runtime
from skillbank.specs import network as find_network
from skillbank.specs.load import ResolvedSpec, to_yaml
from skillbank.storage.uri import is_remote

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["create_job", "finalize"]

log = logging.getLogger(__name__)


def create_job(network: str, action: str, *, dry_run: bool = False, **options: Unpack[JobOptions]) -> Job:
    """Check, record and start a job; `skillbank.options.JobOptions` lists all options.

    Values come from, weakest first: defaults, base experiment, spec file, datasets and parent job, overrides.
    A parent may still run: the job then waits for it, and takes its checkpoint when it is done. A train
    request goes to AutoML unless the policy, or the words of the request, turn it off; the job is then the
    search.

    Args:
        network: such as ``mask2former``.
        action: such as ``train``.
        dry_run: check everything and give back what the job would be; nothing is recorded.

    Returns:
        The job, started. With an idempotency key that was used before: the earlier job, `is_duplicate`.

    Raises:
        UsageError: an empty or contradictory option.
        SpecError: all problems of spec, datasets and overrides at once.
        MissingFilesError: with `check_data`, all data files that are not there.
        NotFoundError: no such network, action, parent or base experiment, or nothing usable in the parent.
        JobFailedError: the parent ended without success.
        NotInThisVersionError: the network's implementation is not there; nothing was recorded.
        RuntimeMissingError: PyTorch or another part is not installed; nothing was recorded.
        LaunchError: the launcher refused; the job is recorded as failed.
    """
    plan = plan_job(network, action, **options)
    if plan.shortage is not None and not dry_run:
        raise plan.shortage
    for note in plan.notes:
        log.warning("%s", note)
    if dry_run:
        return _unrecorded(plan, options)
    if plan.launcher.name in ("local", "debug"):
        require_runtime(find_network(network), route=plan.decision.route, action=action)
    job = plan.store.create(
        plan.request,
        **_labels(plan, options),
        idempotency_key=options.get("idempotency_key"),
        results_dir=plan.results_dir,
        encryption_key=plan.encryption_key.reveal() if plan.encryption_key else None,
    )
    return job if job.is_duplicate else _start(plan, job)


def finalize(store: JobStore, job: Job) -> ResolvedSpec:
    """The complete spec of a job, written to its folder; called by the worker once the parent is done.

    Raises:
        JobFailedError: the parent ended without success.
        JobError: the parent has not ended.
        SpecError: something is still missing, or the parent's results contradict the spec.
        NotFoundError: the parent has nothing usable.
    """
    from skillbank.storage import Storage

    parent = store.get(job.parent_id) if job.parent_id is not None else None
    if parent is not None and not is_ready(parent):
        if parent.state.is_final:
            raise failed_parent(parent)
        raise JobError(
            f"job {job.id} cannot start: its parent {parent.id} is {parent.state}",
            hint=f"skillbank jobs wait {parent.id}",
            key="parent_job_id",
            value=parent.id,
        )
    storage = Storage()

    def exists(place: str) -> bool:
        try:
            return storage.exists(place)
        except SkillBankError as err:
            # Left to the transfer that follows, which tells the cause.
            log.warning("%s", err.message)
            return True

    resolution = _resolved(store, job, parent, exists)
    for note in resolution.spec.notes:
        log.warning("%s", note)
    _write(job, resolution)
    return resolution.spec


def _resolved(
    store: JobStore, job: Job, parent: Job | None, exists: Callable[[str], bool] | None = None
) -> Resolution:
    return resolve(
        job.request,
        store=store,
        parent=parent,
        base_experiment=find_base_experiment(find_network(job.network), job.base_experiment_id),
        results_dir=str(JobFolder(job.folder).results) if is_remote(job.results_dir) else job.results_dir,
        exists=exists,
    )


def _start(plan: Plan, job: Job) -> Job:
    """Hand a recorded job to its launcher; one that cannot be started is recorded as failed."""
    store = plan.store
    try:
        _write(job, _resolved(store, job, plan.parent))
        bundle = replace(plan.bundle, job_id=job.id, folder=job.folder, argv=worker_command(job.folder))
        reference = plan.launcher.submit(bundle)
        if reference and not store.get(job.id).backend_ref:
            store.set_backend(job.id, reference)
    except BaseException as err:
        _record_failure(store, job, err)
        raise
    return store.get(job.id)


def _record_failure(store: JobStore, job: Job, err: BaseException) -> None:
    """A job that was not started is over, whatever the reason; one that runs already speaks for itself."""
    now = store.get(job.id)
    if not isinstance(err, SkillBankError):
        if now.backend_ref:
            return
        err = LaunchError(f"job {job.id} was not started: {type(err).__name__} {err}".rstrip())
    if not now.state.is_final:
        store.transition(job.id, State.ERROR, err.message, source="launcher", error=err.to_dict())


def _write(job: Job, resolution: Resolution) -> None:
    """Write spec and origins of a job; what a parent still has to fill is left empty."""
    folder = JobFolder(job.folder)
    origins: dict[str, Any] = {key: asdict(origin) for key, origin in resolution.spec.origins.items()}
    for key, words in resolution.deferred.items():
        origins[key]["deferred"] = words
    write_text(folder.spec, to_yaml(resolution.nested()))
    write_json(folder.origins, origins)


def _unrecorded(plan: Plan, options: JobOptions) -> Job:
    """What `create_job` would have recorded, with a placeholder for the id."""
    request, labels = plan.request, _labels(plan, options)
    now = timestamp(datetime.now(UTC))
    return Job(
        id=NEW,
        network=request.network,
        action=request.action,
        state=State.PENDING,
        message="dry run: nothing was recorded",
        created_at=now,
        updated_at=now,
        folder=plan.bundle.folder,
        results_dir=plan.results_dir or str(plan.bundle.folder / "results"),
        request=request,
        **{**labels, "name": labels["name"] or NEW},
    )


def _labels(plan: Plan, options: JobOptions) -> dict[str, Any]:
    """What is recorded of a job beside its request."""
    tags = options.get("tags") or ()
    return {
        "name": options.get("name") or "",
        "kind": options.get("kind", "experiment"),
        "description": options.get("description") or "",
        "tags": (tags,) if isinstance(tags, str) else tuple(tags),
        "workspace_id": options.get("workspace_id"),
        "experiment_id": options.get("experiment_id"),
        "base_experiment_id": plan.base_experiment.id if plan.base_experiment else None,
        "parent_id": plan.parent.id if plan.parent else None,
        "launcher": plan.launcher.name,
    }
