"""Parent-job functions: the closed registry of what `spec_params` of `skill_info.yaml` may name.

Each function gives a value with its provenance, or nothing. Results of a parent that has not finished are
deferred to the moment the job starts. An unknown name is an error of the bank, found by `check_spec_params`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from skillbank.errors import DataError, SkillBankError, collect
from skillbank.nested import value_at
from skillbank.resolve import parents
from skillbank.resolve.parents import Filled, Scope
from skillbank.resolve.values import is_set
from skillbank.skill_info import Link, load_skill_info
from skillbank.specs.base import Network, walk
from skillbank.storage.uri import join

__all__ = ["FUNCTIONS", "Applied", "Function", "apply_functions", "check_spec_params"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One entry of the registry.

    Attributes:
        run: scope, spec key and arguments -> result, or None when there is nothing to fill in.
        meaning: for the playbook's table.
        takes_keys: the name is followed by spec keys, separated by commas.
    """

    run: Callable[[Scope, str, Sequence[str]], Filled | None]
    meaning: str
    takes_keys: bool = False


@dataclass(slots=True)
class Applied:
    """What the functions of an action gave.

    Attributes:
        strong: dotted keys that beat the spec file; weak: keys that only fill what is not set.
        deferred: keys whose value is a stand-in -> what will fill them.
        details: dotted key -> provenance.
        kinds: dotted key -> kind of origin.
        notes: what the user should know.
        problems: keys that a function could not fill although it should.
    """

    strong: dict[str, Any] = field(default_factory=dict)
    weak: dict[str, Any] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[SkillBankError] = field(default_factory=list)

    def add(self, key: str, filled: Filled) -> None:
        """Take over the result of one function."""
        (self.strong if filled.strong else self.weak)[key] = filled.value
        self.details[key], self.kinds[key] = filled.detail, filled.kind
        self.notes += [note for note in filled.notes if note not in self.notes]
        if filled.deferred:
            self.deferred[key] = filled.deferred


