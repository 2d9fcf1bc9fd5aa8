"""Command tables: words of a command line to functions, whose modules are imported only when one is called.

Each executable has one table; it is the only list of its commands. Help pages and the command reference are
rendered from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

from skillbank.errors import UsageError

__all__ = ["Found", "Leaf", "More", "Scope", "Table", "resolve", "summary_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Words before a command that it needs to know: the network and, in the short form, the action."""

    network: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A command.

    Attributes:
        target: ``module:function``, the module below `skillbank_runners.cli`; its docstring is the help.
        extra_help: text below the help that depends on the scope, made when help is asked for.
    """

    target: str
    scope: Scope = Scope()
    extra_help: Callable[[Scope], str] | None = None

    def function(self) -> Callable[..., None]:
        """The function, imported now."""
        module, _, name = self.target.partition(":")
        found: Callable[..., None] = getattr(importlib.import_module(f"skillbank_runners.cli.{module}"), name)
        return found


class More(Protocol):
    """Words of a table that are only known at run time, such as network names."""

    def names(self) -> Sequence[tuple[str, str]]:
        """Words and what each is, for the help page."""

    def find(self, word: str) -> Leaf | Table | None:
        """What stands behind a word, or None."""

    def sample(self) -> tuple[str, Leaf | Table] | None:
        """A placeholder such as ``NETWORK`` with its content, for the command reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A word that other words follow.

    Attributes:
        example: one line that can be run.
        commands: word -> command or further table, in the order of the help page.
    """

    summary: str
    example: str
    commands: Mapping[str, Leaf | Table] = field(default_factory=dict)
    more: More | None = None

    def find(self, word: str) -> Leaf | Table | None:
        """What stands behind a word; ``_`` and ``-`` count as equal."""
        for name in (word, word.replace("_", "-"), word.replace("-", "_")):
            if name in self.commands:
                return self.commands[name]
        return self.more.find(word) if self.more else None

    def words(self) -> list[str]:
        """Every word that may follow."""
        return [*self.commands, *(name for name, _ in (self.more.names() if self.more else ()))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a command line leads.

    Attributes:
        path: the words up to there, the executable first.
        rest: the words behind.
    """

    path: tuple[str, ...]
    node: Leaf | Table
    rest: list[str]


def resolve(program: str, table: Leaf | Table, argv: Sequence[str]) -> Found:
    """Follow the words of a command line as far as they name tables and commands.

    Raises:
        UsageError: a word that names nothing; the message has the nearest one.
    """
    path = [program]
    node = table
    rest = list(argv)
    while isinstance(node, Table) and rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        following = node.find(word)
        if following is None:
            raise _unknown(path, node, word)
        path.append(word)
        node = following
    return Found(path=tuple(path), node=node, rest=rest)


def _unknown(path: Sequence[str], table: Table, word: str) -> UsageError:
    where = " ".join(path)
    if not word:
        return UsageError(
            f"{where}: an empty word where a command is expected; is the variable there empty?",
            hint=f"{where} --help",
        )
    words = table.words()
    near = get_close_matches(word.replace("_", "-"), words, n=1, cutoff=0.5) or get_close_matches(
        word, words, n=1
    )
    return UsageError(
        f"{where}: there is no command {word!r}; "
        + (f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(words)),
        hint=f"{where} {near[0]} --help" if near else f"{where} --help",
        key="command",
        value=word,
        allowed=words,
    )


def summary_of(node: Leaf | Table) -> str:
    """One line on what a word is."""
    if isinstance(node, Table):
        return node.summary
    doc: Any = node.function().__doc__ or ""
    return str(doc).strip().splitlines()[0]
