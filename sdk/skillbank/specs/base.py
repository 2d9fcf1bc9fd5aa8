"""What a spec is made of: strict models, fields with their search metadata, and the description of a network.

A network is described once, in its module of this package. Schemas, templates, playbook tables, command-line
checks and search spaces are all derived from it.

Two layers of checks exist on purpose. Types, bounds and options belong to the pydantic classes and appear
identically in the JSON Schema. Relations between keys (`Rule`) have no JSON Schema form; they run after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from skillbank.nested import copied

__all__ = [
    "ActionSpec",
    "BaseExperiment",
    "Derived",
    "FieldNote",
    "Metric",
    "Network",
    "Rule",
    "StrictModel",
    "field_note",
    "section",
    "section_type",
    "setting",
    "walk",
]

Scale = Literal["log", "linear"]


class StrictModel(BaseModel):
    """A spec section: frozen, unknown keys refused, no silent type conversion, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=False,
    )


class ActionSpec(StrictModel):
    """Root of the spec of one network and action; subclasses set `action`.

    Blocks of other actions may stand in the same file; they are named in `foreign_blocks` and not read.
    """

    action: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNote:
    """What a field carries beyond its type, default, bounds and description.

    Attributes:
        automl: True = searched by default, False = never searched, None = may be searched when asked for.
        popular: commonly edited; listed in playbooks and in the schema's `popular` tree.
        scale: how a search samples the value; None leaves it to the rule of the search space.
        spellings: accepted spelling -> canonical value, letter for letter.
        any_case: option names are accepted in any case, and with `_` and `-` ignored.
        mandatory_for: actions that cannot start while the value is empty (None or "").
        math_cond: relation kept as the dialect prints it, such as ``/ 8`` or ``> 0``.
        unit: physical unit, where the value has one.
        value_type: dialect type name where it cannot be told from the annotation (``ordered_int``).
    """

    automl: bool | None = None
    popular: bool = False
    scale: Scale | None = None
    spellings: Mapping[str, Any] = dataclass_field(default_factory=dict)
    any_case: bool = False
    mandatory_for: tuple[str, ...] = ()
    math_cond: str | None = None
    unit: str | None = None
    value_type: str | None = None


_PLAIN = FieldNote()


def setting(
    default: Any,
    description: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    multiple_of: int | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    title: str | None = None,
    examples: list[Any] | None = None,
    automl: bool | None = None,
    popular: bool = False,
    scale: Scale | None = None,
    spellings: Mapping[str, Any] | None = None,
    any_case: bool = False,
    mandatory_for: tuple[str, ...] = (),
    math_cond: str | None = None,
    unit: str | None = None,
    value_type: str | None = None,
) -> Any:
    """A field of a spec section: default, bounds and description stand here and nowhere else.

    `min_length` and `max_length` bound strings and lists; options are a `Literal` annotation. Lists and maps
    are copied for every spec, and are not searched unless `automl` says otherwise; see `FieldNote`.
    """
    if automl is None and isinstance(default, list | dict):
        automl = False
    note = FieldNote(
        automl=automl,
        popular=popular,
        scale=scale,
        spellings=dict(spellings or {}),
        any_case=any_case,
        mandatory_for=mandatory_for,
        math_cond=math_cond,
        unit=unit,
        value_type=value_type,
    )
    bounds: dict[str, Any] = {
        "ge": ge, "gt": gt, "le": le, "lt": lt, "multiple_of": multiple_of,
        "min_length": min_length, "max_length": max_length, "pattern": pattern,
        "title": title, "examples": examples,
    }  # fmt: skip
    given = {name: value for name, value in bounds.items() if value is not None}
    if isinstance(default, list | dict):
        info = Field(default_factory=lambda: copied(default), description=description, **given)
    else:
        info = Field(default=default, description=description, **given)
    info.metadata.append(note)
    return info


def section(model: type[StrictModel], description: str) -> Any:
    """A nested section that is always there; other defaults in one place are a subclass of the section."""
    info: Any = Field(default_factory=model, description=description)
    info.metadata.append(FieldNote(automl=False))
    return info


