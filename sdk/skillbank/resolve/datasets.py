"""Data sources: which spec keys a dataset root fills in each action, by the rules of `skill_info.yaml`.

Values are names only; nothing is looked up in a store before `check_data` or `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import MissingFilesError, MissingValueError, UsageError, collect
from skillbank.jobs.record import Datasets, Job
from skillbank.nested import nest, value_at
from skillbank.resolve.sources import (
    FLAGS,
    FORMAT,
    Place,
    SourceRequest,
    applies,
    constant,
    path_of,
    place_of,
    roots_of,
)
from skillbank.resolve.values import is_set
from skillbank.skill_info import SkillInfo, SourceRule, load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import spec_class
from skillbank.storage.uri import show

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore
    from skillbank.storage import Storage

__all__ = [
    "DataSources",
    "Expected",
    "build_spec_overrides",
    "check_data",
    "dataset_format",
    "missing_data",
    "resolve_data_sources",
    "settle",
    "uncovered",
]

_PARALLEL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A file or folder that a rule names.

    Attributes:
        alternatives: other places that serve as well, in order.
        is_root: the place is a dataset root, which is always there; an alternative that exists is preferred.
    """

    key: str
    uri: str
    kind: Literal["file", "folder", "file_or_folder"]
    optional: bool = False
    alternatives: tuple[str, ...] = ()
    is_root: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSources:
    """Values that datasets give.

    Attributes:
        values: dotted key -> value.
        details: dotted key -> where the value comes from, in words.
        expected: places that must exist.
        missing: mandatory keys without a dataset; they are fine when the spec itself sets them.
        implied: keys of `values` that nobody named (constants, a format taken from the spec): a value in the
            spec file is stronger.
        groups: dotted key -> roles that may fill it, for keys of `missing`.
    """

    values: dict[str, Any] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    expected: list[Expected] = field(default_factory=list)
    missing: list[MissingValueError] = field(default_factory=list)
    implied: frozenset[str] = frozenset()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)


def dataset_format(
    network: str, action: str, datasets: Datasets, nested: Mapping[str, Any]
) -> tuple[str, str]:
    """The dataset format of a request and where it was told: flag, spec or the skill's own default.

    A spec tells its format at the keys that the rules would set from it, such as ``dataset.name``.

    Args:
        nested: canonical nested spec as given.

    Raises:
        UsageError: the flag names a format the network does not read.
    """
    info = load_skill_info(find_network(network))
    if datasets.format:
        wanted = datasets.format.strip()
        if info.data_formats and wanted not in info.data_formats:
            raise UsageError(
                f"--dataset-format: {network} does not read {wanted!r}; use {', '.join(info.data_formats)}",
                hint=f"--dataset-format {info.data_format or info.data_formats[0]}",
                key=FORMAT, value=wanted, allowed=info.data_formats,
            )  # fmt: skip
        return wanted, "--dataset-format"
    for rule_key, rule in info.data_sources.get(action, {}).items():
        origin = rule.value_from_metadata
        if origin is None or origin.key != FORMAT:
            continue
        for key in (rule_key, _shared(rule_key)):
            value = value_at(nested, key)
            if not isinstance(value, str) or not value:
                continue
            named = [name for name, mapped in origin.mapping.items() if mapped == value and name != "*"]
            if value in named or value in info.data_formats:
                return value, f"{key} of the spec"
            if len(named) == 1:
                return named[0], f"{key} of the spec"
    return info.data_format, "the default of the skill"


def _shared(key: str) -> str:
    """The key one section up, such as ``dataset.type`` for ``dataset.train.type``: a value for all splits."""
    *sections, _, leaf = key.split(".")
    return ".".join([*sections, leaf])


def resolve_data_sources(
    network: str,
    action: str,
    datasets: Datasets,
    metadata: Mapping[str, Any] | None,
    store: JobStore | None = None,
    *,
    parent: Job | None = None,
) -> DataSources:
    """Apply every data-source rule of an action.

    Args:
        metadata: facts that conditions and values depend on, such as ``dataset_format``. The format of
            `datasets` is added; without any, the skill's own default holds.
        store: where conversion jobs are looked up; None = documented file names below the dataset root.
        parent: parent of the job; a conversion job among its ancestors is used.

    Raises:
        UsageError: a dataset that is an empty text, or several where the key takes one.
        NotFoundError: no such network or action.
    """
    info = load_skill_info(find_network(network))
    spec_class(network, action)
    facts = dict(metadata or {})
    named_format = bool(datasets.format)
    facts[FORMAT] = datasets.format or facts.get(FORMAT) or info.data_format
    roots = roots_of(datasets)
    request = SourceRequest(network=network, roots=roots, facts=facts, store=store, parent=parent)
    values: dict[str, Any] = {}
    details: dict[str, str] = {}
    expected: list[Expected] = []
    missing: list[MissingValueError] = []
    implied: set[str] = set()
    groups: dict[str, tuple[str, ...]] = {}
    for key, rule in info.data_sources.get(action, {}).items():
        if not applies(rule.conditional, facts):
            continue
        if not rule.source and rule.convert_job is None:
            value, detail, by_format = constant(rule, facts)
            if value is not None:
                values[key], details[key] = value, detail
                if not (by_format and named_format):
                    implied.add(key)
            continue
        role = next((name for name in rule.source if roots.get(name)), None)
        place = place_of(key, rule, role, request)
        if place is None:
            if not rule.optional:
                missing.append(_missing(network, action, key, rule, facts))
                groups[key] = tuple(rule.source)
            continue
        details[key] = place.detail
        values[key] = place.uris if rule.multiple else place.uris[0]
        if not place.pending:
            expected += _expected(key, rule, info, action, place)
    return DataSources(
        values=values,
        details=details,
        expected=expected,
        missing=missing,
        implied=frozenset(implied),
        groups=groups,
    )


