"""Writing of specs as YAML that YAML 1.1 and 1.2 readers understand alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["to_yaml"]

WIDTH = 100
MISSING = "???"

_PLAIN = re.compile(r"[A-Za-z_/](?:[\w/.+=@%~-]|(?<![ :]) (?=[\w/.+=@%~(]))*", re.ASCII)
_NOT_PLAIN = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


def to_yaml(nested: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """`nested` as YAML text in its own order; `load_yaml` gives the same values back.

    Args:
        nested: maps, lists, text, numbers, bools and None. The text ``???`` stays bare: not set.
        comments: dotted key -> text that is put above the key.
    """
    return "".join(f"{line}\n" for line in _map_lines(nested, "", "", comments or {}))


def _map_lines(
    nested: Mapping[str, Any], indent: str, prefix: str, comments: Mapping[str, str]
) -> Iterator[str]:
    for name, value in nested.items():
        key = f"{prefix}{name}"
        for line in comments.get(key, "").splitlines():
            yield f"{indent}# {line}".rstrip()
        yield from _entry_lines(f"{indent}{_text(str(name))}:", value, indent, f"{key}.", comments)
    if not nested and not prefix:
        yield "{}"


def _entry_lines(
    head: str, value: Any, indent: str, prefix: str, comments: Mapping[str, str]
) -> Iterator[str]:
    """Lines of one value behind `head`, which is ``key:`` or ``-``."""
    inner = f"{indent}  "
    if isinstance(value, Mapping) and value:
        yield head
        yield from _map_lines(value, inner, prefix, comments)
        return
    line = f"{head} {_flow(value)}"
    if isinstance(value, list) and (len(line) > WIDTH or any(isinstance(item, Mapping) for item in value)):
        yield head
        for item in value:
            yield from _entry_lines(f"{inner}-", item, inner, f"{prefix}-.", {})
        return
    yield line


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return value if value == MISSING else _text(value)
    raise TypeError(f"{type(value).__name__} has no place in a spec")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    text = repr(value)
    mantissa, mark, exponent = text.partition("e")
    # YAML 1.1 takes 1e-05 for text; with a point both versions read a number.
    return f"{mantissa}.0e{exponent}" if mark and "." not in mantissa else text


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)
