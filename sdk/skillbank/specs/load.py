"""From files, overrides, datasets and parent jobs to one checked spec that knows where each value came from.

Layers are merged key by key, later ones win. All problems of a spec are reported in one error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ValidationError

from skillbank.errors import ConflictError, MissingValueError, SkillBankError, SpecError, collect
from skillbank.nested import copied, put, value_at
from skillbank.specs._emit import to_yaml
from skillbank.specs._keys import KeyTable, key_table
from skillbank.specs._placing import merged, place
from skillbank.specs._problems import from_validation, missing_value, unknown_key, wrong_value
from skillbank.specs._references import References, UnsetError, unset_error
from skillbank.specs._sources import parse_overrides, read_spec
from skillbank.specs._values import shown
from skillbank.specs._yaml import load_yaml
from skillbank.specs.base import ActionSpec, Rule

__all__ = [
    "ORIGINS",
    "Layer",
    "Origin",
    "ResolvedSpec",
    "build_spec",
    "canonical",
    "chosen",
    "default_spec",
    "load_yaml",
    "missing_keys",
    "parse_overrides",
    "read_spec",
    "rules_of",
    "to_yaml",
]

OriginKind = Literal["default", "base-experiment", "file", "dataset", "parent", "output", "override"]
ORIGINS: tuple[str, ...] = get_args(OriginKind)
"""Where a value can come from, weakest first as the layers are usually stacked."""

_NAMED = frozenset({"file", "base-experiment"})


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one source.

    Attributes:
        kind: one of `ORIGINS`.
        detail: file name, base experiment, dataset, job and rule, ...
        values: nested maps, dotted keys, or both mixed.
    """

    kind: str
    detail: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; see `Layer`."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class ResolvedSpec:
    """A checked spec.

    Attributes:
        spec: the frozen spec object.
        origins: where the value of each key came from.
        notes: what was rewritten, left out or overruled, for people.
    """

    network: str
    action: str
    spec: ActionSpec
    origins: dict[str, Origin]
    notes: tuple[str, ...]

    def nested(self) -> dict[str, Any]:
        """The full spec as plain nested maps, blocks of other actions left out."""
        return self.spec.model_dump()


