"""Which layers are quantised, and how: the rules of a spec, read once for both kinds of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from skillbank.errors import InvalidValueError, SkillBankError, collect

__all__ = ["Choice", "LayerRules"]

_OBSERVERS = ("MinMaxObserver", "PerChannelMinMaxObserver")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done to one layer.

    Attributes:
        weights: number format of the weights.
        axis: axis of the weights with one scale for each index; None = one scale for all.
        activations: number format of the inputs; None leaves them.
    """

    weights: str
    axis: int | None
    activations: str | None


class LayerRules:
    """The settings `quantize.layers` and `quantize.skip_names`.

    Without rules every layer is quantised, its weights with one scale for each output. With rules the first
    one that matches holds, and a layer that none matches is left alone. A pattern is matched with the whole
    module path, with any part of it from the start of a name, and with the class name, such as ``Linear`` or
    ``Conv2d``; in an ONNX file also with the name of the node.

    Args:
        layers: rules of the spec.
        skip_names: patterns of what is left alone, whatever the rules say.
        formats: number formats that weights can have here.
        with_activations: whether inputs of layers are quantised too.

    Raises:
        InvalidValueError: a rule asks for what this way of quantising does not do; all such rules are listed.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        skip_names: Sequence[str],
        *,
        formats: Iterable[str],
        with_activations: bool,
    ) -> None:
        self._formats = tuple(formats)
        self._with_activations = with_activations
        problems: list[SkillBankError] = []
        for number, rule in enumerate(layers):
            problems += self._problems(f"quantize.layers[{number}]", rule)
        if problems:
            raise collect(problems, "quantize.layers")
        self._layers, self._skip = list(layers), list(skip_names)
        self._used: set[str] = set()

    def choice(self, path: str, class_names: Iterable[str]) -> Choice | None:
        """What is done to a layer; None leaves it."""
        names = tuple(class_names)
        if any(self._matches(pattern, path, names) for pattern in self._skip):
            return None
        default = "int8" if self._with_activations else None
        if not self._layers:
            return Choice("int8", 0, default)
        rule = next((rule for rule in self._layers if self._matches(rule.module_name, path, names)), None)
        if rule is None or rule.weights is None:
            return None
        activations = rule.activations.dtype if rule.activations is not None else None
        return Choice(rule.weights.dtype, rule.weights.quant_axis, activations)

    def unused(self) -> list[str]:
        """Patterns that matched nothing so far, other than ``*``."""
        patterns = [rule.module_name for rule in self._layers] + self._skip
        return [pattern for pattern in patterns if pattern != "*" and pattern not in self._used]

    def _matches(self, pattern: str, path: str, class_names: Sequence[str]) -> bool:
        parts = path.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts)))
        heads = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        found = (
            any(fnmatchcase(name, pattern) for name in class_names)
            or any(fnmatchcase(tail, pattern) for tail in tails)
            or any(fnmatchcase(head, pattern) for head in heads)
        )
        if found:
            self._used.add(pattern)
        return found

    def _problems(self, key: str, rule: Any) -> list[SkillBankError]:
        out: list[SkillBankError] = []

        def refuse(name: str, value: Any, why: str, allowed: Sequence[Any]) -> None:
            out.append(
                InvalidValueError(
                    f"{key}.{name}: {value!r} {why}; use {', '.join(map(str, allowed))}",
                    key=f"{key}.{name}",
                    value=value,
                    allowed=allowed,
                )
            )

        if rule.weights is not None and rule.weights.dtype not in self._formats:
            refuse("weights.dtype", rule.weights.dtype, "is no format this backend writes", self._formats)
        if rule.activations is not None:
            if not self._with_activations:
                refuse(
                    "activations",
                    rule.activations.dtype,
                    "cannot be used in mode weight_only_ptq",
                    ["nothing"],
                )
            elif rule.activations.dtype != "int8":
                refuse(
                    "activations.dtype", rule.activations.dtype, "is no format this backend writes", ["int8"]
                )
            elif rule.weights is None:
                refuse("weights", None, "leaves the weights of a layer whose inputs are quantised", ["int8"])
        for name in ("weights", "activations"):
            found = getattr(rule, name)
            if found is None:
                continue
            if found.observer_or_fake_quant not in (None, *_OBSERVERS):
                refuse(
                    f"{name}.observer_or_fake_quant",
                    found.observer_or_fake_quant,
                    "is not known here; quantize.algorithm chooses how ranges of inputs are found",
                    ("nothing", *_OBSERVERS),
                )
            if found.kwargs:
                refuse(f"{name}.kwargs", found.kwargs, "are not read", ["{}"])
        return out
