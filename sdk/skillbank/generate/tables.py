"""The tables themselves, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skillbank.automl.space import Axis, Choices, default_keys, search_space
from skillbank.errors import MissingValueError
from skillbank.generate.schemas import automl_keys
from skillbank.nested import value_at
from skillbank.resolve.datasets import build_spec_overrides
from skillbank.resolve.functions import FUNCTIONS
from skillbank.skill_info import Condition, SkillInfo, SourceRule
from skillbank.specs._keys import KeyTable, key_table
from skillbank.specs._nodes import described, field_nodes
from skillbank.specs.base import Metric, Network
from skillbank.specs.load import rules_of

__all__ = [
    "Subject",
    "actions",
    "automl_parameters",
    "data_sources",
    "metrics",
    "networks",
    "overrides",
    "parameters",
    "shorthand",
    "spec_params",
    "status",
]

_ROLES = {
    "train_datasets": "train",
    "eval_dataset": "eval",
    "inference_dataset": "inference",
    "calibration_dataset": "calibration",
    "dataset": "dataset to convert",
}
_PLACES = {
    "train": "s3://bucket/data/train",
    "eval": "s3://bucket/data/eval",
    "inference": "s3://bucket/data/inference",
    "calibration": "s3://bucket/data/calibration",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a table is about."""

    network: Network
    info: SkillInfo


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    if not lines:
        return empty
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(_code(text) for text in texts)


