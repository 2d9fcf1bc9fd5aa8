"""Records as tables: nothing is broken inside a word, so that ids, paths and commands can be copied."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from skillbank_runners.cli.output import for_people, paint, talk, visible, write

__all__ = ["print_table"]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_GAP = 2
# Room that a column of text should have before a table becomes a list.
_TEXT = 24


def print_table(data: Any, columns: Sequence[str]) -> None:
    """Rows for a list of records, name and value for one record.

    On a terminal the last column of text is folded between words; a table that still does not fit is shown as
    a list. Elsewhere lines are as long as they need to be.
    """
    if isinstance(data, Mapping):
        rows = [[str(key), _cell(value)] for key, value in data.items() if value not in (None, [], {}, "")]
        _draw([], rows)
    elif data and isinstance(data[0], Mapping):
        fields = [
            field
            for field in columns or list(data[0])
            if any(row.get(field) not in (None, [], {}, "") for row in data)
        ]
        _draw(fields, [[_cell(row.get(field)) for field in fields] for row in data])
    elif data:
        write("\n".join(_cell(value) for value in data))
    else:
        talk("nothing to list")


def _draw(fields: list[str], rows: list[list[str]]) -> None:
    width = shutil.get_terminal_size().columns if for_people(sys.stdout) else None
    every = [fields, *rows] if fields else rows
    wide = [max((_widest(row[index]) for row in every), default=0) for index in range(len(every[0]))]
    needed = sum(wide) + _GAP * (len(wide) - 1)
    folded = None
    if width is not None and needed > width:
        folded = next((i for i in reversed(range(len(wide))) if any(" " in row[i] for row in rows)), None)
        room = width - (needed - wide[folded]) if folded is not None else 0
        if fields and (folded is None or room < _TEXT):
            _draw_list(fields, rows, width)
            return
        if folded is not None:
            words = max((len(word) for row in every for word in row[folded].split()), default=1)
            wide[folded] = max(room, words, 1)
    _print_grid(fields, rows, wide, folded)


def _print_grid(fields: list[str], rows: list[list[str]], wide: list[int], folded: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    coloured = for_people(sys.stdout) and not os.environ.get("NO_COLOR")
    lines = io.StringIO()
    console = Console(
        file=lines,
        width=sum(wide) + _GAP * len(wide),
        highlight=False,
        color_system="standard" if coloured else None,
        force_terminal=coloured,
    )
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        header_style="bold",
        show_edge=False,
        show_header=bool(fields),
    )
    for index, most in enumerate(wide):
        name = fields[index] if fields else ""
        style = "bold" if not fields and not index else None
        table.add_column(name, width=most, no_wrap=index != folded, overflow="fold", style=style)
    for row in rows:
        names = fields or [row[0]] * len(row)
        table.add_row(*(_tinted(field, text) for field, text in zip(names, row, strict=True)))
    console.print(table)
    write("\n".join(line.rstrip() for line in lines.getvalue().splitlines()))


def _draw_list(fields: list[str], rows: list[list[str]], width: int) -> None:
    """One block for each record: its first field, then the others below it."""
    margin = max(len(field) for field in fields) + 4
    lines = []
    for row in rows:
        lines.append(paint(row[0], "bold", sys.stdout))
        for field, text in zip(fields[1:], row[1:], strict=True):
            if text:
                first, *more = _folded(text, width - margin)
                lines.append(f"  {field:<{margin - 2}}{first}")
                lines += [" " * margin + line for line in more]
    write("\n".join(lines))


def _folded(text: str, width: int) -> list[str]:
    """Lines of text, folded between words."""
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]
    ]


def _widest(text: str) -> int:
    from rich.cells import cell_len

    return max((cell_len(line) for line in text.splitlines()), default=0)


def _cell(value: Any) -> str:
    return visible(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        records = any(isinstance(item, Mapping) for item in value)
        return ("\n" if records else ", ").join(_text(item) for item in value)
    if isinstance(value, Mapping):
        if "message" in value and "code" in value:
            hint = f"\nhint: {value['hint']}" if value.get("hint") else ""
            return f"{value['message']}{hint}"
        return ", ".join(f"{name}={_text(item)}" for name, item in value.items())
    if isinstance(value, str) and _TIME.fullmatch(value):
        return f"{datetime.fromisoformat(value).astimezone():%Y-%m-%d %H:%M:%S}"
    return str(value)


def _tinted(field: str, text: str) -> Any:
    """Cell text; the states of jobs carry a colour."""
    from rich.text import Text

    colours = {"done": "green", "error": "red", "running": "cyan", "canceled": "yellow"}
    return Text(text, style=colours.get(text, "") if field == "state" else "")
