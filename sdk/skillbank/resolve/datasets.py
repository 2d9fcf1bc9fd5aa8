"""Data sources: which spec keys a dataset root fills, for every network and action, by rules of `skill_info.yaml`.

Values are names only; nothing is looked up in a store before `check_data` or `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import MissingFilesError, MissingValueError, UsageError, collect
from skillbank.jobs.record import Datasets, Job
from skillbank.resolve.conversion import find_conversion, raw_root, split_of
from skillbank.resolve.lineage import is_ready
from skillbank.resolve.values import is_set, value_at
from skillbank.skill_info import Condition, ConvertJobPath, SkillInfo, SourceRule, load_skill_info
from skillbank.specs import network as find_network
from skillbank.specs import spec_class
from skillbank.storage.uri import join

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore
    from skillbank.storage import Storage

__all__ = [
    "FLAGS",
    "DataSources",
    "Expected",
    "build_spec_overrides",
    "check_data",
    "dataset_format",
    "resolve_data_sources",
    "settle",
]

FLAGS = {
    "train_datasets": "--train-dataset-uri",
    "eval_dataset": "--eval-dataset-uri",
    "inference_dataset": "--inference-dataset-uri",
    "calibration_dataset": "--calibration-dataset-uri",
    "dataset": "--train-dataset-uri",
}
_FORMAT = "dataset_format"
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
        implied: keys of `values` that nobody named (constants, a format taken from the spec): a value in the spec
            file is stronger.
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
                key=_FORMAT, value=wanted, allowed=info.data_formats,
            )  # fmt: skip
        return wanted, "--dataset-format"
    for rule_key, rule in info.data_sources.get(action, {}).items():
        origin = rule.value_from_metadata
        if origin is None or origin.key != _FORMAT:
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
        metadata: facts that conditions and values depend on, such as ``dataset_format``. The format of `datasets`
            is added; without any, the skill's own default holds.
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
    facts[_FORMAT] = datasets.format or facts.get(_FORMAT) or info.data_format
    roots = _roots(datasets)
    request = _Request(network=network, roots=roots, facts=facts, store=store, parent=parent)
    values: dict[str, Any] = {}
    details: dict[str, str] = {}
    expected: list[Expected] = []
    missing: list[MissingValueError] = []
    implied: set[str] = set()
    groups: dict[str, tuple[str, ...]] = {}
    for key, rule in info.data_sources.get(action, {}).items():
        if not _applies(rule.conditional, facts):
            continue
        if not rule.source and rule.convert_job is None:
            value, detail, by_format = _constant(rule, facts)
            if value is not None:
                values[key], details[key] = value, detail
                if not (by_format and named_format):
                    implied.add(key)
            continue
        role = next((name for name in rule.source if roots.get(name)), None)
        place = _place(key, rule, role, request)
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
        other = f" (nor {' nor '.join(item.alternatives)})" if item.alternatives else ""
        lines.append(f"  - {item.key}: {item.uri}{other}")
    raise MissingFilesError(
        "\n".join(lines),
        hint="compare the dataset with the layout in the skill's playbook, or set these keys yourself",
        key=absent[0].key, value=[item.uri for item in absent],
    )  # fmt: skip


def settle(expected: Sequence[Expected], exists: Callable[[str], bool]) -> dict[str, str | None]:
    """Look at places and tell which values have to change: key -> the place that serves, or None for nothing.

    The first place that exists wins; a dataset root always exists, so there an alternative that exists wins.
    Optional data that is nowhere is given up; for mandatory data the value stays, so that using it tells the error.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What all rules of one request share; `roots` by role."""

    network: str
    roots: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]
    store: JobStore | None
    parent: Job | None


def _roots(datasets: Datasets) -> dict[str, tuple[str, ...]]:
    """Dataset roots by role, without a slash at the end."""
    given: dict[str, tuple[str | None, ...]] = {
        "train_datasets": datasets.train,
        "eval_dataset": (datasets.eval,),
        "inference_dataset": (datasets.inference,),
        "calibration_dataset": (datasets.calibration,),
        "dataset": (datasets.convert,) if datasets.convert else datasets.train[:1],
    }
    roots: dict[str, tuple[str, ...]] = {}
    for role, uris in given.items():
        present = [uri for uri in uris if uri is not None]
        if any(not uri.strip() for uri in present):
            raise UsageError(
                f"{FLAGS[role]}: the dataset is an empty text; is a variable in the command unset?",
                hint=f"{FLAGS[role]} s3://bucket/data", key=role, value="",
            )  # fmt: skip
        roots[role] = tuple(uri if uri.endswith("://") else uri.rstrip("/") or "/" for uri in present)
    return roots


def _applies(condition: Condition | None, facts: Mapping[str, Any]) -> bool:
    if condition is None:
        return True
    value = str(facts.get(condition.metadata_key, ""))
    if condition.equals and value not in condition.equals:
        return False
    return value not in condition.not_equals


def _constant(rule: SourceRule, facts: Mapping[str, Any]) -> tuple[Any, str, bool]:
    """Value, provenance, and whether it follows from the dataset format."""
    origin = rule.value_from_metadata
    if origin is None:
        return rule.value, "constant of the data-source rule", False
    fact = facts.get(origin.key)
    if not is_set(fact):
        return origin.default, f"default for {origin.key}", False
    value = origin.mapping.get(
        str(fact), origin.mapping.get("*", fact if not origin.mapping else origin.default)
    )
    return value, f"{origin.key} {fact}", origin.key == _FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the data of a key is; `pending` when a job still has to write it."""

    uris: list[str]
    detail: str
    alternatives: tuple[str, ...] = ()
    pending: bool = False


