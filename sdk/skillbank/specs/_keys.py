"""The keys of one network and action: leaves, sections, other spellings of keys, defaults, mandatory ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from skillbank.errors import NotFoundError
from skillbank.nested import alike, value_at
from skillbank.specs import network, spec_class
from skillbank.specs._values import Spelling, converter, fooled_by_bool, has_reference, is_secret, kinds
from skillbank.specs.base import ActionSpec, FieldNote, Network, field_note, section_type, walk

__all__ = ["KeyTable", "Leaf", "key_table"]

ACTION_NAMES = frozenset(
    {
        "dataset_convert",
        "distill",
        "evaluate",
        "export",
        "gen_trt_engine",
        "inference",
        "prune",
        "quantize",
        "retrain",
        "train",
    }
)
"""Names that may head a block of another action in any network's spec."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A key that holds a value; map-typed values count as one leaf."""

    key: str
    note: FieldNote
    kinds: frozenset[str]
    spelling: Spelling | None
    convert: Callable[[Any], Any] | None
    is_fooled: Callable[[Any], bool] | None

    @property
    def is_text(self) -> bool:
        """Whether the value can only be text or nothing."""
        return self.kinds <= {"string", "null"}

    def has_reference(self, value: Any) -> bool:
        """Whether the value refers to another key; a secret never does, whatever characters it has."""
        return has_reference(value) and not is_secret(self.key)

    def settled(self, value: Any) -> Any:
        """The value in its canonical spelling and number type."""
        if self.spelling is not None:
            value = self.spelling(value)
        return self.convert(value) if self.convert is not None else value


class KeyTable:
    """What loading needs to know of a spec class; built once for each class."""

    def __init__(self, network: Network, action: str, cls: type[ActionSpec]) -> None:
        self.network = network
        self.action = action
        self.cls = cls
        self.leaves: dict[str, Leaf] = {}
        self.infos: dict[str, FieldInfo] = {}
        self.checkers: dict[str, TypeAdapter[Any]] = {}
        self.sections: dict[str, bool] = {}  # key -> may be null
        for key, info, section in walk(cls):
            if section is not None:
                self.sections[key] = "null" in kinds(info.annotation)
                continue
            note = field_note(info)
            self.infos[key] = info
            self.leaves[key] = Leaf(
                key,
                note,
                kinds(info.annotation),
                Spelling.of(info.annotation, note),
                converter(info.annotation),
                fooled_by_bool(info.annotation),
            )
        self.defaults: dict[str, Any] = cls().model_dump()
        self.mandatory = tuple(
            key
            for key, leaf in self.leaves.items()
            if action in leaf.note.mandatory_for and value_at(self.defaults, key) in (None, "")
        )
        siblings = {
            name
            for other in network.actions.values()
            for name, info in other.model_fields.items()
            if section_type(info.annotation) is not None
        }
        self.foreign = (ACTION_NAMES | set(network.actions) | siblings) - set(cls.model_fields)

    @property
    def title(self) -> str:
        """Network and action, for messages."""
        return f"{self.network.name} {self.action}"

    @cached_property
    def shorthand(self) -> Mapping[str, str]:
        """Short names of keys from the skill's machine facts; only read when a key is not known otherwise."""
        # Imported late: the models of that module cost as much as a whole network.
        from skillbank.skill_info import load_skill_info

        try:
            return load_skill_info(self.network).spec_shorthand_keys
        except NotFoundError:
            return {}

    def find(self, key: str) -> Leaf | None:
        """The leaf of a canonical key; for a key inside a map-typed leaf, that leaf."""
        leaf = self.leaves.get(key)
        while leaf is None and "." in key:
            key = key.rpartition(".")[0]
            leaf = self.leaves.get(key)
            if leaf is not None:
                return leaf if "object" in leaf.kinds else None
        return leaf

    def known(self, key: str) -> bool:
        """Whether a canonical key is a section, a leaf, or inside a map-typed leaf."""
        return key in self.sections or self.find(key) is not None

    def rewritten(self, path: str) -> tuple[str, str]:
        """The canonical form of a key, and the alias or short name that was replaced ("" = none).

        What is not known in any spelling comes back unchanged.
        """
        key, replaced = path, ""
        for _ in range(8):  # an alias may lead to an alias; declared loops end here
            if self.known(key):
                return key, replaced
            head, rest = key, ""
            while head and head not in self.network.aliases:
                head, _, last = head.rpartition(".")
                rest = f".{last}{rest}"
            if not head:
                break
            key, replaced = self.network.aliases[head] + rest, replaced or head
        if replaced:
            return (key, replaced) if self.known(key) or key.partition(".")[0] in self.foreign else (path, "")
        head = path.partition(".")[0]
        if head not in self.foreign and path in self.shorthand and self.known(self.shorthand[path]):
            return self.shorthand[path], path
        return path, ""

    def is_right(self, key: str, value: Any) -> bool:
        """Whether a value has the type of a leaf and is inside its bounds."""
        if key not in self.checkers:
            info = self.infos[key]
            typed: Any = Annotated[info.annotation, *info.metadata]
            self.checkers[key] = TypeAdapter(typed, config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            self.checkers[key].validate_python(value)
        except ValidationError:
            return False
        return True

    def is_there(self, key: str) -> bool:
        """Whether a key is there without being asked for: not inside an optional section."""
        parent = key.rpartition(".")[0]
        return not parent or value_at(self.defaults, parent) is not None

    def is_default(self, key: str, value: Any) -> bool:
        """Whether a value says no more than the default; inside an optional section every value counts."""
        return key in self.leaves and self.is_there(key) and alike(value, value_at(self.defaults, key))

    def leads_to_alias(self, path: str) -> bool:
        """Whether some alias lies below a path."""
        return any(alias.startswith(f"{path}.") for alias in self.network.aliases)

    def nearest(self, path: str) -> list[str]:
        """Known keys that an unknown one may stand for, the likeliest first.

        The same last name elsewhere is the strongest sign (the key is misplaced), then a like name beside it,
        then a name that people use for a key.
        """
        parent, _, name = path.rpartition(".")
        everything = [*self.leaves, *self.sections]
        misplaced = [key for key in everything if key.rpartition(".")[2] == name]
        if misplaced:
            return sorted(misplaced, key=lambda key: -difflib.SequenceMatcher(None, key, path).ratio())[:3]
        beside = {key.rpartition(".")[2]: key for key in everything if key.rpartition(".")[0] == parent}
        others = {alias.rpartition(".")[2]: key for alias, key in self.network.aliases.items()} | dict(
            self.shorthand
        )
        for names, cutoff in ((beside, 0.6), (others, 0.8)):
            close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
            if close and self.known(names[close[0]]):
                return [names[close[0]]]
        return difflib.get_close_matches(path, everything, n=1, cutoff=0.75)


_tables: dict[tuple[str, str, type[ActionSpec]], KeyTable] = {}


def key_table(network_name: str, action: str) -> KeyTable:
    """The table of a network's action.

    Raises:
        NotFoundError: no such network or action.
    """
    cls = spec_class(network_name, action)
    found = network(network_name)
    table = _tables.get((network_name, action, cls))
    if table is None or table.network is not found:
        table = _tables[network_name, action, cls] = KeyTable(found, action, cls)
    return table
