"""The search space of a network's training, taken from its spec class.

Bounds and options are those of the fields. Where a published range is too wide to be searched (a learning
rate from 0 to 1), the range is two decades around the default, on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

from skillbank.errors import InvalidValueError, SkillBankError, UnknownKeyError, collect
from skillbank.nested import value_at
from skillbank.specs import network as find_network
from skillbank.specs._keys import KeyTable, key_table
from skillbank.specs._nodes import described, field_nodes
from skillbank.specs._values import shown
from skillbank.specs.base import field_note, walk

__all__ = ["Axis", "Choices", "Override", "Range", "default_keys", "search_space"]

_LOG_LEAVES = frozenset({"lr", "weight_decay", "backbone_multiplier"})
_DECADE = 10.0
_INSET = 1e-3
# Published as searchable, but not worth a trial unless asked for: test sizes change what is measured, widths
# and counts make pretrained weights useless, the cap of the long side and momentum hardly matter.
_ONLY_WHEN_NAMED = frozenset(
    {
        "test_min_size", "test_max_size", "train_max_size", "hidden_dim", "num_object_queries", "dec_layers",
        "embed_dims", "momentum",
    }
)  # fmt: skip

# Blocks and keys that say where things go and what they are called.
_NO_HYPER_PARAMETERS = frozenset({"wandb", "model_name", "encryption_key", "results_dir"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; `step` for integers; `log` for a logarithmic scale."""

    low: float
    high: float
    log: bool = False
    step: int | None = None
    integer: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One searched key."""

    key: str
    default: Any
    domain: Range | Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A user's own bounds or options for a key."""

    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()


def _fields(network_name: str) -> dict[str, FieldInfo]:
    spec = find_network(network_name).actions["train"]
    return {key: info for key, info, nested in walk(spec) if nested is None}


def default_keys(network_name: str) -> list[str]:
    """Keys searched when the user names none: marked for search and harmless to vary."""
    return [
        key
        for key, info in _fields(network_name).items()
        if field_note(info).automl and key.rsplit(".", 1)[-1] not in _ONLY_WHEN_NAMED
    ]


def search_space(
    network_name: str,
    base: Mapping[str, Any],
    *,
    keys: Sequence[str] = (),
    overrides: Mapping[str, Override] | None = None,
) -> list[Axis]:
    """The axes of a search.

    Args:
        network_name: network whose train spec is searched.
        base: nested spec that the first trial runs; its values are the centres of ranges.
        keys: keys to search; empty = `default_keys`. Keys with an override are always searched.
        overrides: own bounds or options by key.

    Raises:
        SpecError: unknown keys, keys of a kind that cannot be searched, empty ranges; all at once.
    """
    fields = _fields(network_name)
    legal = key_table(network_name, "train")
    given = dict(overrides or {})
    wanted = list(dict.fromkeys([*(keys or default_keys(network_name)), *given]))
    axes: list[Axis] = []
    problems: list[SkillBankError] = []
    for key in wanted:
        info = fields.get(key)
        if info is None:
            near = get_close_matches(key, fields, n=1)
            problems.append(
                UnknownKeyError(
                    f"{key}: {network_name} train has no such value to search",
                    hint=f"did you mean {near[0]}?" if near else f"skillbank spec keys {network_name} train",
                    key=key,
                )
            )
            continue
        try:
            override = given.get(key, Override())
            _refuse_settings(network_name, key, info)
            _refuse_illegal(legal, key, override)
            axes.append(_axis(key, info, value_at(base, key), override))
        except InvalidValueError as err:
            problems.append(err)
    if problems:
        raise collect(problems, f"the search space of {network_name}")
    return axes


def _refuse_settings(network_name: str, key: str, info: FieldInfo) -> None:
    if field_note(info).automl is False or key.split(".", 1)[0] in _NO_HYPER_PARAMETERS:
        raise InvalidValueError(
            f"{key}: not a hyper-parameter, a search never varies it",
            hint=f"skillbank spec keys {network_name} train --automl",
            key=key,
        )


def _refuse_illegal(legal: KeyTable, key: str, override: Override) -> None:
    """Refuse bounds and options that would fail the check of every trial's spec."""
    given = [value for value in (override.low, override.high, *override.choices) if value is not None]
    if wrong := [value for value in given if not legal.is_right(key, legal.leaves[key].settled(value))]:
        raise InvalidValueError(
            f"{key}: {', '.join(shown(key, value) for value in wrong)} cannot be tried; "
            f"use {described(field_nodes(legal.cls)[key])}",
            hint=f"--range {key}=LOW..HIGH or --choices {key}=A,B",
            key=key,
        )


def _axis(key: str, info: FieldInfo, default: Any, override: Override) -> Axis:
    if override.choices:
        return Axis(key=key, default=default, domain=Choices(override.choices))
    if info.annotation is bool:
        return Axis(key=key, default=default, domain=Choices((False, True)))
    if get_origin(info.annotation) is Literal:
        return Axis(key=key, default=default, domain=Choices(get_args(info.annotation)))
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise InvalidValueError(
            f"{key}: a value such as {default!r} has no range to search",
            hint=f"give options: --choices {key}=A,B",
            key=key,
        )
    return Axis(key=key, default=default, domain=_range(key, info, default, override))


def _range(key: str, info: FieldInfo, default: float, override: Override) -> Range:
    integer = info.annotation is int
    log = _is_log(key, info)
    low, high = _bounds(info, default)
    if (log and default > 0) or low is None or high is None:
        # Bounds such as 0 to 1 for a rate, or none at all, say what is legal, not what is worth trying.
        reach = 2 if integer and not log else _DECADE
        near, far = sorted((default / reach, default * reach))
        low = near if low is None else max(low, near)
        high = far if high is None else min(high, far)
    low = override.low if override.low is not None else low
    high = override.high if override.high is not None else high
    step = next((int(item.multiple_of) for item in info.metadata if isinstance(item, MultipleOf)), 1)  # type: ignore[call-overload]
    if integer:
        low, high = float(-(-int(low) // step) * step), float(int(high) // step * step)
    log = log and low > 0 and step == 1
    if not low < high:
        raise InvalidValueError(
            f"{key}: nothing to search between {low:g} and {high:g}",
            hint=f"--range {key}=LOW..HIGH with LOW below HIGH",
            key=key,
        )
    return Range(low=low, high=high, log=log, step=step if integer else None, integer=integer)


def _is_log(key: str, info: FieldInfo) -> bool:
    scale = field_note(info).scale
    return scale == "log" or (scale is None and key.rsplit(".", 1)[-1] in _LOG_LEAVES)


def _bounds(info: FieldInfo, default: float) -> tuple[float | None, float | None]:
    """Legal bounds, both included; an excluded one is moved a little towards the default."""
    low: Any = next((item.ge for item in info.metadata if isinstance(item, Ge)), None)
    high: Any = next((item.le for item in info.metadata if isinstance(item, Le)), None)
    above: Any = next((item.gt for item in info.metadata if isinstance(item, Gt)), None)
    below: Any = next((item.lt for item in info.metadata if isinstance(item, Lt)), None)
    integer = info.annotation is int
    if low is None and above is not None:
        low = above + (1 if integer else (default - above) * _INSET)
    if high is None and below is not None:
        high = below - (1 if integer else (below - default) * _INSET)
    return (None if low is None else float(low), None if high is None else float(high))
