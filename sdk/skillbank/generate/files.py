"""Writing generated files, and telling which of them are stale, missing or left over."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from skillbank.errors import NotFoundError, StaleFilesError, UsageError
from skillbank.generate.manifest import bank_manifest, schema_path, skill_manifest, template_path
from skillbank.generate.meta import meta_files
from skillbank.generate.playbooks import Bank, marked_files, render
from skillbank.generate.schemas import HEADER, action_schema, dumped
from skillbank.generate.templates import spec_template
from skillbank.resolve.functions import check_spec_params
from skillbank.skill_info import SkillInfo, load_skill_info
from skillbank.specs import networks
from skillbank.specs.base import Network
from skillbank.storage.disk import replacing

__all__ = ["check", "networks_of", "outputs", "write"]

log = logging.getLogger(__name__)

MANIFEST = Path("manifest.json")
CLI_REFERENCE = Path("references/cli.md")

_DIFF_LINES = 20
_LISTED = 20
_HEAD_BYTES = 400


def outputs(root: Path, *, extra: Mapping[Path, bytes] | None = None) -> dict[Path, bytes]:
    """Everything that is generated, relative to the bank, sorted by path.

    Args:
        root: folder of the bank.
        extra: files that other packages render, such as the reference of the command line. None takes those
            that are there as they are, for callers without a command line.

    Raises:
        NotFoundError: there is nothing to generate from, or a skill has no machine facts.
        DataError: a marked block that is unknown or not closed.
    """
    bank = Bank(root, networks_of(root))
    if not bank.networks:
        raise NotFoundError(
            f"{root} has no skill folder of any network, so there is nothing to generate",
            hint="run skillbank generate in a checkout",
        )
    found: dict[Path, bytes] = {}
    for network, info in bank.networks.values():
        folder = Path("skills") / network.skill
        schemas = {action: action_schema(network.name, action) for action in network.actions}
        for action, schema in schemas.items():
            found[folder / schema_path(action)] = dumped(schema)
            found[folder / template_path(action)] = spec_template(network.name, action, schema).encode()
        found[folder / "schemas/manifest.json"] = dumped(skill_manifest(network, info, schemas))
    found.update(meta_files())
    if extra is not None:
        found.update(extra)
    elif (root / CLI_REFERENCE).is_file():
        found[CLI_REFERENCE] = (root / CLI_REFERENCE).read_bytes()
    found[MANIFEST] = dumped(bank_manifest(bank.networks, found))
    for path in marked_files(root):
        if path in found:
            continue
        found[path] = render(bank, path, (root / path).read_text(encoding="utf-8")).encode()
    return dict(sorted(found.items(), key=lambda item: item[0].as_posix()))


def networks_of(root: Path) -> dict[str, tuple[Network, SkillInfo]]:
    """Networks whose skill folder is in this bank, with the machine facts found there.

    Raises:
        DataError: machine facts that name functions or keys that there are not.
    """
    found = {}
    for network in networks():
        folder = root / "skills" / network.skill
        if network.skill_path is not None and network.skill_path.resolve() != folder.resolve():
            continue
        if folder.is_dir():
            here = replace(network, skill_path=folder)
            check_spec_params(here)
            found[network.name] = (network, load_skill_info(here))
    return found


def write(root: Path, *, extra: Mapping[Path, bytes] | None = None) -> list[Path]:
    """Write what is new or different and remove left-over files of ours; paths relative to the bank.

    Raises:
        UsageError: the bank is an installed copy.
        StorageError: a file cannot be written.
    """
    _refuse_installed(root)
    wanted = outputs(root, extra=extra)
    changed = [path for path, content in wanted.items() if _content(root / path) != content]
    for path in changed:
        with replacing(root / path) as file:
            file.write(wanted[path])
    for path in _left_over(root, wanted):
        if _is_ours(root / path):
            (root / path).unlink()
            changed.append(path)
        else:
            log.warning("%s lies where only generated files belong; remove it by hand", path)
    return changed


def check(root: Path, *, extra: Mapping[Path, bytes] | None = None) -> int:
    """Compare the files of the bank with what they should be; returns how many were compared.

    Raises:
        StaleFilesError: files that are stale, missing or left over; names them and shows the differences.
    """
    wanted = outputs(root, extra=extra)
    states = {path: _state(root / path, content) for path, content in wanted.items()}
    bad = {path: state for path, state in states.items() if state}
    bad.update(dict.fromkeys(_left_over(root, wanted), "left over"))
    if not bad:
        return len(wanted)
    counted = {state: list(bad.values()).count(state) for state in ("stale", "missing", "left over")}
    what = ", ".join(f"{number} {state}" for state, number in counted.items() if number)
    lines = [f"{len(bad)} of {len(wanted)} generated files are not what they should be: {what}"]
    for path, state in list(bad.items())[:_LISTED]:
        lines.append(f"  {state}: {path.as_posix()}")
        if state == "stale":
            lines += [f"    {line}" for line in _difference(root / path, wanted[path], path)]
    if len(bad) > _LISTED:
        lines.append(f"  and {len(bad) - _LISTED} more")
    by_hand = [path for path, state in bad.items() if state == "left over" and not _is_ours(root / path)]
    hint = (
        f"skillbank generate; remove by hand: {' '.join(map(str, by_hand))}"
        if by_hand
        else "skillbank generate"
    )
    raise StaleFilesError(
        "\n".join(lines), hint=hint, key=next(iter(bad)).as_posix(), value=sorted(map(str, bad))
    )


def _state(path: Path, content: bytes) -> str:
    there = _content(path)
    if there is None:
        return "missing"
    return "" if there == content else "stale"


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _difference(path: Path, content: bytes, name: Path) -> list[str]:
    old = (_content(path) or b"").decode("utf-8", "replace").splitlines()
    new = content.decode().splitlines()
    lines = list(difflib.unified_diff(old, new, f"{name} (there)", f"{name} (wanted)", lineterm="", n=1))
    if not lines:
        return ["only line ends differ"]
    more = len(lines) - _DIFF_LINES
    return [*lines[:_DIFF_LINES], f"... {more} more lines"] if more > 0 else lines


def _left_over(root: Path, wanted: Mapping[Path, bytes]) -> list[Path]:
    """Files where only generated ones belong, or with our header, that nothing generates."""
    found = []
    for path in _candidates(root):
        name = path.relative_to(root)
        owned = name.parts[0] == "schemas" or (len(name.parts) == 4 and name.parts[2] == "schemas")
        if name not in wanted and not path.name.startswith(".") and (owned or _is_ours(path)):
            found.append(name)
    return sorted(found)


def _candidates(root: Path) -> Iterator[Path]:
    for folder in ("schemas", "references", "skills"):
        for path in (root / folder).rglob("*"):
            if path.is_file():
                yield path


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return HEADER.encode() in file.read(_HEAD_BYTES)


def _refuse_installed(root: Path) -> None:
    place = root.resolve()
    installed = {"site-packages", "dist-packages"} & set(place.parts) or place.name == "_bank"
    if installed or place.is_relative_to(Path(sys.prefix).resolve() / "lib"):
        raise UsageError(
            f"{root} is an installed copy of the bank, which is not written to",
            hint="run skillbank generate in a checkout",
            key=str(root),
        )
