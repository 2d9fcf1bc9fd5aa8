"""Patterns that say which files are left out, with the meaning they have in ``.gitignore``.

`*` and `?` stay within one folder, `**` crosses folders, a trailing `/` matches folders only, a `/` elsewhere
ties the pattern to the root, `!` takes a file back in unless one of its folders is left out, and the last
match decides. Character classes by name, as in ``[[:alpha:]]``, are not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Ignore"]

_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    keeps: bool
    folders_only: bool


class Ignore:
    """A list of patterns.

    Args:
        lines: as in a file: empty lines and those that begin with ``#`` say nothing.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def matches(self, name: str, *, is_folder: bool = False) -> bool:
        """Whether the file, or one of the folders above it, is left out.

        Args:
            name: relative to the root, with ``/``.
            is_folder: the name is that of a folder.
        """
        parts = name.strip("/").split("/")
        above = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return any(self._last(folder, is_folder=True) for folder in above) or self._last(
            "/".join(parts), is_folder=is_folder
        )

    def _last(self, name: str, *, is_folder: bool) -> bool:
        for rule in reversed(self._rules):
            if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(name):
                return not rule.keeps
        return False


def _rule(line: str) -> _Rule | None:
    line = line.rstrip("\r\n")
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    keeps = line.startswith("!")
    body = line[1:] if keeps else line
    folders_only = body.endswith("/")
    body = body[:-1] if folders_only else body
    if not body:
        return None
    is_tied = "/" in body
    translated = _translate(body.removeprefix("/"))
    if translated is None:
        return _Rule(_NEVER, keeps, folders_only)
    start = "" if is_tied else "(?:.*/)?"
    return _Rule(re.compile(start + translated, re.DOTALL), keeps, folders_only)


def _translate(glob: str) -> str | None:
    """The glob as a regular expression; None for one that git lets match nothing."""
    out: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        if char == "*":
            end = at
            while end < len(glob) and glob[end] == "*":
                end += 1
            piece, at = _stars(glob, at, end)
            out.append(piece)
        elif char == "?":
            out.append("[^/]")
            at += 1
        elif char == "[":
            found = _char_class(glob, at)
            if found is None:
                return None
            out.append(found[0])
            at = found[1]
        elif char == "\\":
            if at + 1 == len(glob):
                return None
            out.append(re.escape(glob[at + 1]))
            at += 2
        else:
            out.append(re.escape(char))
            at += 1
    return "".join(out)


def _stars(glob: str, start: int, end: int) -> tuple[str, int]:
    """Stars from `start` to `end`, and where to go on."""
    opens = start == 0 or glob[start - 1] == "/"
    if end - start < 2 or not opens:
        return "[^/]*", end
    if end == len(glob):
        return (".+" if start else ".*"), end
    if glob[end] == "/":
        return "(?:.*/)?", end + 1
    return "[^/]*", end


def _char_class(glob: str, start: int) -> tuple[str, int] | None:
    """A class such as ``[a-z]`` from `start`, and where to go on; None when it does not end."""
    at = start + 1
    is_negative = at < len(glob) and glob[at] in "!^"
    at += is_negative
    members: list[str] = []
    first = True
    while at < len(glob) and (first or glob[at] != "]"):
        first = False
        if glob[at] == "\\" and at + 1 < len(glob):
            at += 1
            members.append(re.escape(glob[at]))
        elif glob[at] == "-" and members and at + 1 < len(glob) and glob[at + 1] != "]":
            members.append("-")
        else:
            members.append(re.escape(glob[at]))
        at += 1
    if at >= len(glob):
        return None
    body = "".join(members)
    try:
        re.compile(f"[{body}]")
    except re.error:
        return None
    return f"(?!/)[{'^' if is_negative else ''}{body}]", at + 1
