"""What a checkpoint says of itself beside its tensors: settings that have no shape, and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidValueError, SkillBankError, collect
from skillbank_models.data.categories import Categories, Category
from skillbank_models.weights.files import FACTS, read_tensors

__all__ = ["CheckpointFacts", "stored_categories", "stored_facts"]


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """The settings of a network that change what it computes while no tensor tells them.

    Attributes:
        settings: dotted spec keys.
    """

    settings: tuple[str, ...]

    def of(self, spec: Any, categories: Categories, **more: Any) -> dict[str, Any]:
        """Plain values for a checkpoint; `more` are further facts of the network."""
        classes = [
            {
                "index": index,
                "id": found.id,
                "name": found.name,
                "color": list(found.color),
                "thing": found.is_thing,
            }
            for index, found in enumerate(categories.by_index)
            if found is not None
        ]
        settings = {key: _value(spec, key) for key in self.settings}
        return {"settings": settings, "num_classes": len(categories), "classes": classes, **more}

    def read(self, marks: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that a file states, by dotted key; empty for files of other programs."""
        facts = marks.get(FACTS)
        found = facts.get("settings") if isinstance(facts, Mapping) else None
        return (
            {key: found[key] for key in self.settings if key in found} if isinstance(found, Mapping) else {}
        )

    def check(self, marks: Mapping[str, Any], spec: Any, path: Path, key: str) -> None:
        """Refuse settings other than those the weights were trained with.

        Raises:
            InvalidValueError: names all settings to change.
        """
        problems: list[SkillBankError] = [
            InvalidValueError(
                f"{key}: {path} was trained with {name}={value}, and the spec says {_value(spec, name)}",
                hint=f"{name}={'null' if value is None else value}",
                key=name,
                value=_value(spec, name),
                allowed=[value],
            )
            for name, value in self.read(marks).items()
            if value != _value(spec, name)
        ]
        if problems:
            raise collect(problems, str(path))


def stored_facts(path: Path, key: str) -> Mapping[str, Any]:
    """All that a checkpoint says of itself; empty when it does not tell."""
    facts = read_tensors(path, key=key).marks.get(FACTS)
    return facts if isinstance(facts, Mapping) else {}


def stored_categories(path: Path, key: str) -> Categories | None:
    """The classes that a checkpoint was trained on; None when it does not tell."""
    facts = stored_facts(path, key)
    if not facts.get("classes"):
        return None
    by_index: list[Category | None] = [None] * int(facts["num_classes"])
    for row in facts["classes"]:
        red, green, blue = row["color"]
        by_index[row["index"]] = Category(row["id"], row["name"], (red, green, blue), row["thing"])
    return Categories(tuple(by_index))


def _value(spec: Any, key: str) -> Any:
    value = spec
    for part in key.split("."):
        value = getattr(value, part)
    return value
