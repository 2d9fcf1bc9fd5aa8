"""Names and directions of the numbers that jobs report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from skillbank.errors import NotFoundError
from skillbank.nested import value_at
from skillbank.specs.base import Metric, Network

__all__ = ["Direction", "find_metric", "is_better", "lookup", "primary_metric"]

Direction = Literal["max", "min"]


def _plain(name: str) -> str:
    return name.replace("/", "_").lower()


def _holds(metric: Metric, nested: Mapping[str, Any]) -> bool:
    """Whether the spec has the values that make the metric appear."""
    return all(value_at(nested, key) == wanted for key, wanted in metric.when.items())


def primary_metric(network: Network, nested: Mapping[str, Any]) -> Metric | None:
    """The objective of searches and of the best checkpoint for this spec; None when there is none."""
    return next((metric for metric in network.metrics if metric.primary and _holds(metric, nested)), None)


def find_metric(network: Network, name: str) -> Metric:
    """The metric of that name, alias or family.

    Raises:
        NotFoundError: the network reports no such metric; the message lists those it does.
    """
    wanted = _plain(name)
    for metric in network.metrics:
        if wanted in {_plain(metric.name), *map(_plain, metric.aliases)}:
            return metric
        if metric.pattern and re.fullmatch(metric.pattern, name):
            return metric
    known = [metric.name for metric in network.metrics]
    plain = {_plain(known_name): known_name for known_name in known}
    near = [plain[found] for found in get_close_matches(wanted, plain, n=1)]
    raise NotFoundError(
        f"{network.name} reports no metric {name!r}; it reports {', '.join(known)}",
        hint=f"did you mean {near[0]}?" if near else "give --direction max or min for a metric of your own",
        key="metric",
        value=name,
        allowed=known,
    )


def lookup(values: Mapping[str, float], metric: Metric) -> float | None:
    """The value of a metric among reported numbers, whichever of its spellings was used; None when absent."""
    names = {_plain(metric.name), *map(_plain, metric.aliases)}
    return next((value for name, value in values.items() if _plain(name) in names), None)


def is_better(value: float, than: float | None, direction: Direction) -> bool:
    """Whether `value` beats `than`; anything beats None."""
    if than is None:
        return True
    return value > than if direction == "max" else value < than
