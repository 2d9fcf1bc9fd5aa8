"""What the packaged files say of networks; read where importing a network would cost most of the time."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.bank import bank_root
from skillbank.errors import SkillBankError

if TYPE_CHECKING:
    from skillbank.specs.base import Network

__all__ = ["action_descriptions", "network_titles", "packaged", "with_experiment"]


def packaged(network: str) -> tuple[Path, dict[str, Any]] | None:
    """Skill folder and ``schemas/manifest.json`` of a bundled network; None where the files cannot tell."""
    if os.environ.get("SKILLBANK_NETWORKS", "").strip():
        return None  # it may stand in for a bundled one
    try:
        manifests = sorted((bank_root() / "skills").glob("*/schemas/manifest.json"))
        for path in manifests:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["network_arch"] == network:
                return path.parent.parent, content
    except (OSError, ValueError, KeyError, TypeError, SkillBankError):
        return None
    return None


def network_titles() -> dict[str, str]:
    """Network -> what it does."""
    from skillbank.specs import network, network_names

    found = {}
    for name in network_names():
        known = packaged(name)
        found[name] = known[1]["summary"] if known and "summary" in known[1] else network(name).summary
    return found


def action_descriptions(network: Network) -> dict[str, str]:
    """Action -> what it does, as the skill says; empty where the network has no skill."""
    from skillbank.skill_info import load_skill_info

    try:
        return {name: info.description for name, info in load_skill_info(network).actions.items()}
    except SkillBankError:
        return {}


def with_experiment(default: Mapping[str, Any], specs: Mapping[str, Any]) -> dict[str, Any]:
    """A nested spec with the dotted keys of a base experiment laid over it, as far as it has them."""
    out = copy.deepcopy(dict(default))
    for key, value in specs.items():
        *sections, name = key.split(".")
        node: Any = out
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict) and (name in node or not sections):
            node[name] = copy.deepcopy(value)
    return out
