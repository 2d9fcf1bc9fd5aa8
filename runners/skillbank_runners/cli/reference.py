"""The command reference: the help page of every command, from the tables that also run them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from skillbank_runners.cli import skillbank, tao, tao_client
from skillbank_runners.cli.app import command_of
from skillbank_runners.cli.helptext import command_help, table_help
from skillbank_runners.cli.table import Leaf, More, Table

__all__ = ["commands", "render"]

_INTRODUCTION = """\
Three executables. `tao` and `tao-client` speak the command lines of the product documentation, `skillbank` is
for the bank itself. `NETWORK` and `ACTION` stand for a name that `skillbank networks` lists.

- Records go to stdout: JSON when stdout is no terminal, a table on one, `-o json|yaml|table|id` to choose.
  Talk, progress and errors go to stderr; with `-o json` the last line there is `{"error": {...}}`. `NO_COLOR`
  is respected.
- Exit codes: 0 done, 1 a bug of ours (a log file is named), 2 usage, 3 validation, 4 not found, 5 backend,
  6 job failed, 130 interrupted.
- Flags may be written with `_` or `-` and stand anywhere. A flag without its value is an error that asks for
  the empty variable behind it. `--debug` adds tracebacks to any command.
- Settings of a spec are words `KEY=VALUE`; `-o KEY=VALUE` means the same.
"""


def executables() -> dict[str, Table]:
    """Name -> table."""
    return {"tao": tao.table(), "tao-client": tao_client.table(), "skillbank": skillbank.table()}


def commands() -> Iterator[tuple[str, Leaf | Table]]:
    """Every table and command with the words that lead to it; run-time words are placeholders."""
    for name, table in executables().items():
        yield from _below(name, table)


def _below(where: str, node: Leaf | Table) -> Iterator[tuple[str, Leaf | Table]]:
    yield where, node
    if isinstance(node, Leaf):
        return
    for word, following in node.commands.items():
        yield from _below(f"{where} {word}", following)
    sample = node.more.sample() if node.more else None
    if sample:
        yield from _below(f"{where} {sample[0]}", sample[1])


def render() -> str:
    """The whole reference as Markdown; the same on every machine."""
    parts = ["# Command reference", "", _INTRODUCTION]
    for where, node in commands():
        parts += [
            "#" * min(2 + where.count(" "), 4) + f" {where}",
            "",
            "```text",
            _page(where, node).rstrip(),
            "```",
            "",
        ]
    return "\n".join(parts).rstrip() + "\n"


def _page(where: str, node: Leaf | Table) -> str:
    if isinstance(node, Table):
        return table_help(where, _without_names(node))
    extra = node.extra_help(node.scope) if node.extra_help else ""
    return command_help(where, node.function().__doc__ or "", command_of(node).params, extra)


def _without_names(table: Table) -> Table:
    """The table with a placeholder for its run-time words; the page must not depend on what is there."""
    return replace(table, more=_Placeholder(table.more)) if table.more else table


class _Placeholder:
    """One word that stands for all run-time words."""

    def __init__(self, more: More) -> None:
        self._more = more

    def names(self) -> list[tuple[str, str]]:
        sample = self._more.sample()
        if sample is None:
            return []
        word, node = sample
        meaning = (
            node.summary if isinstance(node, Table) else (node.function().__doc__ or "").partition("\n")[0]
        )
        return [(word, meaning)]

    def find(self, word: str) -> Leaf | Table | None:
        return self._more.find(word)

    def sample(self) -> tuple[str, Leaf | Table] | None:
        return self._more.sample()
