"""What a job would be: request, checked spec, route and devices, worked out before anything is recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from skillbank.automl.policy import Decision, decide
from skillbank.automl.settings import read_settings
from skillbank.encryption_key import EncryptionKey, read_key
from skillbank.errors import InvalidValueError, NotFoundError, SpecError
from skillbank.jobs.record import Datasets, Job, Request
from skillbank.jobs.redact import without_secrets
from skillbank.launch.base import Bundle, Launcher
from skillbank.nested import nest, value_at
from skillbank.options import JobOptions, check_options
from skillbank.resolve.datasets import check_data
from skillbank.resolve.devices import Devices, check_fit, device_keys, reconcile
from skillbank.resolve.layers import Resolution, resolve
from skillbank.resolve.lineage import find_parent
from skillbank.resolve.places import absolute_datasets, absolute_places
from skillbank.resolve.values import flatten, is_set
from skillbank.skill_info import load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import spec_class
from skillbank.specs.base import BaseExperiment, Network
from skillbank.specs.load import ResolvedSpec, canonical, chosen, parse_overrides, read_spec
from skillbank.storage.uri import is_remote, parse

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["Plan", "find_base_experiment", "plan_job", "run_in_process", "worker_command"]

# Stands for the id of a job that is not recorded yet.
NEW = "JOB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job before it is recorded.

    Attributes:
        resolution: the spec and what is open in it.
        decision: which way a train request goes.
        bundle: what a launcher would get, for a job called ``JOB``.
        results_dir: folder or URI that was asked for; None = a folder of the job.
        encryption_key: goes to the job's folder only.
        shortage: why the launcher cannot give the devices; a plan may be made for a larger machine.
    """

    request: Request
    resolution: Resolution
    decision: Decision
    bundle: Bundle
    launcher: Launcher
    store: JobStore
    parent: Job | None = None
    base_experiment: BaseExperiment | None = None
    results_dir: str | None = None
    encryption_key: EncryptionKey | None = None
    shortage: SpecError | None = None

    @property
    def spec(self) -> ResolvedSpec:
        """The checked spec; keys of `deferred` hold a stand-in."""
        return self.resolution.spec

    @property
    def deferred(self) -> dict[str, str]:
        """Key -> what will fill it when the parent is done."""
        return self.resolution.deferred

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        return self.resolution.spec.notes


def plan_job(network: str, action: str, **options: Unpack[JobOptions]) -> Plan:
    """Work out a job without recording or starting it, see `JobOptions`.

    Raises:
        SkillBankError: as `create_job` does, but PyTorch, an implementation and devices need not be there.
    """
    found = find_network(network)
    spec_class(network, action)
    check_options(options)
    store = options.get("store") or _default_store()
    asked = _read(network, action, options, Path.cwd())
    key = read_key(options.get("encryption_key"), asked.key)
    parent_id = options.get("parent_job_id")
    parent = find_parent(store, parent_id, network) if parent_id is not None else None
    base = find_base_experiment(found, options.get("base_experiment_id"))
    launcher = find_launcher(options.get("launcher") or "local", store)
    decision = decide(network, action, policy=options.get("automl_policy"), text=options.get("request_text"))
    request = replace(asked.request, policy=_policy(decision, options))
    results = _results_dir(request)
    folder = store.folders / NEW
    local = str(folder / "results") if results is None or is_remote(results) else results
    settings = options.get("automl_settings")

    def settled(request: Request) -> Resolution:
        return resolve(request, store=store, parent=parent, base_experiment=base, results_dir=local)

    resolution = settled(request)
    devices, changed, shortage = _devices(request, resolution, launcher)
    if changed:
        request = replace(request, devices=changed)
        resolution = settled(request)
    if settings and decision.route == "automl":
        _check_search(network, resolution, settings)
    if options.get("check_data"):
        from skillbank.storage import Storage

        check_data(resolution.expected, Storage())
    told = [decision.notice] if decision.notice else []
    if settings and decision.route != "automl":
        told.append(f"automl_settings: not used, since there is no search: {decision.reason}")
    notes = (*asked.notes, *devices.notes, *told)
    bundle = Bundle(
        job_id=NEW,
        folder=folder,
        argv=worker_command(folder),
        env={**request.env, **asked.secret_env},
        gpus=devices.gpus,
        gpu_ids=devices.ids,
        nodes=devices.nodes,
    )
    return Plan(
        request=request,
        resolution=resolution.with_notes(notes),
        decision=decision,
        bundle=bundle,
        launcher=launcher,
        store=store,
        parent=parent,
        base_experiment=base,
        results_dir=results,
        encryption_key=key,
        shortage=shortage,
    )


