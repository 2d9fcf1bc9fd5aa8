"""Tables of playbooks, rendered from specs and machine facts into marked blocks of hand-written files.

A block stands between ``<!-- generated:NAME -->`` and ``<!-- /generated -->``. NAME is one of `BLOCKS`; words
and ``key=value`` pairs may follow: ``generated:parameters network=mask2former``, ``generated:shared launch``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from skillbank.errors import DataError, NotFoundError
from skillbank.generate import tables
from skillbank.generate.tables import Subject
from skillbank.skill_info import SkillInfo
from skillbank.specs.base import Network

__all__ = ["BLOCKS", "Bank", "marked_files", "render"]

_OPEN = re.compile(r"<!-- generated:([\w-]+)((?: [\w.=-]+)*) -->")
_CLOSE = "<!-- /generated -->"

TABLES: Mapping[str, Callable[[Subject], str]] = {
    "actions": tables.actions,
    "automl-parameters": tables.automl_parameters,
    "data-sources": tables.data_sources,
    "metrics": tables.metrics,
    "overrides": tables.overrides,
    "parameters": tables.parameters,
    "shorthand": tables.shorthand,
    "spec-params": tables.spec_params,
}

BLOCKS = tuple(sorted([*TABLES, "networks", "shared", "status"]))
"""Names that a block may have."""


@dataclass(frozen=True, slots=True)
class Bank:
    """What blocks are rendered from.

    Attributes:
        root: folder of the bank.
        networks: network name -> network and the machine facts of its skill, sorted by name.
    """

    root: Path
    networks: Mapping[str, tuple[Network, SkillInfo]]

    def of_skill(self, skill: str) -> str | None:
        """Name of the network whose skill folder has that name."""
        return next((name for name, (network, _) in self.networks.items() if network.skill == skill), None)

    def is_bundled(self, name: str) -> bool:
        """Whether the implementation of a network is part of this bank."""
        network, _ = self.networks[name]
        return (self.root / "model_impl" / Path(*network.impl.split("."))).is_dir()


def render(bank: Bank, path: Path, text: str) -> str:
    """`text` with every marked block filled anew; text without blocks comes back as it is.

    Args:
        bank: what blocks are rendered from.
        path: where the text is from, relative to the bank; a file below a skill is about the skill's network.
        text: Markdown.

    Raises:
        DataError: an unknown block, a network that is not there, or a block that is not closed.
    """
    out: list[str] = []
    skill = path.parts[1] if path.parts[:1] == ("skills",) and len(path.parts) > 2 else ""
    inside: int | None = None
    is_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            if line.strip() == _CLOSE:
                out.append(line)
                inside = None
            elif _OPEN.fullmatch(line.strip()):
                raise DataError(
                    f"{path}, line {inside}: the block is not closed", hint=f"add {_CLOSE}", key=str(path)
                )
            continue
        out.append(line)
        if line.lstrip().startswith(("```", "~~~")):
            is_code = not is_code
        match = None if is_code else _OPEN.fullmatch(line.strip())
        if match:
            inside = number
            block = _block(bank, f"{path}, line {number}", skill, match.group(1), match.group(2).split())
            out += block.splitlines()
    if inside is not None:
        raise DataError(
            f"{path}, line {inside}: the block is not closed", hint=f"add {_CLOSE}", key=str(path)
        )
    return "".join(f"{line}\n" for line in out)


def _block(bank: Bank, where: str, skill: str, name: str, arguments: list[str]) -> str:
    named = dict(argument.partition("=")[::2] for argument in arguments if "=" in argument)
    words = [argument for argument in arguments if "=" not in argument]
    if name not in BLOCKS or set(named) - {"network"} or (words and name != "shared"):
        raise DataError(
            f"{where}: there is no block {' '.join([name, *arguments])!r}; blocks are {', '.join(BLOCKS)}",
            hint="network=NAME may follow, and behind shared the name of a file in references/shared",
            key=where,
            allowed=list(BLOCKS),
        )
    network = named.get("network") or bank.of_skill(skill)
    if network is not None and network not in bank.networks:
        raise DataError(f"{where}: there is no network {network!r}", key=where, allowed=list(bank.networks))
    if name == "networks":
        return tables.networks(bank.networks)
    if name == "status":
        return tables.status({key: bank.is_bundled(key) for key in bank.networks}, network)
    if name == "shared":
        return _shared(bank, where, words, network)
    if network is None:
        raise DataError(
            f"{where}: the block is about a network, but the file belongs to none",
            hint=f"<!-- generated:{name} network={next(iter(bank.networks), 'NAME')} -->",
            key=where,
        )
    return TABLES[name](Subject(*bank.networks[network]))


def _shared(bank: Bank, where: str, words: list[str], network: str | None) -> str:
    path = bank.root / "references" / "shared" / f"{words[0] if words else ''}.md"
    if len(words) != 1 or not path.is_file():
        names = ", ".join(sorted(item.stem for item in path.parent.glob("*.md"))) or "none"
        raise NotFoundError(
            f"{where}: the shared text {' '.join(words)!r} is not in references/shared; there are {names}",
            hint="<!-- generated:shared NAME -->",
            key=where,
        )
    return path.read_text(encoding="utf-8").replace("{network}", network or "NETWORK").strip()


def marked_files(root: Path) -> list[Path]:
    """Hand-written files that hold blocks, relative to the bank, sorted."""
    found = [
        *root.glob("skills/*/SKILL.md"),
        *root.glob("skills/*/references/*.md"),
        *root.glob("references/*.md"),
        *root.glob("*.md"),
    ]
    return sorted(
        path.relative_to(root)
        for path in found
        if path.is_file() and "<!-- generated:" in path.read_text(encoding="utf-8")
    )
