"""The bank as a whole: networks, generated files, error list, command reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skillbank.errors import NotFoundError, SkillBankError, UsageError
from skillbank_runners.cli.options import Output
from skillbank_runners.cli.output import emit, talk, write

__all__ = ["generate", "list_errors", "list_networks", "reference"]

REFERENCE_FILE = Path("references/cli.md")


def list_networks(output: Output = None) -> None:
    """List the networks: what each does, its actions, whether its implementation is there.

    Example:
    skillbank networks
    """
    from skillbank.runtime import has_implementation
    from skillbank.specs import networks

    rows = [
        {
            "name": found.name,
            "title": found.title,
            "summary": found.summary,
            "actions": list(found.actions),
            "skill": found.skill,
            "implementation": has_implementation(found),
        }
        for found in networks()
    ]
    emit(rows, output, columns=("name", "summary", "actions", "implementation"), name="name")


def generate(
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare only; exit code 3 when a file is stale, missing or left over."),
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="FOLDER", help="Checkout to work on; this one by default."),
    ] = None,
) -> None:
    """Write every generated file of a checkout: schemas, templates, playbook tables, references, indexes.

    Example:
    skillbank generate --check
    """
    from skillbank import generate as generator
    from skillbank.bank import bank_root, is_installed_copy
    from skillbank_runners.cli.reference import render

    if root is None:
        if is_installed_copy():
            raise UsageError(
                "generated files of an installed wheel are not rewritten",
                hint="run it in a checkout: git clone, then skillbank generate --root .",
                key="--root",
            )
        root = bank_root()
    elif not (root / "skills").is_dir():
        raise NotFoundError(
            f"{root}: no checkout, it has no skills/", hint="--root .", key="--root", value=str(root)
        )
    extra = {REFERENCE_FILE: render().encode("utf-8")}
    if check:
        talk(f"{generator.check(root, extra=extra)} generated files are up to date")
        return
    written = generator.write(root, extra=extra)
    for path in written:
        write(str(path))
    talk(f"{len(written)} files written")


def list_errors(output: Output = None) -> None:
    """List the errors with their codes and exit codes.

    Example:
    skillbank errors
    """
    emit(
        [
            {
                "code": kind.code,
                "exit_code": kind.exit_code,
                "name": kind.__name__,
                "meaning": (kind.__doc__ or "").strip().splitlines()[0],
            }
            for kind in _kinds(SkillBankError)
        ],
        output,
        columns=("code", "exit_code", "meaning"),
        name="code",
    )


def _kinds(base: type[SkillBankError]) -> list[type[SkillBankError]]:
    found: list[type[SkillBankError]] = []
    for kind in base.__subclasses__():
        if kind.__module__ == "skillbank.errors":
            found += [kind, *_kinds(kind)]
    return found


def reference() -> None:
    """Print the reference of every command as Markdown.

    Example:
    skillbank reference > cli.md
    """
    from skillbank_runners.cli.reference import render

    write(render())