def build_spec_overrides(
    network: str,
    action: str,
    *,
    train: str | Sequence[str] | None = None,
    eval: str | None = None,  # noqa: A002 - the name of the dataset role
    inference: str | None = None,
    calibration: str | None = None,
    format: str | None = None,  # noqa: A002 - the name of the flag
) -> dict[str, Any]:
    """The mandatory data-source overrides of an action, as dotted keys.

    Constants and values that follow from the dataset format are part of it when `format` is given; without it
    exactly the places are returned.

    Raises:
        MissingValueError: datasets are missing; lists all keys with the flag that fills each.
    """
    several = (train,) if isinstance(train, str) else tuple(train or ())
    datasets = Datasets(
        train=several, eval=eval, inference=inference, calibration=calibration,
        convert=several[0] if several else None, format=format,
    )  # fmt: skip
    dataset_format(network, action, datasets, {})
    found = resolve_data_sources(network, action, datasets, None)
    if found.missing:
        raise collect(found.missing, f"data sources of {network} {action}")
    if format:
        return found.values
    return {key: value for key, value in found.values.items() if key not in found.implied}


def uncovered(
    sources: DataSources, rules: Mapping[str, SourceRule], given: Collection[str], *, has_datasets: bool
) -> list[MissingValueError]:
    """Mandatory data that neither datasets nor spec give.

    When a dataset is named, every mandatory key must be filled. Without any, the spec is the source: then it
    may leave out what it likes, but not everything that comes from one dataset.

    Args:
        given: keys that have a value somebody chose.
    """
    open_ones = [problem for problem in sources.missing if problem.key not in given]
    if has_datasets:
        return open_ones
    covered = {role for key, rule in rules.items() if key in given for role in rule.source}
    return [problem for problem in open_ones if not covered & set(sources.groups.get(str(problem.key), ()))]


def missing_data(network: str, action: str, flat: Mapping[str, Any]) -> list[MissingValueError]:
    """What a launch without datasets would ask for.

    Args:
        flat: dotted canonical keys with values that somebody chose, so without defaults.
    """
    given = {key: value for key, value in flat.items() if is_set(value)}
    rules = load_skill_info(find_network(network)).data_sources.get(action, {})
    name, _ = dataset_format(network, action, Datasets(), nest(given))
    sources = resolve_data_sources(network, action, Datasets(), {FORMAT: name})
    return uncovered(sources, rules, given.keys(), has_datasets=False)


def check_data(expected: Sequence[Expected], storage: Storage) -> None:
    """Ask for every expected place, in parallel.

    Raises:
        MissingFilesError: lists everything that is not there; optional places never count.
        StorageError: a store cannot tell.
    """
    wanted = [item for item in expected if not item.optional]

    def is_there(item: Expected) -> bool:
        return any(storage.exists(uri) for uri in (item.uri, *item.alternatives))

    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        there = list(pool.map(is_there, wanted))
    absent = [item for item, found in zip(wanted, there, strict=True) if not found]
    if not absent:
        return
    lines = [
        f"{len(absent)} of {len(wanted)} expected {'place is' if len(absent) == 1 else 'places are'} missing:"
    ]
    for item in absent:
        other = f" (nor {' nor '.join(map(show, item.alternatives))})" if item.alternatives else ""
        lines.append(f"  - {item.key}: {show(item.uri)}{other}")
    raise MissingFilesError(
        "\n".join(lines),
        hint="compare the dataset with the layout in the skill's playbook, or set these keys yourself",
        key=absent[0].key, value=[show(item.uri) for item in absent],
    )  # fmt: skip


def settle(expected: Sequence[Expected], exists: Callable[[str], bool]) -> dict[str, str | None]:
    """Look at places and tell which values have to change: key -> the place that serves, or None for nothing.

    The first place that exists wins; a dataset root always exists, so there an alternative that exists wins.
    Optional data that is nowhere is given up; mandatory data keeps its value, and using it tells the error.
    """
    changed: dict[str, str | None] = {}
    for item in expected:
        if not item.alternatives and not item.optional:
            continue
        if not (item.is_root and item.alternatives) and exists(item.uri):
            continue
        other = next((uri for uri in item.alternatives if exists(uri)), None)
        if other is not None:
            changed[item.key] = other
        elif item.optional and not (item.is_root and exists(item.uri)):
            changed[item.key] = None
    return changed


def _expected(key: str, rule: SourceRule, info: SkillInfo, action: str, place: Place) -> list[Expected]:
    declared = info.actions[action].inputs.get(key) if action in info.actions else None
    is_root = rule.convert_job is None and not rule.path and not rule.path_from_format
    kind = declared.type if declared else ("folder" if is_root else "file")
    return [
        Expected(
            key=key,
            uri=uri,
            kind=kind,
            optional=rule.optional,
            alternatives=place.alternatives,
            is_root=is_root,
        )
        for uri in place.uris
    ]


def _missing(
    network: str, action: str, key: str, rule: SourceRule, facts: Mapping[str, Any]
) -> MissingValueError:
    flags = " or ".join(dict.fromkeys(FLAGS[role] for role in rule.source))
    path = path_of(rule, facts) or "its root"
    ways = f"{flags} URI"
    if rule.convert_job is not None:
        name = rule.convert_job.pattern.replace("{split}", rule.convert_job.fallback_split)
        path = f"{name} of the {'converted dataset' if rule.convert_job.in_dataset else 'conversion job'}"
        ways = f"--parent-job-id CONVERSION_JOB, {ways}"
    return MissingValueError(
        f"{key}: neither the spec nor a dataset sets it, and {network} {action} needs it ({path})",
        hint=f"{ways}, or {key}=PATH",
        key=key,
    )
