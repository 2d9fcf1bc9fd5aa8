"""Single data-source rules: when one applies, and which place or constant it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillbank.errors import UsageError
from skillbank.jobs.record import Datasets, Job
from skillbank.resolve.conversion import CONVERT, find_conversion, raw_root, split_of
from skillbank.resolve.lineage import is_ready
from skillbank.resolve.values import is_set
from skillbank.skill_info import Condition, ConvertJobPath, SourceRule
from skillbank.storage.uri import join

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = [
    "FLAGS",
    "FORMAT",
    "Place",
    "SourceRequest",
    "applies",
    "constant",
    "given_roots",
    "path_of",
    "place_of",
    "roots_of",
]

FORMAT = "dataset_format"
FLAGS = {
    "train_datasets": "--train-dataset-uri",
    "eval_dataset": "--eval-dataset-uri",
    "inference_dataset": "--inference-dataset-uri",
    "calibration_dataset": "--calibration-dataset-uri",
    "dataset": "--train-dataset-uri",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """What all rules of one request share.

    Attributes:
        roots: dataset roots by role, as `roots_of` gives them.
        facts: metadata of the request, `FORMAT` among it.
        store: where conversion jobs are looked up, if at all.
    """

    network: str
    roots: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]
    store: JobStore | None
    parent: Job | None


def given_roots(datasets: Datasets) -> dict[str, tuple[str, ...]]:
    """Dataset roots by role, as given; a role without dataset has none."""
    single = {
        "eval_dataset": datasets.eval,
        "inference_dataset": datasets.inference,
        "calibration_dataset": datasets.calibration,
    }
    return {
        "train_datasets": datasets.train,
        **{role: () if root is None else (root,) for role, root in single.items()},
        "dataset": datasets.train[:1] if datasets.convert is None else (datasets.convert,),
    }


def roots_of(datasets: Datasets) -> dict[str, tuple[str, ...]]:
    """Dataset roots by role, without a slash at the end.

    Raises:
        UsageError: a root that is an empty text.
    """
    roots: dict[str, tuple[str, ...]] = {}
    for role, given in given_roots(datasets).items():
        if any(not root.strip() for root in given):
            raise UsageError(
                f"{FLAGS[role]}: the dataset is an empty text; is a variable in the command unset?",
                hint=f"{FLAGS[role]} s3://bucket/data",
                key=role,
                value="",
            )
        roots[role] = tuple(root if root.endswith("://") else root.rstrip("/") or "/" for root in given)
    return roots


def applies(condition: Condition | None, facts: Mapping[str, Any]) -> bool:
    """Whether a rule counts for a request with these facts."""
    if condition is None:
        return True
    value = str(facts.get(condition.metadata_key, ""))
    if condition.equals and value not in condition.equals:
        return False
    return value not in condition.not_equals


def constant(rule: SourceRule, facts: Mapping[str, Any]) -> tuple[Any, str, bool]:
    """Value of a rule without a dataset, its provenance, and whether it follows from the dataset format."""
    origin = rule.value_from_metadata
    if origin is None:
        return rule.value, "constant of the data-source rule", False
    fact = facts.get(origin.key)
    if not is_set(fact):
        return origin.default, f"default for {origin.key}", False
    value = origin.mapping.get(
        str(fact), origin.mapping.get("*", fact if not origin.mapping else origin.default)
    )
    return value, f"{origin.key} {fact}", origin.key == FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the data of a key is; `pending` when a job still has to write it."""

    uris: list[str]
    detail: str
    alternatives: tuple[str, ...] = ()
    pending: bool = False


def place_of(key: str, rule: SourceRule, role: str | None, request: SourceRequest) -> Place | None:
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
    path = path_of(rule, request.facts)
    uris = [join(root, path) if path else root for root in given]
    others = tuple(
        join(given[0], other) if other else given[0] for other in rule.alternatives if other != path
    )
    return Place(uris=uris, detail=f"{role}{f', {path}' if path else ', its root'}", alternatives=others)


def _converted(
    rule: ConvertJobPath, role: str | None, given: tuple[str, ...], request: SourceRequest
) -> Place | None:
    """A file that a conversion job wrote, or the split folder of the dataset it read."""
    job, is_dataset = find_conversion(request.store, request.parent, given, request.network)
    split = split_of(job, rule)
    name = rule.pattern.replace("{split}", split)
    if job is not None and not rule.in_dataset:
        detail = f"conversion job {job.id}, split {split}"
        # Some workers write below a folder named after the action.
        inner = (join(job.results_dir, CONVERT, name),)
        uris = [join(job.results_dir, name)]
        return Place(uris=uris, detail=detail, alternatives=inner, pending=not is_ready(job))
    roots = given
    if job is not None and (is_dataset or not given):
        raw = raw_root(job)
        roots = (raw,) if raw else given
    if not roots:
        return None
    known = f"split {split} of conversion job {job.id}" if job else f"split {split}, no conversion job known"
    return Place(uris=[join(root, name) for root in roots], detail=f"{role or 'converted dataset'}, {known}")


def path_of(rule: SourceRule, facts: Mapping[str, Any]) -> str:
    """The path inside the dataset; empty = its root."""
    by_format = rule.path_from_format
    return by_format.get(str(facts.get(FORMAT, "")), by_format.get("*", rule.path))
