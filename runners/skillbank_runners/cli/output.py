"""What commands print: records on stdout in one of four forms, talk on stderr.

Programs get JSON, people get tables; which of the two is there is told from the terminal, or by ``-o``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO

from skillbank.errors import UsageError
from skillbank_runners.cli.pipes import told_of_stdout

__all__ = [
    "FORMATS",
    "chosen",
    "emit",
    "for_people",
    "paint",
    "plain",
    "talk",
    "to_json",
    "to_yaml",
    "visible",
    "write",
]

FORMATS = ("json", "yaml", "table", "id")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_COLOURS = {"red": "31", "yellow": "33", "green": "32", "bold": "1", "dim": "2"}


def for_people(stream: TextIO) -> bool:
    """Whether a person reads the stream."""
    return stream.isatty()


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, on terminals where ``NO_COLOR`` does not forbid it."""
    if not for_people(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def talk(text: str) -> None:
    """A line for people, on stderr; where nobody can read it, the command goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def write(text: str) -> None:
    """Text on stdout, with one line end."""
    with told_of_stdout():
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()


def plain(value: Any) -> Any:
    """The value as JSON can hold it: paths and enums as text, numbers that are none as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(data: Any) -> str:
    """Indented strict JSON."""
    return json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def to_yaml(data: Any) -> str:
    """YAML in the order of the data."""
    import yaml

    return str(yaml.safe_dump(plain(data), sort_keys=False, allow_unicode=True, default_flow_style=False))


def chosen(output: str | None) -> str:
    """The form to print in.

    Raises:
        UsageError: a form that does not exist.
    """
    if output is None:
        return "table" if for_people(sys.stdout) else "json"
    if output not in FORMATS:
        setting = "=" in output
        raise UsageError(
            f"-o: {output!r} is no output form; use {', '.join(FORMATS)}",
            hint=f"settings are written without a flag: {output}" if setting else "-o json",
            key="-o",
            value=output,
            allowed=FORMATS,
        )
    return output


def emit(
    data: Any,
    output: str | None,
    *,
    columns: Sequence[str] = (),
    name: str = "id",
    people: Mapping[str, Any] | None = None,
) -> None:
    """Print a record or a list of records on stdout.

    Args:
        output: value of ``-o``.
        people: a shorter record for the table form.
        columns: fields of a table of records, in order; empty = all of the first record.
        name: the field that ``-o id`` prints.
    """
    form = chosen(output)
    if form == "json":
        write(to_json(data))
    elif form == "yaml":
        write(to_yaml(data))
    elif form == "id":
        for line in _names(data, name):
            write(line)
    else:
        from skillbank_runners.cli.cells import print_table

        print_table(plain(data if people is None else people), columns)


def _names(data: Any, name: str) -> Iterable[str]:
    rows = plain(data)
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Mapping) and name not in row:
            raise UsageError(
                f"-o id: this command prints no {name!r}",
                hint="-o json",
                key="-o",
                value="id",
                allowed=FORMATS,
            )
        yield str(row[name] if isinstance(row, Mapping) else row)


def visible(text: str) -> str:
    """The text with what would steer the terminal (escape codes in names, messages) shown instead."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)