def field_note(info: FieldInfo) -> FieldNote:
    """The note of a field; a plain one where the field was declared without `setting`."""
    return next((item for item in info.metadata if isinstance(item, FieldNote)), _PLAIN)


def section_type(annotation: Any) -> type[StrictModel] | None:
    """The section class behind an annotation (also behind `X | None`), or None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(inner) == 1:
            return section_type(inner[0])
    return None


def walk(
    model: type[StrictModel], prefix: str = ""
) -> Iterator[tuple[str, FieldInfo, type[StrictModel] | None]]:
    """Every key of a spec class in declaration order: dotted key, field, and the class of a section."""
    for name, info in model.model_fields.items():
        key = f"{prefix}{name}"
        nested = section_type(info.annotation)
        yield key, info, nested
        if nested is not None:
            yield from walk(nested, f"{key}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseExperiment:
    """A starting point that ships with the bank: where weights come from, or that training starts fresh.

    Attributes:
        weights: URI of pretrained weights, or None.
        specs: dotted keys that differ from the class defaults in this experiment.
    """

    id: str
    name: str
    description: str
    weights: str | None = None
    specs: Mapping[str, Any] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that a job reports.

    Attributes:
        name: name in status events and KPI files.
        direction: which way is better.
        description: meaning, range and unit.
        aliases: other spellings; `/` and `_` count as equal everywhere.
        pattern: regular expression of a family of names (per class, per threshold); None = the name only.
        when: dotted spec keys with the value that makes the metric appear.
        actions: actions that report it.
        primary: the objective of searches and of the best checkpoint, among metrics whose `when` holds.
    """

    name: str
    direction: Literal["max", "min"]
    description: str
    aliases: tuple[str, ...] = ()
    pattern: str | None = None
    when: Mapping[str, Any] = dataclass_field(default_factory=dict)
    actions: tuple[str, ...] = ("train", "evaluate")
    primary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A relation between keys of one spec that types cannot express.

    Attributes:
        keys: dotted keys; `check` gets their values in this order. The rule is left out for an action whose
            spec lacks one of the keys, and when one of the values is itself wrong.
        check: returns None, or what is wrong and what is allowed (without the keys, which are put in front).
        hint: one line to follow.
        actions: actions it concerns; empty = all.
        missing: it asks for a value that is not there (the first of `keys`), which a parent job may still
            fill: a MissingValueError, and for a draft no error at all.
    """

    keys: tuple[str, ...]
    check: Callable[..., str | None]
    hint: str = ""
    actions: tuple[str, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A default that follows other keys; a value that is given stays as it is.

    Attributes:
        key: dotted key.
        sources: dotted keys that it follows.
        value: gets their values in this order; None = the declared default holds.
    """

    key: str
    sources: tuple[str, ...]
    value: Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Everything the light packages know of a network.

    Attributes:
        name: identifier on the command line, in schemas and in records.
        title: name for people.
        summary: one sentence, inputs to outputs.
        impl: import name of the implementation; it must define `NETWORK`.
        skill: folder name of the skill below `skills/`.
        actions: action -> spec class, in the order a user meets them.
        aliases: other dotted key -> canonical dotted key; a prefix stands for all keys below it.
        derived: defaults that follow other keys, leaders first.
        latest_link: spec -> name of the link to the newest checkpoint, as a map of `when`-like conditions is
            too weak for two stages; receives the nested spec.
        skill_path: folder of the skill where it is not in the bank (networks from elsewhere).
    """

    name: str
    title: str
    summary: str
    impl: str
    skill: str
    actions: Mapping[str, type[ActionSpec]]
    aliases: Mapping[str, str] = dataclass_field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    derived: tuple[Derived, ...] = ()
    metrics: tuple[Metric, ...] = ()
    base_experiments: tuple[BaseExperiment, ...] = ()
    latest_link: Callable[[Mapping[str, Any]], str] = dataclass_field(
        default=lambda spec: "model_latest.pth", compare=False
    )
    skill_path: Path | None = None
