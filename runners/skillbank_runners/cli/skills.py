"""The skills of the bank: list, read, find, validate."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from skillbank.errors import DataError, NotFoundError, SkillBankError, collect
from skillbank_runners.cli.options import Output
from skillbank_runners.cli.output import emit, talk, write

__all__ = ["list_skills", "show_skill", "skill_path", "validate"]

SkillName = Annotated[
    str, typer.Argument(metavar="SKILL", help="Name of a skill, as skillbank skills list has it.")
]

_COLUMNS = ("name", "description")
_FRONTMATTER_KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")


def _folders() -> list[Path]:
    from skillbank.bank import bank_root

    return sorted(path.parent for path in (bank_root() / "skills").glob("*/SKILL.md"))


def _folder(name: str) -> Path:
    known = {folder.name: folder for folder in _folders()}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    raise NotFoundError(
        f"there is no skill {name!r}; known are {', '.join(known)}",
        hint=f"skillbank skills show {near[0]}" if near else "skillbank skills list",
        key="skill",
        value=name,
        allowed=list(known),
    )


def frontmatter(folder: Path) -> dict[str, Any]:
    """The fields on top of a SKILL.md.

    Raises:
        DataError: there is no frontmatter, or it is no YAML map.
    """
    import yaml

    path = folder / "SKILL.md"
    lines = path.read_text(encoding="utf-8").splitlines()
    hint = "begin the file with ---, name: ..., description: ..., ---"
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        raise DataError(f"{path}: no frontmatter", hint=hint, key=str(path))
    try:
        fields = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except yaml.YAMLError as err:
        raise DataError(f"{path}: frontmatter is not YAML: {err}", hint=hint, key=str(path)) from err
    if not isinstance(fields, dict):
        raise DataError(f"{path}: frontmatter is no map", hint=hint, key=str(path))
    return fields


def list_skills(output: Output = None) -> None:
    """List the skills with what each is for.

    Example:
    skillbank skills list
    """
    rows = [
        {
            "name": folder.name,
            "description": frontmatter(folder).get("description", ""),
            "path": str(folder),
            "has_evals": (folder / "evals" / "evals.json").is_file(),
        }
        for folder in _folders()
    ]
    emit(rows, output, columns=_COLUMNS, name="name")


def show_skill(skill: SkillName) -> None:
    """Print the playbook of a skill.

    Example:
    skillbank skills show tao-setup
    """
    write((_folder(skill) / "SKILL.md").read_text(encoding="utf-8"))


def skill_path(skill: SkillName) -> None:
    """Print the folder of a skill; copy it into any client that reads Agent Skills.

    Example:
    skillbank skills path tao-setup
    """
    write(str(_folder(skill)))


def validate(
    skills: Annotated[
        list[str] | None, typer.Argument(metavar="SKILL", help="Skills to check; all when none is named.")
    ] = None,
    output: Output = None,
) -> None:
    """Check skills against the Agent Skills standard and the rules of this bank.

    Example:
    skillbank skills validate
    """
    folders = [_folder(name) for name in skills] if skills else _folders()
    if not folders:
        raise NotFoundError("the bank has no skills", hint="skillbank doctor")
    reference = _reference_validator()
    if reference is None:
        talk("note: skills-ref is not installed, so only our own checks ran; pip install skills-ref")
    rows, problems = [], []
    for folder in folders:
        found = [*_own_problems(folder), *(reference(folder) if reference else [])]
        rows.append({"name": folder.name, "ok": not found, "problems": found})
        problems += [DataError(f"{folder.name}: {text}", key=folder.name) for text in found]
    emit(rows, output, columns=("name", "ok", "problems"), name="name")
    if problems:
        raise collect(list[SkillBankError](problems), "the bank")


def _reference_validator() -> Any:
    """The standard's own validator: folder -> problems; None when it is not installed."""
    try:
        from skills_ref.validator import validate as check
    except ImportError:
        return None
    return lambda folder: [str(problem) for problem in check(folder)]


def _own_problems(folder: Path) -> list[str]:
    try:
        fields = frontmatter(folder)
    except DataError as err:
        return [err.message]
    found = []
    name, description = str(fields.get("name", "")), str(fields.get("description", ""))
    if name != folder.name:
        found.append(f"frontmatter name {name!r} is not the folder's name")
    if not 1 <= len(description) <= 1024:
        found.append(f"description has {len(description)} characters; allowed are 1 to 1024")
    extra = sorted(set(fields) - set(_FRONTMATTER_KEYS))
    if extra:
        found.append(f"frontmatter keys {', '.join(extra)} are not in the standard")
    text = (folder / "SKILL.md").read_text(encoding="utf-8")
    if text.count("\n") > 500:
        found.append(f"SKILL.md has {text.count(chr(10))} lines; allowed are 500")
    found += [f"link to {target}, which is not there" for target in _dead_links(folder, text)]
    return found + _file_problems(folder)


def _dead_links(folder: Path, text: str) -> list[str]:
    import re

    links = re.findall(r"\]\(([^)#\s]+)", text)
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    return [link for link in local if not (folder / link).exists()]


def _file_problems(folder: Path) -> list[str]:
    """What the machine-readable files of the skill get wrong."""
    from skillbank.evals import load_evals
    from skillbank.skill_info import load_skill_info
    from skillbank.specs import networks

    found = []
    try:
        evals = load_evals(folder)
        if evals.skill_name != folder.name:
            found.append(f"evals.json is for {evals.skill_name!r}")
    except SkillBankError as err:
        found.append(err.message)
    for network in networks():
        if network.skill != folder.name or network.skill_path is not None:
            continue
        try:
            info = load_skill_info(network)
        except SkillBankError as err:
            found.append(err.message)
            continue
        missing = [action for action in network.actions if action not in info.actions]
        if missing:
            found.append(f"skill_info.yaml lacks the actions {', '.join(missing)}")
        for action in network.actions:
            files = (f"schemas/{action}.schema.json", f"references/spec_template_{action}.yaml")
            absent = [file for file in files if not (folder / file).is_file()]
            found += [f"{file} is not there; run skillbank generate" for file in absent]
    return found
