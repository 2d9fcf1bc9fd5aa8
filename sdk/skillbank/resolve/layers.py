"""One spec out of a request: base experiment, file, datasets, parent job, devices and overrides in order.

Weakest first: defaults, base experiment, spec file, datasets and parent job, overrides. What nobody named
(constants of a rule, a stage that follows from the parent, names of result files) only fills what is not set.
Specs usually start from the printed defaults, so a file's value that equals the default counts as not set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from skillbank.errors import MissingValueError, SkillBankError, SpecError, collect
from skillbank.jobs.record import Datasets, Job, Request
from skillbank.nested import nest, put
from skillbank.resolve.datasets import (
    DataSources,
    Expected,
    dataset_format,
    resolve_data_sources,
    settle,
    uncovered,
)
from skillbank.resolve.functions import Applied, apply_functions
from skillbank.resolve.lineage import Carried, carried_model, stage_rank
from skillbank.resolve.parents import Scope
from skillbank.resolve.values import flatten, is_set
from skillbank.skill_info import SkillInfo, load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import spec_class
from skillbank.specs.base import BaseExperiment
from skillbank.specs.load import Layer, Origin, ResolvedSpec, build_spec, canonical, chosen, default_spec
from skillbank.storage.uri import is_remote, parse

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["Resolution", "resolve"]

_OVERRIDES = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A spec and what is still open.

    Attributes:
        spec: checked spec; deferred keys hold the text of what will fill them.
        deferred: key -> what will fill it when the parent is done.
        expected: files and folders that datasets must hold.
    """

    spec: ResolvedSpec
    deferred: dict[str, str]
    expected: tuple[Expected, ...]

    def nested(self) -> dict[str, Any]:
        """The spec with deferred keys empty."""
        tree = self.spec.nested()
        for key in self.deferred:
            put(tree, key, None)
        return tree

    def with_notes(self, notes: Sequence[str]) -> Resolution:
        """The same with these notes in front."""
        merged = tuple(dict.fromkeys([*notes, *self.spec.notes]))
        return replace(self, spec=replace(self.spec, notes=merged))