def worker_command(folder: Path) -> tuple[str, ...]:
    """The command that runs the job of a folder."""
    return (sys.executable, "-m", "skillbank_runners.worker", str(folder))


def find_base_experiment(network: Network, experiment_id: str | None) -> BaseExperiment | None:
    """The base experiment of that id; None for None.

    Raises:
        NotFoundError: no such base experiment; lists those there are.
    """
    if experiment_id is None:
        return None
    found = next((item for item in network.base_experiments if item.id == experiment_id), None)
    if found is None:
        known = [item.id for item in network.base_experiments]
        raise NotFoundError(
            f"{network.name} has no base experiment {experiment_id!r}; it has {', '.join(known)}",
            hint=f"tao {network.name} list-base-experiments",
            key="base_experiment_id",
            value=experiment_id,
            allowed=known,
        )
    return found


def find_launcher(launcher: str | Launcher, store: JobStore) -> Launcher:
    """A launcher by name, or the one given; ``debug`` runs the worker inside this process.

    Raises:
        UsageError: no such launcher.
    """
    from skillbank.launch import get_launcher

    return get_launcher(launcher, store, run=run_in_process) if isinstance(launcher, str) else launcher


def run_in_process(folder: Path) -> int:
    """Run the worker's command line inside this process; returns its exit code."""
    import runpy

    _, _, module, *arguments = worker_command(folder)
    before = sys.argv
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0


def _default_store() -> JobStore:
    from skillbank.jobs.store import JobStore

    return JobStore()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request as read; `key` and `secret_env` must not be stored."""

    request: Request
    notes: tuple[str, ...]
    secret_env: dict[str, str]
    key: str | None


def _read(network: str, action: str, options: JobOptions, folder: Path) -> _Asked:
    """Read spec and overrides, bring them under canonical keys, make paths absolute, take secrets out."""
    given = options.get("specs")
    source = None
    specs: Mapping[str, Any] = {}
    if isinstance(given, Mapping):
        specs, source = given, "spec"
    elif given is not None:
        specs = read_spec(given)
        source = _source_name(given)
    overrides = options.get("overrides") or ()
    if not isinstance(overrides, Mapping):
        overrides = parse_overrides(overrides, network=network, action=action)
    file, notes = _placed(network, action, specs, folder, keep_defaults=False)
    typed, more_notes = _placed(network, action, overrides, folder)
    env = dict(options.get("env") or {})
    request = Request(
        network=network,
        action=action,
        specs=nest(file),
        overrides=typed,
        datasets=absolute_datasets(options.get("datasets") or Datasets(), folder),
        checkpoint=options.get("checkpoint") or "best",
        env=env,
        keep_results_dir=options.get("keep_results_dir", False),
        spec_source=source,
    )
    clean, key = without_secrets(request)
    secret_env = {name: value for name, value in env.items() if name not in clean.env}
    return _Asked(request=clean, notes=(*notes, *more_notes), secret_env=secret_env, key=key)


def _placed(
    network: str, action: str, values: Mapping[str, Any], folder: Path, *, keep_defaults: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Dotted canonical keys with absolute paths; what cannot be placed is left for the check of the spec."""
    found = find_network(network)
    try:
        tree, notes = canonical(network, action, values)
    except SpecError:
        return dict(values), []
    # Blocks of other actions may be referred to from this one.
    other = {name: values[name] for name in found.actions if name in values and name not in tree}
    flat = flatten(tree, spec_class(network, action))
    if not keep_defaults:  # before they become absolute, and look like a choice
        flat = chosen(network, action, flat)
    return {**absolute_places(flat, load_skill_info(found), action, folder), **other}, notes


