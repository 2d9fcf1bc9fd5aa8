"""Parent-job functions: the closed registry of what `spec_params` of `skill_info.yaml` may name.

Each function gives a value with its provenance, or nothing. Results of a parent that has not finished are deferred
to the moment the job starts. An unknown name is an error of the bank, found by `check_spec_params`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import DataError, MissingValueError, NotFoundError, SkillBankError
from skillbank.jobs.record import Job
from skillbank.resolve import parents
from skillbank.resolve.lineage import is_ready
from skillbank.resolve.parents import Filled, Scope
from skillbank.resolve.values import is_set, value_at
from skillbank.skill_info import Link, load_skill_info
from skillbank.specs.base import Network, walk

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
        details: dotted key -> provenance; kinds: dotted key -> kind of origin.
        deferred: dotted key -> what will fill it.
        notes: what the user should know.
        problems: mandatory keys that could not be filled.
    """

    strong: dict[str, Any] = field(default_factory=dict)
    weak: dict[str, Any] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[SkillBankError] = field(default_factory=list)