@dataclass(slots=True)
class _Stack:
    """Flat values of a request by strength, while they are gathered."""

    request: Request
    info: SkillInfo
    file: dict[str, Any]
    base: dict[str, Any]
    overrides: dict[str, Any]
    base_id: str = ""
    weak: dict[str, tuple[Any, Origin]] = field(default_factory=dict)
    strong: dict[str, tuple[Any, Origin]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[SkillBankError] = field(default_factory=list)

    def given(self) -> dict[str, Any]:
        """What file, base experiment and overrides say."""
        return {**self.base, **self.file, **self.overrides}

    def fill(self, key: str, value: Any, origin: Origin) -> None:
        """Set a key that nothing else sets; a base experiment may also say that it stays empty."""
        if key not in self.base and not is_set(self.given().get(key)):
            self.weak[key] = (value, origin)

    def known(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Everything gathered so far, nested."""
        flat = dict(defaults)
        flat.update({**self.base, **self.file})
        flat.update({key: value for key, (value, _) in {**self.weak, **self.strong}.items()})
        flat.update(self.overrides)
        return nest(flat)

    def layers(self) -> list[Layer]:
        """Layers for `build_spec`."""
        source = self.request.spec_source or "spec"
        found = []
        if self.base:
            found.append(Layer("base-experiment", self.base_id, self.base))
        found.append(Layer("file", source, self.file))
        for part in (self.weak, self.strong):
            found += [
                Layer(origin.kind, origin.detail, {key: value}) for key, (value, origin) in part.items()
            ]
        if self.overrides:
            found.append(Layer("override", _OVERRIDES, self.overrides))
        return found


def resolve(
    request: Request,
    *,
    store: JobStore | None,
    parent: Job | None,
    base_experiment: BaseExperiment | None,
    results_dir: str,
    exists: Callable[[str], bool] | None = None,
) -> Resolution:
    """Build the spec of a request.

    Args:
        request: with canonical keys and without secrets, see `skillbank.plan`.
        results_dir: local results folder of the job.
        exists: asks whether a place is there; given when the job starts, to choose among places that serve.

    Raises:
        SpecError: all problems at once.
        NotFoundError: no such network or action, or the parent has nothing usable.
    """
    network, action = request.network, request.action
    spec = spec_class(network, action)
    info = load_skill_info(find_network(network))
    stack = _Stack(
        request=request,
        info=info,
        file=chosen(network, action, flatten(_canonical(request, base_experiment), spec)),
        base=flatten(canonical(network, action, base_experiment.specs)[0], spec) if base_experiment else {},
        overrides=flatten(canonical(network, action, request.overrides)[0], spec),
        base_id=base_experiment.id if base_experiment else "",
    )
    defaults = flatten(default_spec(network, action), spec)
    _settle_results(stack, defaults)
    if parent is not None:
        _inherit(stack, parent)
    sources = _from_datasets(stack, store, parent, exists)
    scope = Scope(
        store=store, network=find_network(network), info=info, action=action, spec=stack.known(defaults),
        results_dir=results_dir, parent=parent, base_experiment=base_experiment, method=request.checkpoint,
    )  # fmt: skip
    applied = _from_functions(stack, scope)
    _devices(stack)
    if parent is not None and not _uses_parent(applied, sources):
        stack.notes.append(
            f"parent job {parent.id} ({parent.action}) gives {action} nothing but model settings"
        )
    missing = _still_missing(stack, sources)
    resolved = _build(stack, missing)
    return Resolution(
        spec=_with_promises(resolved, applied.deferred),
        deferred=applied.deferred,
        expected=tuple(item for item in sources.expected if item.key not in stack.overrides),
    ).with_notes(stack.notes)


def _with_promises(resolved: ResolvedSpec, deferred: Mapping[str, str]) -> ResolvedSpec:
    """The stand-ins of keys that a parent still has to fill, replaced by words."""
    if not deferred:
        return resolved
    tree = resolved.nested()
    for key, words in deferred.items():
        put(tree, key, words)
    return replace(resolved, spec=type(resolved.spec).model_validate(tree))


def _uses_parent(applied: Applied, sources: DataSources) -> bool:
    """Whether a parent gives weights or data."""
    return "parent" in applied.kinds.values() or any(
        "conversion job" in text for text in sources.details.values()
    )


def _canonical(request: Request, base_experiment: BaseExperiment | None) -> dict[str, Any]:
    """The file's values under canonical keys; one that cannot be placed is checked whole, to tell all."""
    try:
        return canonical(request.network, request.action, request.specs)[0]
    except SpecError:
        layers = (
            [Layer("base-experiment", base_experiment.id, base_experiment.specs)] if base_experiment else []
        )
        layers.append(Layer("file", request.spec_source or "spec", request.specs))
        layers.append(Layer("override", _OVERRIDES, request.overrides))
        build_spec(request.network, request.action, layers, draft=True)
        raise


def _settle_results(stack: _Stack, defaults: Mapping[str, Any]) -> None:
    """Results go to the job's own folder; what the file says of them is left out unless it is wanted.

    A results folder that is a URI is written to a local folder first, and uploaded from there.
    """
    for part in (stack.overrides, stack.file):
        asked = str(part.get("results_dir") or "")
        if asked.startswith("file:"):
            part["results_dir"] = str(parse(asked))
        elif is_remote(asked):
            stack.notes.append(
                f"results_dir: written to the folder of the job and uploaded to {part.pop('results_dir')}"
            )
    if stack.request.keep_results_dir:
        return
    for key in ("results_dir", f"{stack.request.action}.results_dir"):
        value = stack.file.get(key)
        if key in stack.overrides or not is_set(value) or "${" in str(value):
            continue
        del stack.file[key]
        if value != defaults.get(key):
            stack.notes.append(
                f"{key}: {value!r} of the spec is not used, results go to the folder of the job"
            )


def _inherit(stack: _Stack, parent: Job) -> None:
    """Model settings and stage of the parent."""
    request, info = stack.request, stack.info
    given = nest({**stack.file, **stack.overrides})
    carried: Carried = carried_model(
        parent, request.network, request.action, given, by=request.spec_source or "spec"
    )
    origin = Origin("parent", f"model of job {parent.id}")
    stack.strong.update({key: (value, origin) for key, value in carried.strong.items()})
    for key, value in carried.weak.items():
        stack.fill(key, value, Origin("parent", f"as in job {parent.id}"))
    stack.notes += carried.notes
    theirs = stage_rank(info, parent) if info.stages else None
    if info.stages is None or theirs is None:
        return
    following = request.action == "train" and parent.action == "train"
    stage = min(theirs + 1, len(info.stages.values) - 1) if following else theirs
    detail = f"follows job {parent.id}" if following else f"as in job {parent.id}"
    stack.fill(info.stages.key, info.stages.values[stage], Origin("parent", detail))


def _from_datasets(
    stack: _Stack, store: JobStore | None, parent: Job | None, exists: Callable[[str], bool] | None
) -> DataSources:
    request = stack.request
    name, told_by = dataset_format(request.network, request.action, request.datasets, nest(stack.given()))
    sources = resolve_data_sources(
        request.network, request.action, request.datasets, {"dataset_format": name}, store, parent=parent
    )
    named = sources.values.keys() - sources.implied
    for key, value in sources.values.items():
        origin = Origin("dataset", sources.details[key])
        if key not in sources.implied:
            stack.strong[key] = (value, origin)
        elif named or request.datasets != Datasets():
            stack.fill(key, value, Origin("dataset", f"{origin.detail} (from {told_by})"))
            own = stack.file.get(key)
            if is_set(own) and own != value and key not in stack.overrides:
                stack.notes.append(
                    f"{key}: {own!r} of {request.spec_source or 'spec'} is used, "
                    f"{told_by} would set {value!r}"
                )
    if exists is not None:
        for key, place in settle(
            [item for item in sources.expected if item.key in stack.strong], exists
        ).items():
            _, origin = stack.strong.pop(key)
            if place is None:
                stack.notes.append(
                    f"{key}: left empty, the dataset does not have it and the action runs without it"
                )
            else:
                stack.strong[key] = (place, Origin("dataset", f"{origin.detail}; found at {place}"))
    return sources


def _from_functions(stack: _Stack, scope: Scope) -> Applied:
    skip = set(stack.overrides)
    if stack.request.keep_results_dir and is_set(stack.given().get("results_dir")):
        skip.add("results_dir")
    applied = apply_functions(scope, skip=skip)
    stack.problems += applied.problems
    stack.notes += applied.notes
    for key, value in applied.strong.items():
        stack.strong[key] = (value, Origin(applied.kinds.get(key, "parent"), applied.details.get(key, "")))
    for key, value in applied.weak.items():
        if key not in stack.strong:
            stack.fill(key, value, Origin(applied.kinds[key], applied.details[key]))
    return applied


def _devices(stack: _Stack) -> None:
    """What the job was given when it was created, where that differs from the spec."""
    for key, value in stack.request.devices.items():
        stack.file.pop(key, None)
        stack.overrides.pop(key, None)
        stack.strong[key] = (value, Origin("output", "devices this job was given"))


def _still_missing(stack: _Stack, sources: DataSources) -> list[MissingValueError]:
    """Mandatory data that neither datasets nor spec give."""
    given = (
        {key for key, value in stack.given().items() if is_set(value)}
        | stack.weak.keys()
        | stack.strong.keys()
    )
    rules = stack.info.data_sources.get(stack.request.action, {})
    return uncovered(sources, rules, given, has_datasets=stack.request.datasets != Datasets())


def _build(stack: _Stack, missing: list[MissingValueError]) -> ResolvedSpec:
    """Check everything; problems of spec, datasets and parent come in one error."""
    request = stack.request
    problems: list[SkillBankError] = [*stack.problems, *missing]
    told = {problem.key for problem in problems}
    try:
        resolved = build_spec(request.network, request.action, stack.layers())
    except SpecError as err:
        single = err.problems or (err,)
        problems += [one for one in single if not (isinstance(one, MissingValueError) and one.key in told)]
    else:
        if not problems:
            return resolved
    raise collect(problems, f"{request.network} {request.action}")
