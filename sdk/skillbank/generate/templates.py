"""``references/spec_template_<action>.yaml``: the defaults of an action with a comment above every key."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from skillbank.generate.schemas import HEADER, action_schema, source_of
from skillbank.nested import put, value_at
from skillbank.specs._emit import MISSING, WIDTH
from skillbank.specs._keys import KeyTable, key_table
from skillbank.specs._nodes import described, field_nodes
from skillbank.specs.load import to_yaml

__all__ = ["spec_template"]

_OBVIOUS = frozenset({"true or false", "text", "text or null", "a map", "a number", "any value"})


def spec_template(network_name: str, action: str, schema: Mapping[str, Any] | None = None) -> str:
    """The template as YAML text; mandatory keys are ``???``, all others have their default.

    Args:
        network_name: name of the network.
        action: name of the action.
        schema: what `action_schema` gives, where it is at hand.

    Raises:
        NotFoundError: no such network or action.
    """
    table = key_table(network_name, action)
    tree = _in_order(table)
    schema = schema or action_schema(network_name, action)
    comments = {
        key: _comment(node, key in table.mandatory, 2 * key.count("."))
        for key, node in _nodes(schema).items()
        if "x_foreign" not in node
    }
    head = [
        f"# {HEADER}{source_of(network_name, action)}",
        f"# {table.network.title}, {action}: every key with its default; {MISSING} has to be filled in.",
    ]
    return "\n".join(head) + "\n\n" + to_yaml(tree, comments)


def _in_order(table: KeyTable) -> dict[str, Any]:
    """Defaults in the order of the spec class, mandatory keys as ``???``."""
    tree: dict[str, Any] = {}
    for key in field_nodes(table.cls):
        if not table.is_there(key):
            continue
        value = value_at(table.defaults, key)
        if key in table.leaves or value is None:
            put(tree, key, MISSING if key in table.mandatory else value)
    return tree


def _nodes(schema: Mapping[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, node in schema.get("properties", {}).items():
        found[f"{prefix}{name}"] = node
        found.update(_nodes(node, f"{prefix}{name}."))
    return found


def _comment(node: dict[str, Any], is_mandatory: bool, indent: int) -> str:
    """Description, unit and what is allowed, wrapped to the width of the file."""
    text = str(node.get("description", ""))
    facts = []
    if is_mandatory:
        facts.append("mandatory")
    if "x_unit" in node:
        facts.append(f"unit: {node['x_unit']}")
    if "properties" not in node and described(node) not in _OBVIOUS:
        facts.append(described(node))
    if facts:
        text = f"{text} [{'; '.join(facts)}]"
    return "\n".join(textwrap.wrap(text, WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False))