def canonical(network: str, action: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same values as nested maps, under canonical keys and in canonical spelling; nothing is filled in.

    Other names of keys, short names and spellings of options are replaced, blocks of other actions and keys
    that are ``???`` left out. Unknown keys and wrong values stay as they are, for the check that follows.

    Returns:
        The nested map, and a note for each thing that was rewritten or left out.

    Raises:
        ConflictError: two names of one key with different values.
        InvalidValueError: a value that no spec can hold, or a blank such as ``<path>``.
    """
    placed = place(key_table(network, action), values)
    if placed.problems:
        raise collect(placed.problems, f"spec {network} {action}")
    return placed.nested(), placed.notes


def chosen(network: str, action: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file that are a choice: a printed complete spec also holds every default.

    Args:
        flat: dotted canonical keys.
    """
    table = key_table(network, action)
    return {key: value for key, value in flat.items() if not table.is_default(key, value)}


def default_spec(network: str, action: str) -> dict[str, Any]:
    """The defaults as a new nested map; mandatory keys, which have none, are left out."""
    table = key_table(network, action)
    tree: dict[str, Any] = copied(table.defaults)
    for key in table.mandatory:
        parent, _, name = key.rpartition(".")
        holder = value_at(tree, parent) if parent else tree
        if holder is not None:
            del holder[name]
    return tree


def missing_keys(network: str, action: str, nested: Mapping[str, Any]) -> list[str]:
    """Keys without which the action cannot start and that are empty or absent in a nested spec.

    Of several keys of which a rule wants one, the first is named.
    """
    table = key_table(network, action)
    missing = [key for key in table.mandatory if value_at(nested, key) in (None, "")]
    missing += [
        rule.keys[0]
        for rule in rules_of(table)
        if rule.missing
        and rule.check(*(value_at(nested, key) or value_at(table.defaults, key) for key in rule.keys))
    ]
    return list(dict.fromkeys(missing))


def build_spec(network: str, action: str, layers: Sequence[Layer], *, draft: bool = False) -> ResolvedSpec:
    """Merge defaults and layers, resolve references, and check everything.

    Args:
        network: name of the network.
        action: name of the action.
        layers: later ones win, key by key; lists are replaced, maps merged. What equals the default in a
            file counts as absent.
        draft: mandatory values may still be missing; they are named in the notes.

    Raises:
        SpecError: all problems at once: unknown keys, wrong or missing values, conflicts, broken relations.
        NotFoundError: no such network or action.
    """
    build = _Build(key_table(network, action))
    for layer in layers:
        build.add(layer)
    build.resolve(draft)
    spec = build.check()
    if draft:
        build.notes += [f"{key}: not set yet" for key in missing_keys(network, action, build.tree)]
    else:
        build.demand()
    build.relate(draft)
    if build.problems or spec is None:
        raise collect(build.problems, f"spec {network} {action}")
    return ResolvedSpec(network, action, spec, build.origins, tuple(dict.fromkeys(build.notes)))


class _Build:
    """The state of one merge."""

    def __init__(self, table: KeyTable) -> None:
        self.table = table
        self.tree: dict[str, Any] = copied(table.defaults)
        self.origins = dict.fromkeys(table.leaves, Origin("default", ""))
        self.notes: list[str] = []
        self.problems: list[SkillBankError] = []
        self.foreign: dict[str, Any] = {}
        self.bad: set[str] = set()

    def add(self, layer: Layer) -> None:
        """Lay one layer over what is there."""
        assert layer.kind in ORIGINS, layer.kind
        named = layer.detail if layer.kind in _NAMED else layer.kind
        placed = place(self.table, layer.values, origin=named, typed_text=layer.kind == "override")
        self.notes += placed.notes
        self.problems += placed.problems
        self.bad.update(problem.key for problem in placed.problems if problem.key)
        self.problems += [
            unknown_key(self.table, path, value, named) for path, value in placed.unknown.items()
        ]
        self.foreign = merged(self.foreign, placed.foreign)
        origin = Origin(layer.kind, layer.detail)
        for key, value in placed.values.items():
            if layer.kind == "file" and self.table.is_default(key, value):
                continue
            before = self.origins.get(key)
            if key in self.table.sections:
                if value is not None:
                    self.problems.append(wrong_value(self.table, key, value, origin=named))
                    continue
            elif (
                before is not None and before.kind == "file" and layer.kind in ("dataset", "parent", "output")
            ):
                self._note_overruled(key, value, before, layer)
            elif before is not None and before.kind == "base-experiment" and layer.kind == "file":
                self._note_kept(key, value, before, layer)
            old = value_at(self.tree, key)
            both_maps = isinstance(old, dict) and isinstance(value, dict) and key in self.table.leaves
            put(self.tree, key, merged(old, value) if both_maps else value)
            self.origins[key] = origin

    def _note_overruled(self, key: str, value: Any, before: Origin, layer: Layer) -> None:
        old = value_at(self.tree, key)
        if old != value and old not in (None, ""):
            source = f"{layer.kind} {layer.detail}".strip()
            self.notes.append(
                f"{key}: {shown(key, old)} of {before.detail} gives way to {shown(key, value)} ({source})"
            )

    def _note_kept(self, key: str, value: Any, before: Origin, layer: Layer) -> None:
        old = value_at(self.tree, key)
        if old != value:
            self.notes.append(
                f"{key}: {shown(key, value)} of {layer.detail} is used, "
                f"base experiment {before.detail} has {shown(key, old)}"
            )

    def resolve(self, draft: bool) -> None:
        """Replace references by what they refer to, and fill in defaults that follow other keys."""
        derived = {
            rule.key: rule
            for rule in self.table.network.derived
            if rule.key in self.table.leaves and self.origins[rule.key].kind == "default"
        }
        references = References(self.table, self.tree, self.foreign, derived)
        found: dict[str, Any] = {}
        for key, leaf in self.table.leaves.items():
            if key not in derived and not leaf.has_reference(value_at(self.tree, key)):
                continue
            try:
                found[key] = references.value(key)
            except UnsetError as err:
                found[key] = value_at(self.table.defaults, key)
                if draft:
                    self.notes.append(f"{key}: waits for {err.target}")
                else:
                    self._wrong(key, unset_error(key, err.target))
            except SpecError as err:
                found[key] = value_at(self.table.defaults, key)
                self._wrong(key, err)
        for key, value in found.items():
            put(self.tree, key, copied(value))
            if key in derived and value != value_at(self.table.defaults, key):
                self.origins[key] = Origin("default", f"follows {' and '.join(derived[key].sources)}")

    def check(self) -> ActionSpec | None:
        """Check types, bounds and options; None when something is wrong."""
        for key, leaf in self.table.leaves.items():
            if leaf.is_fooled is not None and leaf.is_fooled(value_at(self.tree, key)):
                self._wrong(
                    key, wrong_value(self.table, key, value_at(self.tree, key), origin=self._source(key))
                )
        try:
            return self.table.cls.model_validate(self.tree)
        except ValidationError as err:
            sources = {key: self._source(key) for key in self.origins}
            for key, problem in from_validation(self.table, err, self.tree, sources).items():
                self._wrong(key, problem)
        return None

    def _wrong(self, key: str, problem: SpecError) -> None:
        if key not in self.bad:
            self.bad.add(key)
            self.problems.append(problem)

    def _source(self, key: str) -> str:
        origin = self.origins.get(key)
        if origin is None or origin.kind == "default":
            return ""
        return origin.detail if origin.kind in _NAMED else origin.kind

    def demand(self) -> None:
        """Mandatory values must be there."""
        for key in self.table.mandatory:
            if value_at(self.tree, key) in (None, ""):
                self._wrong(key, missing_value(self.table, key))

    def relate(self, draft: bool) -> None:
        """Check the relations between keys that are right by themselves."""
        unset = {key for key in self.table.mandatory if value_at(self.tree, key) in (None, "")}
        unusable = self.bad | unset
        for rule in rules_of(self.table):
            if (rule.missing and draft) or any(_touches(key, unusable) for key in rule.keys):
                continue
            wrong = rule.check(*(value_at(self.tree, key) for key in rule.keys))
            if wrong:
                kind = MissingValueError if rule.missing else ConflictError
                what = f"{' and '.join(rule.keys)}: {wrong}"
                self.problems.append(kind(what, hint=rule.hint, key=rule.keys[0]))


def _touches(key: str, others: Collection[str]) -> bool:
    """Whether a key, or one inside it, is among others."""
    return any(other == key or other.startswith(f"{key}.") for other in others)


def rules_of(table: KeyTable) -> Iterator[Rule]:
    """The rules that concern an action and find all their keys there."""
    for rule in table.network.rules:
        if (not rule.actions or table.action in rule.actions) and all(table.known(key) for key in rule.keys):
            yield rule
