"""Settings of a search; the names of the TAO service are accepted and mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal

from skillbank.automl.space import Override
from skillbank.errors import InvalidValueError, SkillBankError, UnknownKeyError, collect

__all__ = ["ALGORITHMS", "Settings", "read_settings"]

Algorithm = Literal["bayesian", "bfbo", "random", "hyperband", "bohb", "asha"]

# name -> other accepted names
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "bayesian": ("b",),
    "bfbo": (),
    "random": ("r",),
    "hyperband": ("h",),
    "bohb": (),
    "asha": (),
}
_STOPPED_EARLY = frozenset({"hyperband", "bohb", "asha"})
_OTHER_NAMES = {
    "automl_algorithm": "algorithm",
    "automl_max_recommendations": "trials",
    "num_recommendations": "trials",
    "automl_max_trials": "trials",
    "automl_max_concurrent": "concurrent",
    "automl_reduction_factor": "reduction_factor",
    "automl_hyperparameters": "keys",
    "automl_add_hyperparameters": "keys",
}
# read and meant for the route, not for the search
_NOT_OURS = frozenset({"automl_enabled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to search.

    Attributes:
        algorithm: sampler and, for hyperband, bohb and asha, stopping rule.
        trials: number of trials; the first one runs the spec as it is.
        concurrent: trials under way at once; each still waits for its device.
        metric: objective; None = the network's main metric for this spec.
        direction: needed only for a metric the network does not know.
        keys: keys to search instead of the default list.
        ranges: own bounds or options by key.
        max_hours: no trial starts after this time.
        patience: stop after this many finished trials without a better one.
        seed: of the sampler.
        reduction_factor: of hyperband, bohb and asha.
    """

    algorithm: Algorithm = "bayesian"
    trials: int = 20
    concurrent: int = 1
    metric: str | None = None
    direction: Literal["max", "min"] | None = None
    keys: tuple[str, ...] = ()
    ranges: dict[str, Override] = field(default_factory=dict)
    max_hours: float | None = None
    patience: int | None = None
    seed: int = 1234
    reduction_factor: int = 3


def read_settings(raw: Mapping[str, Any]) -> Settings:
    """Settings from a map such as ``--automl-settings`` holds.

    Raises:
        UnknownKeyError: a name that is no setting; the nearest one is suggested.
        InvalidValueError: a value of the wrong kind, or a setting that the algorithm does not use.
    """
    if not isinstance(raw, Mapping):
        raise InvalidValueError(
            f"automl_settings: {raw!r} is no map of settings",
            hint="--automl-settings '{\"trials\": 10}'",
            key="automl_settings",
        )
    known = {item.name for item in fields(Settings)}
    problems: list[SkillBankError] = []
    given: dict[str, Any] = {}
    for name, value in raw.items():
        ours = _OTHER_NAMES.get(name, name)
        if name in _NOT_OURS:
            continue
        if ours not in known:
            near = get_close_matches(name, known | set(_OTHER_NAMES), n=1)
            problems.append(
                UnknownKeyError(
                    f"{name}: no such AutoML setting; there are {', '.join(sorted(known))}",
                    hint=f"did you mean {near[0]}?" if near else "skillbank automl run --help",
                    key=name,
                )
            )
            continue
        given[ours] = value
    problems.extend(_wrong_values(given))
    if (
        not problems
        and "reduction_factor" in given
        and given.get("algorithm", "bayesian") not in _STOPPED_EARLY
    ):
        problems.append(
            InvalidValueError(
                f"reduction_factor: {given.get('algorithm', 'bayesian')} does not use it; "
                f"only {', '.join(sorted(_STOPPED_EARLY))} do",
                hint="leave it out or choose another algorithm",
                key="reduction_factor",
            )
        )
    if problems:
        raise collect(problems, "the AutoML settings")
    return Settings(**given)


def _wrong_values(given: dict[str, Any]) -> list[SkillBankError]:
    """Problems of single values; canonical values are written back into `given`."""
    problems: list[SkillBankError] = []

    def bad(name: str, allowed: str) -> None:
        problems.append(
            InvalidValueError(
                f"{name}: {given[name]!r} is not allowed; {allowed}",
                key=name,
                value=given[name],
                hint=f"set {name}",
            )
        )

    if "algorithm" in given:
        names = {other: name for name, others in ALGORITHMS.items() for other in (name, *others)}
        found = names.get(str(given["algorithm"]).lower())
        if found is None:
            bad("algorithm", f"use one of {', '.join(ALGORITHMS)}")
        else:
            given["algorithm"] = found
    for name, least in (
        ("trials", 1),
        ("concurrent", 1),
        ("patience", 1),
        ("reduction_factor", 2),
        ("seed", 0),
    ):
        value = given.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            bad(name, f"use a whole number from {least}")
    hours = given.get("max_hours")
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, int | float) or hours <= 0):
        bad("max_hours", "use a number above 0")
    if given.get("direction") not in (None, "max", "min"):
        bad("direction", "use max or min")
    if "keys" in given:
        keys = given["keys"]
        if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
            bad("keys", "use a list of dotted keys")
        else:
            given["keys"] = tuple(keys)
    if "ranges" in given:
        try:
            given["ranges"] = {key: _override(value) for key, value in given["ranges"].items()}
        except (TypeError, AttributeError, ValueError):
            bad("ranges", 'use {"key": {"low": 1e-5, "high": 1e-3}} or {"key": {"choices": [...]}}')
    return problems


def _override(value: Any) -> Override:
    if isinstance(value, Override):
        return value
    allowed = {"low", "high", "choices"}
    if not set(value) <= allowed:
        raise ValueError
    return Override(low=value.get("low"), high=value.get("high"), choices=tuple(value.get("choices", ())))
