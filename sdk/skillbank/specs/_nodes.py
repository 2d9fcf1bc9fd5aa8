"""Spec classes as plain JSON Schema nodes: everything in place, no references, null as one more type."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from skillbank.specs.base import StrictModel

__all__ = ["class_node", "described", "field_nodes"]

_TYPE_KEYWORDS = {
    "boolean": frozenset[str](),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset(
        {"properties", "additionalProperties", "required", "propertyNames", "minProperties", "maxProperties"}
    ),
}
_NUMBERS = frozenset({"integer", "number"})
_ORDER = ("type", "enum", "title", "description", "default")


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """No titles made of field names; a title that `setting` was given stays."""
        return False


@cache
def _raw(cls: type[StrictModel]) -> dict[str, Any]:
    return cls.model_json_schema(schema_generator=_Generator)


def class_node(cls: type[StrictModel]) -> dict[str, Any]:
    """JSON Schema of a spec class: ``type: object`` with closed `properties`, without defaults."""
    raw = _raw(cls)
    return _inlined(raw, raw.get("$defs", {}), ())


@cache
def field_nodes(cls: type[StrictModel]) -> Mapping[str, dict[str, Any]]:
    """The node of every dotted key of a spec class, sections included."""
    found: dict[str, dict[str, Any]] = {}

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for name, inner in node.get("properties", {}).items():
            found[f"{prefix}{name}"] = inner
            collect(inner, f"{prefix}{name}.")

    collect(class_node(cls), "")
    return found


def _inlined(node: Mapping[str, Any], defs: Mapping[str, Any], way: tuple[str, ...]) -> dict[str, Any]:
    if "$ref" in node:
        name = str(node["$ref"]).rpartition("/")[2]
        assert name not in way, f"spec class {name} holds itself"
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _inlined({**defs[name], **beside}, defs, (*way, name))
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("$defs", "default", "anyOf", "const") or (key == "title" and "properties" in node):
            continue
        if key == "properties":
            out[key] = {name: _inlined(inner, defs, way) for name, inner in value.items()}
        elif key in ("items", "additionalProperties", "propertyNames") and isinstance(value, Mapping):
            out[key] = _inlined(value, defs, way)
        else:
            out[key] = copy.deepcopy(value)
    if "const" in node:
        out["enum"] = [node["const"]]
    if "anyOf" in node:
        out.update(_joined([_inlined(branch, defs, way) for branch in node["anyOf"]]))
    return {key: out[key] for key in sorted(out, key=_rank)}


def _rank(keyword: str) -> int:
    return _ORDER.index(keyword) if keyword in _ORDER else len(_ORDER)


def _joined(branches: list[dict[str, Any]]) -> dict[str, Any]:
    """Alternatives as one node with a list of types; as `anyOf` where keywords of one would bind another."""
    flat = [alternative for branch in branches for alternative in branch.get("anyOf", [branch])]
    for branch in flat:
        branch.pop("description", None)
    has_null = {"type": "null"} in flat
    real = [branch for branch in flat if branch != {"type": "null"}]
    if len(real) == 1 and isinstance(real[0].get("type"), str):
        one = real[0]
        types = [one["type"], "null"] if has_null else one["type"]
        options = {"enum": [*one["enum"], None]} if "enum" in one and has_null else {}
        return {**one, "type": types, **options}
    types = [branch.get("type") for branch in real]
    if all(isinstance(kind, str) for kind in types) and all(_only_own_keywords(branch) for branch in real):
        numeric = [branch for branch in real if branch["type"] in _NUMBERS]
        if len(set(types)) == len(types) and (
            len(numeric) < 2 or all(len(branch) == 1 for branch in numeric)
        ):
            joined: dict[str, Any] = {}
            for branch in real:
                joined.update(branch)
            return {**joined, "type": [*types, "null"] if has_null else types}
    return {"anyOf": [*real, {"type": "null"}] if has_null else real}


def _only_own_keywords(branch: Mapping[str, Any]) -> bool:
    return set(branch) - {"type"} <= _TYPE_KEYWORDS.get(branch["type"], frozenset())


_NAMES = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
    "null": "null",
}


def described(node: Mapping[str, Any]) -> str:
    """What a node accepts, for people: ``an integer of at least 1``, ``fp32, fp16 or bf16``."""
    if "anyOf" in node:
        return _or([described(branch) for branch in node["anyOf"]])
    if "enum" in node:
        return _or([_option(option) for option in node["enum"]])
    types = node.get("type", [])
    return _or([_typed(kind, node) for kind in ([types] if isinstance(types, str) else types)]) or "any value"


def _option(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _or(parts: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _typed(kind: str, node: Mapping[str, Any]) -> str:
    text = _NAMES[kind]
    if kind in _NUMBERS:
        return text + _range(node)
    if kind == "array":
        items = described(node.get("items", {}))
        count = _count(node.get("minItems"), node.get("maxItems"), "item")
        return (
            text + (f" with {count}" if count else "") + ("" if items == "any value" else f", each {items}")
        )
    if kind == "string":
        count = _count(node.get("minLength"), node.get("maxLength"), "character")
        match = f" that matches {node['pattern']}" if "pattern" in node else ""
        return text + (f" of {count}" if count else "") + match
    return text


def _range(node: Mapping[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        bounds = [f"from {low} to {high}"]
    else:
        named = {"above": above, "of at least": low, "below": below, "of at most": high}
        bounds = [" and ".join(f"{word} {bound}" for word, bound in named.items() if bound is not None)]
        bounds[0] = bounds[0].replace(" and of ", " and ")
    if "multipleOf" in node:
        bounds.append(f"a multiple of {node['multipleOf']}")
    return "".join(
        f" {part}" if number == 0 else f", {part}" for number, part in enumerate(filter(None, bounds))
    )


def _count(low: int | None, high: int | None, noun: str) -> str:
    if low is not None and low == high:
        return f"{low} {noun}{'' if low == 1 else 's'}"
    parts = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
    text = " and ".join(filter(None, parts))
    return f"{text} {noun}{'' if (low if high is None else high) == 1 else 's'}" if text else ""