def _place(key: str, rule: SourceRule, role: str | None, request: _Request) -> _Place | None:
    """The place that a rule names; None when there is neither a dataset nor a conversion job."""
    given = request.roots.get(role, ()) if role else ()
    if len(given) > 1 and not rule.multiple:
        raise UsageError(
            f"{FLAGS[role or 'dataset']}: {len(given)} datasets are given, but {key} takes one",
            hint="merge the datasets, or give one", key=key, value=list(given),
        )  # fmt: skip
    if rule.convert_job is not None:
        return _converted(rule.convert_job, role, given, request)
    if not given:
        return None
    path = _path(rule, request.facts)
    uris = [join(root, path) if path else root for root in given]
    others = tuple(join(given[0], other) if other else given[0] for other in rule.alternatives)
    return _Place(uris=uris, detail=f"{role}{f', {path}' if path else ', its root'}", alternatives=others)


def _converted(
    rule: ConvertJobPath, role: str | None, given: tuple[str, ...], request: _Request
) -> _Place | None:
    """A file that a conversion job wrote, or the split folder of the dataset it read."""
    job, is_dataset = find_conversion(request.store, request.parent, given, request.network)
    split = split_of(job, rule)
    name = rule.pattern.replace("{split}", split)
    if job is not None and not rule.in_dataset:
        detail = f"conversion job {job.id}, split {split}"
        return _Place(uris=[join(job.results_dir, name)], detail=detail, pending=not is_ready(job))
    roots = given
    if job is not None and (is_dataset or not given):
        raw = raw_root(job)
        roots = (raw,) if raw else given
    if not roots:
        return None
    known = f"split {split} of conversion job {job.id}" if job else f"split {split}, no conversion job known"
    return _Place(uris=[join(root, name) for root in roots], detail=f"{role or 'converted dataset'}, {known}")


def _path(rule: SourceRule, facts: Mapping[str, Any]) -> str:
    by_format = rule.path_from_format
    return by_format.get(str(facts.get(_FORMAT, "")), by_format.get("*", rule.path))


def _expected(key: str, rule: SourceRule, info: SkillInfo, action: str, place: _Place) -> list[Expected]:
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
    path = _path(rule, facts) or "its root"
    if rule.convert_job is not None:
        path = f"{rule.convert_job.pattern} of the conversion job"
    return MissingValueError(
        f"{key}: neither the spec nor a dataset sets it, and {network} {action} needs it ({path})",
        hint=f"{flags} URI, or {key}=PATH", key=key,
    )  # fmt: skip