def _source_name(given: str | Path) -> str:
    text = str(given).strip()
    if isinstance(given, Path) or text.startswith("@"):
        return text.removeprefix("@")
    return "spec text" if text.startswith(("{", "[")) or "\n" in text or ": " in text else text


def _policy(decision: Decision, options: JobOptions) -> dict[str, Any]:
    """The decision with what a search needs to know; wrong settings are refused here."""
    record = decision.to_dict()
    settings = options.get("automl_settings")
    if settings:
        read_settings(settings)
        record["settings"] = dict(settings)
    if trial_of := options.get("trial_of"):
        record["trial_of"] = trial_of
    return record


def _check_search(network: str, resolution: Resolution, settings: Mapping[str, Any]) -> None:
    """Refuse now what a search would refuse when it starts: its metric, keys and ranges."""
    from skillbank.automl.search import objective
    from skillbank.automl.space import search_space

    wanted, nested = read_settings(settings), resolution.spec.nested()
    objective(network, nested, wanted)
    search_space(network, nested, keys=wanted.keys, overrides=wanted.ranges)


def _results_dir(request: Request) -> str | None:
    """Where results were asked to go: an override, or the spec of a job that keeps its folder.

    Raises:
        InvalidValueError: nothing can be written there.
    """
    asked = request.overrides.get("results_dir")
    if not is_set(asked) and request.keep_results_dir:
        asked = request.specs.get("results_dir")
    if not is_set(asked) or "${" in str(asked):
        return str(asked) if is_set(asked) else None
    try:
        place = parse(str(asked))
    except InvalidValueError as err:
        raise InvalidValueError(
            f"results_dir: {err.message}", hint=err.hint, key="results_dir", value=err.value
        ) from err
    if place.scheme in ("http", "https"):
        raise InvalidValueError(
            f"results_dir: {place}: web addresses are only read from; use a folder or s3://",
            hint="results_dir=s3://bucket/results",
            key="results_dir",
        )
    return str(place)


def _devices(
    request: Request, resolution: Resolution, launcher: Launcher
) -> tuple[Devices, dict[str, Any], SpecError | None]:
    """Devices of the job, spec keys that have to follow, and why the launcher cannot give that many."""
    keys = device_keys(load_skill_info(find_network(request.network)), request.action)
    nested = resolution.spec.nested()
    wished, ids = value_at(nested, keys.gpus), value_at(nested, keys.ids)
    if wished is None:  # actions such as export name one device, or none
        one = value_at(nested, f"{request.action}.gpu_id")
        wished, ids = 1, [one if isinstance(one, int) else 0]
    count, chosen, note = reconcile(wished, ids)
    wanted = Devices(
        gpus=count, ids=chosen, nodes=value_at(nested, keys.nodes) or 1, notes=(note,) if note else ()
    )
    accelerator = request.env.get("SKILLBANK_ACCELERATOR") or os.environ.get("SKILLBANK_ACCELERATOR", "")
    if accelerator.strip().lower() == "cpu":  # as many CPU processes as GPUs were asked for
        return Devices(gpus=0, ids=(), nodes=wanted.nodes, notes=wanted.notes), {}, None
    origin = resolution.spec.origins.get(keys.gpus)
    is_default = origin is not None and origin.kind == "default"
    shortage = None
    try:
        fitted = check_fit(wanted, launcher.devices(), keys, is_default=is_default, where=launcher.name)
    except SpecError as err:
        shortage = err
        told = [f"{one.message}; a launch here is refused" for one in err.problems or (err,)]
        fitted = replace(wanted, notes=(*wanted.notes, *told))
    changed: dict[str, Any] = {}
    if (
        fitted.gpus
        and value_at(nested, keys.gpus) is not None
        and (fitted.gpus, list(fitted.ids)) != (wished, ids)
    ):
        changed = {keys.gpus: fitted.gpus, keys.ids: list(fitted.ids)}
    return fitted, changed, shortage
