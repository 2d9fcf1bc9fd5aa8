"""Help pages, rendered from a command's docstring and its options; the command reference holds the same text.

A docstring is a summary line, paragraphs, and an ``Example:`` block that is printed as it stands.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from skillbank_runners.cli.table import Table, summary_of

__all__ = ["Parameter", "command_help", "examples", "table_help"]

WIDTH = 100
_NAMES = 34


class Parameter(Protocol):
    """What is read of an option or argument."""

    opts: list[str]
    name: str | None
    metavar: str | None
    required: bool
    multiple: bool
    param_type_name: str
    default: Any


def _parts(doc: str) -> tuple[str, list[str]]:
    """Text and example lines of a docstring."""
    text, _, example = inspect.cleandoc(doc).partition("\nExample:\n")
    return text.strip(), [line.strip() for line in example.strip().splitlines() if line.strip()]


def examples(doc: str) -> list[str]:
    """The example command lines of a docstring."""
    return _parts(doc)[1]


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    lines: list[str] = []
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            lines.append("")
        lines += textwrap.wrap(
            " ".join(paragraph.split()), WIDTH, initial_indent=indent, subsequent_indent=indent
        )
    return lines


def _rows(rows: Iterable[tuple[str, str]], limit: int = _NAMES) -> list[str]:
    """Two columns; a long first column stands on its own line."""
    rows = list(rows)
    wide = min(limit, max((len(name) for name, _ in rows), default=0))
    lines: list[str] = []
    for name, text in rows:
        wrapped = textwrap.wrap(" ".join(text.split()), WIDTH - wide - 4) or [""]
        if len(name) > wide:
            lines.append(f"  {name}")
            lines += [f"  {'':<{wide}}  {part}".rstrip() for part in wrapped]
        else:
            lines.append(f"  {name:<{wide}}  {wrapped[0]}".rstrip())
            lines += [f"  {'':<{wide}}  {part}" for part in wrapped[1:]]
    return lines


def _option_row(param: Any) -> tuple[str, str]:
    names = ", ".join(sorted((*param.opts, *param.secondary_opts), key=len))
    takes_value = not param.is_flag
    metavar = param.metavar or (param.name or "").upper()
    text = param.help or ""
    notes = []
    if param.required:
        notes.append("required")
    if param.multiple:
        notes.append("may be repeated")
    if takes_value and param.default not in (None, "", (), []):
        notes.append(f"default: {param.default}")
    if notes:
        text = f"{text} [{'; '.join(notes)}]".strip()
    return (f"{names} {metavar}" if takes_value else names), text


def _argument_name(param: Any) -> str:
    name = param.metavar or (param.name or "").upper()
    shown = name if param.required or name.startswith("[") else f"[{name}]"
    return f"{shown}..." if param.nargs == -1 and not name.endswith("...") else shown


def command_help(where: str, doc: str, params: Sequence[Any], extra: str = "") -> str:
    """The help page of a command.

    Args:
        where: the words that lead to it.
        params: options and arguments as the option parser has them.
        extra: a block to stand before the options, printed as it is.
    """
    arguments = [param for param in params if param.param_type_name == "argument" and not param.hidden]
    options = [param for param in params if param.param_type_name == "option" and not param.hidden]
    text, lines = _parts(doc)
    pieces = [where, "[OPTIONS]", *(_argument_name(param) for param in arguments)]
    out = [f"Usage: {' '.join(pieces)}", "", *_wrapped(text)]
    if lines:
        out += ["", "Example:", *(f"  {line}" for line in lines)]
    if extra:
        out += ["", extra.rstrip()]
    rows = [(_argument_name(param), param.help or "") for param in arguments]
    if rows:
        out += ["", "Arguments:", *_rows(rows)]
    rows = [_option_row(param) for param in options]
    rows.append(("-h, --help", "Show this page."))
    out += ["", "Options:", *_rows(rows)]
    return "\n".join(out) + "\n"


def table_help(where: str, table: Table) -> str:
    """The help page of a word that other words follow."""
    out = [f"Usage: {where} COMMAND ...", "", *_wrapped(table.summary), "", "Example:", f"  {table.example}"]
    rows = [(name, summary_of(node)) for name, node in table.commands.items()]
    if rows:
        out += ["", "Commands:", *_rows(rows)]
    if table.more:
        rows = list(table.more.names())
        sample = table.more.sample()
        if rows:
            out += ["", f"{sample[0].capitalize() if sample else 'Name'}s:", *_rows(rows)]
    out += ["", "Every command has its own page: add --help."]
    return "\n".join(out) + "\n"
