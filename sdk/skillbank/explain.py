"""Where every value of a spec comes from, as rows for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skillbank.resolve.values import flatten

if TYPE_CHECKING:
    from skillbank.specs.load import ResolvedSpec

__all__ = ["Row", "explain_spec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value of a spec.

    Attributes:
        origin: one of `skillbank.specs.load.ORIGINS`.
        detail: file, base experiment, dataset and rule, job with epoch and metric, ...
        deferred: True when a parent still has to fill it; `value` says which.
    """

    key: str
    value: Any
    origin: str
    detail: str
    deferred: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def explain_spec(spec: ResolvedSpec, deferred: Mapping[str, str] | None = None) -> list[Row]:
    """One row for every value key, in the order of the spec.

    Args:
        deferred: keys that a parent still has to fill, as `skillbank.plan.Plan.deferred` gives them.
    """
    rows = []
    for key, value in flatten(spec.nested(), type(spec.spec)).items():
        origin = spec.origins.get(key)
        rows.append(
            Row(
                key=key,
                value=value,
                origin=origin.kind if origin else "default",
                detail=origin.detail if origin else "",
                deferred=key in (deferred or {}),
            )
        )
    return rows
