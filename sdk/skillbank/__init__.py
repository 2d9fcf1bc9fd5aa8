"""Light part of the bank: specs, schemas, jobs, storage and launchers, without torch and command line.

Public names load on first use, so that ``import skillbank`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skillbank._version import __version__

if TYPE_CHECKING:
    from skillbank.automl.policy import Decision, decide
    from skillbank.create import create_job
    from skillbank.explain import explain_spec
    from skillbank.jobs.record import Datasets, Job
    from skillbank.jobs.store import JobStore
    from skillbank.options import JobOptions
    from skillbank.plan import Plan, plan_job
    from skillbank.resolve.checkpoints import choose_checkpoint
    from skillbank.resolve.datasets import build_spec_overrides, check_data, resolve_data_sources
    from skillbank.specs.load import build_spec, default_spec, read_spec

__all__ = [
    "Datasets",
    "Decision",
    "Job",
    "JobOptions",
    "JobStore",
    "Plan",
    "__version__",
    "build_spec",
    "build_spec_overrides",
    "check_data",
    "choose_checkpoint",
    "create_job",
    "decide",
    "default_spec",
    "explain_spec",
    "plan_job",
    "read_spec",
    "resolve_data_sources",
]

_HOMES = {
    "Datasets": "skillbank.jobs.record",
    "Decision": "skillbank.automl.policy",
    "Job": "skillbank.jobs.record",
    "JobOptions": "skillbank.options",
    "JobStore": "skillbank.jobs.store",
    "Plan": "skillbank.plan",
    "build_spec": "skillbank.specs.load",
    "build_spec_overrides": "skillbank.resolve.datasets",
    "check_data": "skillbank.resolve.datasets",
    "choose_checkpoint": "skillbank.resolve.checkpoints",
    "create_job": "skillbank.create",
    "decide": "skillbank.automl.policy",
    "default_spec": "skillbank.specs.load",
    "explain_spec": "skillbank.explain",
    "plan_job": "skillbank.plan",
    "read_spec": "skillbank.specs.load",
    "resolve_data_sources": "skillbank.resolve.datasets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
