"""Runs a command line: table, option parser, exit code. The three executables differ in their tables only."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from skillbank.errors import UsageError
from skillbank_runners.cli.argv import Flags, asks_for_help, tidy
from skillbank_runners.cli.faults import guarded, usage_error
from skillbank_runners.cli.helptext import command_help, table_help
from skillbank_runners.cli.output import talk, write
from skillbank_runners.cli.pipes import open_standard_streams, speak_utf8
from skillbank_runners.cli.table import Leaf, Table, resolve

__all__ = ["command_of", "flags_of", "run"]

_MAY_BE_EMPTY = frozenset({"--description", "--request"})


def run(program: str, table: Callable[[], Leaf | Table], argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        program: name of the executable.
        table: its commands, or the one command it is.
        argv: words behind the executable; None = those of this process.
    """
    open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in words:
        words.remove("--debug")
        os.environ["SKILLBANK_DEBUG"] = "1"
    speak_utf8()
    with _talking():
        return guarded(lambda: _dispatch(program, table(), _readable(program, words)), words, program)


def _readable(program: str, words: Sequence[str]) -> list[str]:
    """The words as UTF-8 text, also where the locale knows ASCII only.

    Raises:
        UsageError: a word in another encoding.
    """
    out = []
    for word in words:
        try:
            out.append(os.fsencode(word).decode("utf-8"))
        except UnicodeDecodeError as err:
            raise UsageError(
                f"{program}: {ascii(word)[1:-1]} is not UTF-8 text; names, paths and values are",
                hint="rename the file, or write the value anew",
            ) from err
    return out


@contextmanager
def _talking() -> Iterator[None]:
    """Let warnings of the library reach the user in the form of other talk, during the body."""
    debug = bool(os.environ.get("SKILLBANK_DEBUG"))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(levelname)s %(name)s: %(message)s" if debug else "note: %(message)s")
    )
    loggers = [logging.getLogger(name) for name in ("skillbank", "skillbank_runners")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def _dispatch(program: str, table: Leaf | Table, words: list[str]) -> int:
    if words[:1] in (["--version"], ["-V"]):
        from skillbank import __version__

        write(f"{program} {__version__}")
        return 0
    found = resolve(program, table, words)
    where = " ".join(found.path)
    if isinstance(found.node, Table):
        return _table_page(where, found.node, found.rest)
    return _call(where, found.node, found.rest)


def _table_page(where: str, table: Table, rest: list[str]) -> int:
    """The help page; on stdout when it was asked for, else on stderr as the answer to a missing command."""
    if rest and not asks_for_help(rest):
        raise UsageError(
            f"{where}: a command is expected before {rest[0].partition('=')[0]!r}",
            hint=f"{where} --help",
            key=rest[0],
        )
    if rest:
        write(table_help(where, table))
        return 0
    talk(table_help(where, table).rstrip())
    raise UsageError(f"{where}: a command is missing", hint=f"{where} --help")


def command_of(leaf: Leaf) -> Any:
    """The option parser's command of a function."""
    import typer
    from typer.main import get_command

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(leaf.function())
    return get_command(app)


def flags_of(command: Any) -> Flags:
    """The flags of a command, as its parameters declare them."""
    plain: set[str] = set()
    valued: set[str] = set()
    for param in command.params:
        if param.param_type_name == "option":
            names = {*param.opts, *param.secondary_opts}
            (plain if param.is_flag else valued).update(names)
    return Flags(
        plain=frozenset(plain),
        valued=frozenset(valued),
        may_be_empty=_MAY_BE_EMPTY & valued,
        settings=any("KEY=VALUE" in (param.metavar or "") for param in command.params),
    )


def _call(where: str, leaf: Leaf, rest: list[str]) -> int:
    import typer

    command = command_of(leaf)
    flags = flags_of(command)
    if asks_for_help(rest, flags.valued):
        extra = leaf.extra_help(leaf.scope) if leaf.extra_help else ""
        write(command_help(where, leaf.function().__doc__ or "", command.params, extra))
        return 0
    args = tidy(rest, flags, where)
    try:
        with command.make_context(where, args, obj=leaf.scope) as context:
            command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    except _complaint_class() as err:
        raise usage_error(err.format_message(), where) from err
    return 0


def _complaint_class() -> type[Any]:
    """The class of the option parser's own complaints, wherever its package keeps it."""
    import typer

    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
