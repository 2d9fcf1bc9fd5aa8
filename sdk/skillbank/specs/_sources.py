"""Specs and overrides as users hand them over: files, texts, and ``key=value`` items."""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skillbank.errors import NotFoundError, SkillBankError, SpecError, UsageError, collect
from skillbank.specs._keys import key_table
from skillbank.specs._values import from_override, is_secret, shown
from skillbank.specs._yaml import MAX_CHARACTERS, parse_text

__all__ = ["parse_overrides", "read_spec"]

_PIPE_PATIENCE_S = 15.0

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


def read_spec(source: str | Path) -> dict[str, Any]:
    """The nested map of a spec given as ``@file``, as a path, or as JSON or YAML text.

    Raises:
        NotFoundError: no such file.
        SpecError: the text cannot be read or does not hold a map; names file, line and column.
    """
    if isinstance(source, str):
        text = source.strip()
        if not text:
            raise SpecError("the spec is empty", hint="give a file (@spec.yaml) or JSON text", key="specs")
        if text in ("null", "None"):
            raise SpecError(
                f"the spec is {text!r}; the command that should have printed it found nothing",
                hint="print the variable to see what it holds",
                key="specs",
            )
        if text.startswith("@"):
            return _read_file(Path(text[1:]).expanduser())
        if text.startswith(("{", "[")) or "\n" in text or re.match(r"[\w.-]+:\s", text):
            return _as_map(parse_text(text, "spec text"), "spec text")
        source = Path(text).expanduser()
    return _read_file(source)


def _read_file(path: Path) -> dict[str, Any]:
    if str(path) in ("", "."):
        raise SpecError("the name of the spec file is empty", hint="write @spec.yaml", key="specs")
    try:
        raw = _bytes_of(path)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise NotFoundError(f"there is no spec file {path}", hint=_files_near(path), key=str(path)) from err
    except IsADirectoryError as err:
        raise SpecError(
            f"{path} is a folder, not a spec file", hint=f"name a file: {path}/spec.yaml", key=str(path)
        ) from err
    except (OSError, ValueError) as err:
        why = err.strerror if isinstance(err, OSError) else str(err)
        raise SpecError(f"{path} cannot be read: {why}", hint=f"ls -l {path}", key=str(path)) from err
    if len(raw) > MAX_CHARACTERS:
        raise SpecError(
            f"{path} has more than {MAX_CHARACTERS // 10**6} MB; a spec is a short YAML or JSON text",
            hint="is this a checkpoint or an archive?",
            key=str(path),
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        column = err.start - (raw.rfind(b"\n", 0, err.start) + 1) + 1
        raise SpecError(
            f"{path}, line {line}, column {column}: byte 0x{raw[err.start]:02x} is not UTF-8 text",
            hint=f"file {path}",
            key=str(path),
        ) from err
    if not text.strip():
        raise SpecError(
            f"{path} is empty", hint="tao <network> get-job-schema --action <action>", key=str(path)
        )
    return _as_map(parse_text(text, str(path)), str(path))


def _bytes_of(path: Path) -> bytes:
    """The content; one byte more than allowed tells a file that is too long, or never ends."""
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb") as file:
            return file.read(MAX_CHARACTERS + 1)
    # Opening a named pipe the ordinary way waits for a writer for ever; `<(command)` is one too.
    content = b""
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while len(content) <= MAX_CHARACTERS:
            if not select.select([pipe], [], [], _PIPE_PATIENCE_S)[0]:
                raise OSError(errno.ETIMEDOUT, "it is a pipe that nobody writes to")
            piece = os.read(pipe, 1 << 16)
            if not piece:
                break
            content += piece
    finally:
        os.close(pipe)
    return content


def _files_near(path: Path) -> str:
    try:
        names = sorted(
            item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml", ".json")
        )
    except OSError:
        return f"the folder {path.parent} is not there either"
    return (
        f"spec files in {path.parent}: {', '.join(names[:8])}"
        if names
        else f"{path.parent} holds no spec file"
    )


def _as_map(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if value is None:
        raise SpecError(f"{name} holds no keys", hint="write at least {} for the defaults", key=name)
    kind = "a list" if isinstance(value, list) else f"the single value {shown(name, value)}"
    raise SpecError(f"{name} holds {kind}; a spec is a map of keys", hint="results_dir: /results", key=name)


def parse_overrides(
    items: Sequence[str], *, network: str | None = None, action: str | None = None
) -> dict[str, Any]:
    """``key=value`` items as a map from dotted key to value; of two items for one key the later wins.

    Values are read as YAML scalars; lists and maps stand in brackets, ``train.gpu_ids=[0,1]``. Where network
    and action are given, a key that holds text keeps its value letter for letter (``results_dir=007``).

    Raises:
        UsageError: an item that is no ``key=value``; all of them are named.
        SpecError: a list or map in brackets that cannot be read.
        NotFoundError: no such network or action.
    """
    if isinstance(items, str):  # each letter of a text would count as an item
        items = [items]
    table = key_table(network, action) if network and action else None
    out: dict[str, Any] = {}
    problems: list[SkillBankError] = []
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            problems.append(_bad_override(item, key, bool(equals)))
            continue
        leaf = table.find(table.rewritten(key)[0]) if table is not None else None
        try:
            out.pop(key, None)
            out[key] = from_override(text.strip(), leaf.kinds if leaf else frozenset(), f"override {key}")
        except SpecError as err:
            problems.append(err)
    if problems:
        raise collect(problems, "the list of overrides")
    return out


def _bad_override(item: str, key: str, has_equals: bool) -> UsageError:
    name = re.split(r"[=:\s]", item, maxsplit=1)[0]
    hides = has_equals or is_secret(name)
    what = f"override {item.partition('=')[0] if has_equals else name}=..." if hides else f"override {item!r}"
    if key.startswith(("+", "~")):
        bare = key.lstrip("+~")
        why = "every key of a spec is there already; none is added or removed"
        return UsageError(f"{what}: {why}", hint=f"{bare}=<value>, or {bare}=null to empty it", key=bare)
    if "[" in key:
        bare = key.partition("[")[0]
        return UsageError(f"{what}: lists are set as a whole", hint=f"{bare}=[...]", key=bare)
    return UsageError(f"{what} is no key=value", hint="train.num_epochs=5", key=name)