def _json(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def actions(subject: Subject) -> str:
    """What each action does, its command, and what it cannot start without."""
    rows = []
    for action in subject.network.actions:
        info = subject.info.actions.get(action)
        table = key_table(subject.network.name, action)
        rows.append(
            (
                _code(action),
                info.description if info else "",
                _code(info.command.replace("{config_path}", "SPEC") if info else ""),
                _mandatory(table),
                _codes(info.accepts if info and _takes_parent(subject.info, action) else ()),
                _codes(info.produces if info else ()),
            )
        )
    head = ("action", "what it does", "command", "mandatory keys", "takes from a parent", "leaves for others")
    return _table(head, rows, "No actions.")


def _mandatory(table: KeyTable) -> str:
    """Keys without default, and keys that a rule asks for: one of several, or depending on others."""
    parts = [_code(key) for key in table.mandatory]
    for rule in rules_of(table):
        if not rule.missing:
            continue
        empty = [key for key in rule.keys if value_at(table.defaults, key) in (None, "")]
        if rule.check(*(value_at(table.defaults, key) for key in rule.keys)):
            parts.append(" or ".join(map(_code, empty)))
        else:
            others = _codes(key for key in rule.keys if key not in empty)
            parts.append(f"{_code(rule.keys[0])} (depends on {others})")
    return ", ".join(parts)


def _takes_parent(info: SkillInfo, action: str) -> bool:
    functions = info.spec_params.get(action, {}).values()
    return any(isinstance(name, str) and name.startswith("parent_model") for name in functions)


def data_sources(subject: Subject) -> str:
    """Where the value of each data key comes from, by action."""
    rows = [
        (action, _code(key), _source(rule), _place(rule), _when(rule), "yes" if rule.optional else "")
        for action in subject.network.actions
        for key, rule in subject.info.data_sources.get(action, {}).items()
    ]
    head = ("action", "spec key", "dataset", "file or value", "when", "optional")
    return _table(head, _by_action(rows), "No action reads a dataset.")


def _by_action(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows that differ only in their first cell, the action, as one row."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for action, *cells in rows:
        grouped.setdefault(tuple(cells), []).append(action)
    return [(", ".join(actions), *cells) for cells, actions in grouped.items()]


def _source(rule: SourceRule) -> str:
    roles = " else ".join(_ROLES[role] for role in rule.source)
    if rule.convert_job is not None and not rule.convert_job.in_dataset:
        return f"conversion job{f' of {roles}' if roles else ''}"
    if rule.value_from_metadata is not None:
        return _code(rule.value_from_metadata.key)
    return roles or "constant"


def _place(rule: SourceRule) -> str:
    if rule.convert_job is not None:
        job = rule.convert_job
        if "{split}" not in job.pattern:
            return _code(job.pattern)
        split = f"split of {_code(job.split_key)}, else {job.fallback_split}"
        return f"{_code(job.pattern.replace('{split}', '<split>'))}, {split}"
    if rule.value_from_metadata is not None:
        origin = rule.value_from_metadata
        pairs = [
            f"{'other' if fact == '*' else fact}: {_code(_json(value))}"
            for fact, value in origin.mapping.items()
        ]
        if origin.default is not None:
            pairs.append(f"not given: {_code(_json(origin.default))}")
        return ", ".join(pairs)
    if not rule.source:
        return _code(_json(rule.value))
    by_format = rule.path_from_format
    # Where one format's file serves as well for another, each has alternatives of its own.
    apart = bool(set(rule.alternatives) & set(by_format.values()))
    if not by_format:
        return _file(rule.path) + _others(rule, rule.path)
    main = ", ".join(
        f"{'other' if name == '*' else name}: {_file(path)}{_others(rule, path) if apart else ''}"
        for name, path in by_format.items()
    )
    return main if apart else main + _others(rule)


def _others(rule: SourceRule, path: str | None = None) -> str:
    others = " or ".join(_file(other) for other in rule.alternatives if other != path)
    return f" (or {others})" if others else ""


def _file(path: str) -> str:
    return _code(path) or "its root"


def _when(rule: SourceRule) -> str:
    parts = [_condition(rule.conditional)] if rule.conditional else []
    return ", ".join([*parts, "a list, one for each dataset"] if rule.multiple else parts)


def _condition(condition: Condition) -> str:
    parts = []
    if condition.equals:
        parts.append(f"{_code(condition.metadata_key)} is {' or '.join(condition.equals)}")
    if condition.not_equals:
        parts.append(f"{_code(condition.metadata_key)} is not {' or '.join(condition.not_equals)}")
    return " and ".join(parts)


def overrides(subject: Subject) -> str:
    """The data-source overrides of each action, ready to copy."""
    used: dict[str, None] = {}
    blocks = []
    for action in subject.network.actions:
        if subject.info.data_sources.get(action):
            values = _override_values(subject, action)
            used.update(
                dict.fromkeys(
                    role for role in _PLACES if any(_PLACES[role] in str(v) for v in values.values())
                )
            )
            lines = [f'    "{key}": {_literal(value)},' for key, value in values.items()]
            blocks.append("\n".join([f"{action} = {{", *lines, "}"]))
    if not blocks:
        return "No action reads a dataset."
    names = [f'S3_{role.upper()} = "{_PLACES[role]}"' for role in _PLACES if role in used]
    return "```python\n" + "\n\n".join(["\n".join(names), *blocks]) + "\n```"


def _override_values(subject: Subject, action: str) -> dict[str, Any]:
    """Overrides from the fewest datasets that will do, in the order train, eval, inference, calibration."""
    roles = [role for role in _PLACES if role in ("train", "eval")]
    named = [_ROLES[role] for rule in subject.info.data_sources[action].values() for role in rule.source[:1]]
    if action == "inference" and "inference" in named:
        roles.append("inference")
    for more in ([], ["inference"], ["inference", "calibration"]):
        given = {role: _PLACES[role] for role in dict.fromkeys([*roles, *more])}
        try:
            return build_spec_overrides(
                subject.network.name, action, format=subject.info.data_format or None, **given
            )
        except MissingValueError as err:
            failed = err
    raise failed


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, str):
        for role, place in _PLACES.items():
            if value == place:
                return f"S3_{role.upper()}"
            if value.startswith(f"{place}/"):
                return f'f"{{S3_{role.upper()}}}{value.removeprefix(place)}"'
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def spec_params(subject: Subject) -> str:
    """What is filled in from parent jobs and base experiments just before a job starts."""
    rows: list[tuple[str, ...]] = []
    for action in subject.network.actions:
        for key, named in subject.info.spec_params.get(action, {}).items():
            if isinstance(named, str):
                name, _, keys = named.partition(",")
                meaning = FUNCTIONS[name].meaning
                rows.append((action, _code(key), _code(named), f"{meaning}: {keys}" if keys else meaning))
            else:
                value = f"{named.link}, kept as {_code(named.destination_path)}"
                rows.append((action, _code(key), "download", value))
    return _table(("action", "spec key", "function", "value"), _by_action(rows), "Nothing is filled in.")


def parameters(subject: Subject) -> str:
    """Commonly edited keys, each with default and what is allowed, over all actions."""
    found: dict[str, tuple[str, ...]] = {}
    for action, cls in subject.network.actions.items():
        table = key_table(subject.network.name, action)
        nodes = field_nodes(cls)
        for key, leaf in table.leaves.items():
            is_mandatory = key in table.mandatory
            if leaf.note.popular and table.is_there(key) and (key not in found or is_mandatory):
                default = "mandatory" if is_mandatory else _code(_json(value_at(table.defaults, key)))
                allowed = described(nodes[key]).removesuffix(" or null" if is_mandatory else "")
                unit = f" ({leaf.note.unit})" if leaf.note.unit else ""
                found[key] = (_code(key), default, allowed + unit, str(nodes[key].get("description", "")))
    head = ("key", "default", "allowed", "meaning")
    return _table(head, found.values(), "No key is marked as commonly edited.")


def shorthand(subject: Subject) -> str:
    """Short names that stand for keys at the top of a spec and in overrides."""
    rows = [(_code(name), _code(key)) for name, key in subject.info.spec_shorthand_keys.items()]
    return _table(("short name", "key"), rows, "No short names.")


def metrics(subject: Subject) -> str:
    """Numbers that jobs report."""
    rows = [
        (
            _code(metric.name) + (" (objective)" if metric.primary else ""),
            "higher" if metric.direction == "max" else "lower",
            ", ".join(metric.actions),
            _appears(metric),
            _codes(metric.aliases),
            metric.description,
        )
        for metric in subject.network.metrics
    ]
    return _table(("metric", "better", "actions", "when", "also called", "meaning"), rows, "No metrics.")


def _appears(metric: Metric) -> str:
    return " and ".join(_code(f"{key}={_json(value)}") for key, value in metric.when.items())


def automl_parameters(subject: Subject) -> str:
    """Keys that a search varies when none are named."""
    if "train" not in subject.network.actions:
        return "Nothing is searched."
    name = subject.network.name
    table = key_table(name, "train")
    nodes = field_nodes(table.cls)
    by_default = default_keys(name)
    keys = automl_keys(name, "train")[0]
    rows = [
        (
            _code(axis.key),
            _code(_json(axis.default)),
            described(nodes[axis.key]),
            _searched(axis),
            "yes" if axis.key in by_default else "only when named",
        )
        for axis in (search_space(name, table.defaults, keys=keys) if keys else [])
    ]
    return _table(
        ("key", "default", "allowed", "a search draws", "searched"),
        rows,
        "Nothing is searched unless it is named.",
    )


def _searched(axis: Axis) -> str:
    if isinstance(axis.domain, Choices):
        return "one of the options"
    scale = "logarithmic" if axis.domain.log else "linear"
    return f"{axis.domain.low:g} to {axis.domain.high:g}, {scale}"


def networks(found: Mapping[str, tuple[Network, SkillInfo]]) -> str:
    """One row for each network."""
    rows = [
        (
            _code(name),
            network.summary,
            _codes(network.actions),
            ", ".join(dict.fromkeys(_code(metric.name) for metric in network.metrics if metric.primary)),
            "yes" if info.automl_enabled else "no",
            _code(network.skill),
        )
        for name, (network, info) in found.items()
    ]
    return _table(
        ("network", "from what to what", "actions", "objective", "AutoML", "skill"), rows, "No networks."
    )


def status(bundled: Mapping[str, bool], network: str | None) -> str:
    """Which networks can run: one sentence for a network, a list for all (network = None)."""
    if network is not None:
        if bundled[network]:
            return f"Status: `{network}` runs with the runtime: `pip install 'skillbank[runtime]'`."
        return (
            f"Status: the implementation of `{network}` is not part of this release yet. Specs, schemas,\n"
            "checks, plans (`--dry-run`) and job control work; a command that would run the network refuses\n"
            "with exit code 5."
        )
    there = [_code(name) for name, is_there in bundled.items() if is_there]
    absent = [_code(name) for name, is_there in bundled.items() if not is_there]
    parts = []
    if there:
        parts.append(f"These networks run once the runtime is installed: {', '.join(there)}.")
    if absent:
        parts.append(
            f"Not implemented yet: {', '.join(absent)}.\n"
            "Specs, schemas, checks, plans (`--dry-run`) and job control work for all networks;\n"
            "a command that would run one that is not implemented refuses with exit code 5."
        )
    return "\n".join(parts)