def _output_dir(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    return Filled(value=scope.results_dir, kind="output", detail="results folder of this job", strong=True)


def _nothing(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    return None


def _parent_model(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    return parents.from_parent(scope, key)


def _parent_model_folder(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    found = parents.from_parent(scope, key)
    if found is None or found.deferred:
        return found
    folder = str(found.value).rpartition("/")[0]
    return Filled(
        value=folder, kind=found.kind, detail=f"folder of {found.detail}", strong=True, notes=found.notes
    )


def _ptm(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    if scope.info.stages is not None and key in scope.info.stages.weights and scope.action == "train":
        return parents.from_stage(scope, key)
    return parents.from_base_experiment(scope, key)


def _parent_model_or_ptm(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    if scope.info.stages is not None and key in scope.info.stages.weights and scope.action == "train":
        return parents.from_stage(scope, key)
    return parents.from_parent(scope, key) or parents.from_base_experiment(scope, key)


def _resume_model(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    return parents.latest_link(scope)


def _resume_model_or_ptm(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    return parents.latest_link(scope) or _parent_model_or_ptm(scope, key, args)


def _ptm_if_no_resume_model(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    if parents.latest_link(scope) is not None:
        return None
    return _parent_model_or_ptm(scope, key, args)


def _resume_model_bool(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    link = parents.latest_link(scope)
    return Filled(
        value=link is not None, kind="output", detail=link.detail if link else "no earlier run here"
    )


def _verbose(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    return Filled(value=True, kind="output", detail="always")


def _assign_const_value(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
    source = next((other for other in args if is_set(value_at(scope.spec, other))), None)
    if source is None:
        return None
    return Filled(value=value_at(scope.spec, source), kind="output", detail=f"copy of {source}")


def _result_file(name: str) -> Function:
    """A file with a fixed name in the results of the action; only for keys the action declares as output."""

    def run(scope: Scope, key: str, args: Sequence[str]) -> Filled | None:
        action = scope.info.actions.get(scope.action)
        if action is None or key not in action.outputs:
            return None
        own = value_at(scope.spec, f"{scope.action}.results_dir")
        folder = str(own) if is_set(own) else join(scope.results_dir, scope.action)
        return Filled(value=join(folder, name), kind="output", detail=f"{name} in the results of this job")

    return Function(run=run, meaning=f"`{name}` in the results of this job")


FUNCTIONS: Mapping[str, Function] = {
    "output_dir": Function(run=_output_dir, meaning="results folder of this job"),
    "key": Function(run=_nothing, meaning="the encryption key, which is kept outside the spec"),
    "parent_model": Function(
        run=_parent_model, meaning="checkpoint or file of the parent job that fits the key"
    ),
    "parent_model_evaluate": Function(run=_parent_model, meaning="file of the parent job that fits the key"),
    "parent_model_folder": Function(run=_parent_model_folder, meaning="folder of the parent's checkpoint"),
    "parent_model_or_ptm": Function(
        run=_parent_model_or_ptm, meaning="checkpoint of the parent job, else weights of the base experiment"
    ),
    "ptm": Function(run=_ptm, meaning="weights of the base experiment"),
    "resume_model": Function(
        run=_resume_model, meaning="newest checkpoint in the results of this job itself"
    ),
    "resume_model_or_ptm": Function(
        run=_resume_model_or_ptm,
        meaning="newest checkpoint of this job, else the parent's, else the base experiment's",
    ),
    "ptm_if_no_resume_model": Function(
        run=_ptm_if_no_resume_model,
        meaning="unless the job resumes: checkpoint of a training parent, else of the base experiment",
    ),
    "resume_model_bool": Function(run=_resume_model_bool, meaning="whether the job resumes"),
    "create_onnx_file": _result_file("model.onnx"),
    "create_onnx_file_2d": _result_file("model_2d.onnx"),
    "create_onnx_file_3d": _result_file("model_3d.onnx"),
    "create_engine_file": _result_file("model.engine"),
    "create_pth_file": _result_file("model.pth"),
    "create_cal_cache": _result_file("cal.bin"),
    "from_csv": Function(run=_nothing, meaning="the value of the spec"),
    "verbose": Function(run=_verbose, meaning="true"),
    "assign_const_value": Function(
        run=_assign_const_value, meaning="copy of the first of these keys that is set", takes_keys=True
    ),
}


_OF_PARENT = frozenset({"parent_model", "parent_model_evaluate", "parent_model_folder"})


def apply_functions(scope: Scope, *, skip: Collection[str] = ()) -> Applied:
    """Run the functions of an action.

    A key with a problem gets a stand-in, so that the check of the spec does not tell the same thing again.

    Args:
        skip: keys that are decided already (overrides), for which no function runs.
    """
    applied = Applied()
    empty: list[str] = []
    for key, named in scope.info.spec_params.get(scope.action, {}).items():
        if key in skip:
            continue
        try:
            filled = _download(scope, key, named) if isinstance(named, Link) else _run(scope, key, named)
        except SkillBankError as err:
            applied.problems.append(err)
            applied.strong[key] = parents.stand_in(scope, key)
            continue
        if filled is not None:
            applied.add(key, filled)
        elif named in _OF_PARENT:
            empty.append(key)
    of_parent = {key for key, kind in applied.kinds.items() if kind == "parent"}
    filled_otherwise = (
        of_parent or applied.problems or any(is_set(value_at(scope.spec, key)) for key in empty)
    )
    if scope.parent is not None and empty and not filled_otherwise:
        applied.problems.append(parents.wrong_parent(scope, empty[0]))
        applied.strong[empty[0]] = parents.stand_in(scope, empty[0])
    return applied


def check_spec_params(network: Network) -> None:
    """Check `spec_params` of a skill.

    Raises:
        DataError: all faults: unknown functions, keys the spec lacks, downloads of undeclared inputs.
    """
    info = load_skill_info(network)
    problems: list[SkillBankError] = []
    for action, params in info.spec_params.items():
        if action not in network.actions:
            problems.append(
                _fault(network, action, "", f"{network.name} has no such action", action, network.actions)
            )
            continue
        keys = {key for key, _, section in walk(network.actions[action]) if section is None}
        for key, named in params.items():
            if key not in keys:
                problems.append(_fault(network, action, key, "the spec has no such key", key, keys))
            if isinstance(named, Link):
                if key not in info.actions[action].inputs:
                    problems.append(_fault(network, action, key, "a download must be an input of the action"))
            else:
                problems += _check_call(network, action, key, named, keys)
    if problems:
        raise collect(problems, f"spec_params of {network.skill}")


def _check_call(network: Network, action: str, key: str, call: str, keys: set[str]) -> list[SkillBankError]:
    name, *args = call.split(",")
    if name not in FUNCTIONS:
        return [_fault(network, action, key, f"there is no function {name!r}", name, FUNCTIONS)]
    if bool(args) != FUNCTIONS[name].takes_keys:
        return [_fault(network, action, key, f"{name} {'takes' if not args else 'takes no'} keys")]
    return [
        _fault(network, action, key, f"the spec has no key {arg!r}", arg, keys)
        for arg in args
        if arg not in keys
    ]


def _fault(
    network: Network, action: str, key: str, what: str, given: str = "", known: Iterable[str] = ()
) -> DataError:
    place = f"{network.skill}: spec_params.{action}{f'.{key}' if key else ''}"
    near = get_close_matches(given, list(known), n=1)
    return DataError(
        f"{place}: {what}",
        hint=f"did you mean {near[0]}?" if near else f"edit references/skill_info.yaml of {network.skill}",
        key=key or action,
    )


def _run(scope: Scope, key: str, call: str) -> Filled | None:
    name, *args = call.split(",")
    function = FUNCTIONS.get(name)
    if function is None:
        raise _fault(scope.network, scope.action, key, f"there is no function {name!r}", name, FUNCTIONS)
    return function.run(scope, key, args)


def _download(scope: Scope, key: str, link: Link) -> Filled | None:
    """A file fetched once into the cache when the job starts, for a base experiment that brings weights.

    A base experiment that sets the key itself, or none at all, means that nothing is downloaded.
    """
    base = scope.base_experiment
    if base is None or not base.weights or key in base.specs:
        return None
    return Filled(value=link.link, kind="base-experiment", detail=f"download for {base.id}")
