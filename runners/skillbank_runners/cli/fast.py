"""Schemas and default specs without an option parser: scripts ask for them in loops, the files are packaged.

Only the plain form of these command lines is answered here. Whatever is unusual - another output form, an
unknown name, an empty variable, networks from elsewhere - is left to the ordinary way and its messages.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from skillbank_runners.cli.index import packaged, with_experiment

__all__ = ["packaged_schema", "packaged_spec"]


def packaged_schema(words: Sequence[str]) -> str | None:
    """The answer to ``NETWORK get-job-schema --action ACTION [--base-experiment-id ID]``, or None."""
    return _schema(words, "get-job-schema", {"--action", "--base-experiment-id"})


def packaged_spec(words: Sequence[str]) -> str | None:
    """The answer to ``NETWORK get-spec --action ACTION --job_type TYPE --id ID``, or None."""
    text = _schema(words, "get-spec", {"--action", "--base-experiment-id", "--job-type", "--id"})
    return None if text is None else _dumped(json.loads(text)["default"])


def _schema(words: Sequence[str], command: str, flags: Collection[str]) -> str | None:
    """The text of the schema that the words ask for."""
    if len(words) < 4 or words[1].replace("_", "-") != command:
        return None
    given = _pairs(words[2:], flags)
    found = packaged(words[0])
    if (
        given is None
        or found is None
        or given.get("--job-type", "experiment") not in ("experiment", "dataset")
    ):
        return None
    folder, manifest = found
    if given.get("--action") not in manifest.get("actions", {}):
        return None
    text = _text(folder / "schemas" / f"{given['--action']}.schema.json")
    name = given.get("--base-experiment-id")
    if text is None or name is None:
        return text
    specs = {item["id"]: item["specs"] for item in manifest.get("base_experiments", [])}
    if name not in specs:
        return None
    if not specs[name]:
        return text
    schema = json.loads(text)
    schema["default"] = with_experiment(schema["default"], specs[name])
    return _dumped(schema)


def _pairs(words: Sequence[str], flags: Collection[str]) -> dict[str, str] | None:
    """Flag -> value; None when the words are not just flags, each once and with a value."""
    found: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=False):
        spelled = name.replace("_", "-")
        if spelled not in flags or spelled in found or not value.strip() or value.startswith("-"):
            return None
        found[spelled] = value
    return found if len(words) % 2 == 0 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _dumped(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
