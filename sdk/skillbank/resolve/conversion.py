"""Conversion jobs: the job that prepared a dataset, and what its spec says about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skillbank.jobs.record import Job
from skillbank.nested import value_at
from skillbank.resolve.lineage import ancestors, job_spec
from skillbank.resolve.values import is_set
from skillbank.skill_info import ConvertJobPath, load_skill_info
from skillbank.specs import network as find_network

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["CONVERT", "find_conversion", "raw_root", "split_of"]

CONVERT = "dataset_convert"


def find_conversion(
    store: JobStore | None, parent: Job | None, datasets: Sequence[str], network: str
) -> tuple[Job | None, bool]:
    """The conversion job behind a dataset, and whether the dataset is that job's results folder.

    A dataset that is the results folder of a conversion job names it; otherwise it is the nearest conversion
    job among the parent and its ancestors.
    """
    if store is None:
        return None, False
    if datasets:
        for job in store.list(network=network, action=CONVERT):
            if job.results_dir.rstrip("/") in datasets:
                return job, True
    if parent is not None:
        nearest = next((job for job in ancestors(store, parent) if job.action == CONVERT), None)
        return nearest, False
    return None, False


def split_of(job: Job | None, rule: ConvertJobPath) -> str:
    """The split a conversion job was made for; the rule's own when the job is unknown or made for several."""
    value = value_at(job_spec(job), rule.split_key) if job is not None else None
    splits = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    names = [str(split).strip() for split in splits if str(split).strip()]
    return names[0] if len(names) == 1 else rule.fallback_split


def raw_root(job: Job) -> str | None:
    """The dataset that a conversion job read: the value its data-source rules set to a dataset root."""
    rules = load_skill_info(find_network(job.network)).data_sources.get(CONVERT, {})
    spec = job_spec(job)
    values = (value_at(spec, key) for key, rule in rules.items() if rule.source and not rule.path)
    return next((str(value).rstrip("/") for value in values if is_set(value)), None)
