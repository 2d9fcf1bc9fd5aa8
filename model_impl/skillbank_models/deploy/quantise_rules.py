"""Which layers are quantised, and how: the rules of a spec, read once for both kinds of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from skillbank.errors import InvalidValueError, SkillBankError, collect

__all__ = ["Choice", "LayerRules"]

_WHOLE, _BY_AXIS = "MinMaxObserver", "PerChannelMinMaxObserver"  # one scale, one for each index


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
        in_graph: whether the rules are for an ONNX file, whose weights have one scale or one for each output.
        ranges: how ranges of inputs are found.

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
        in_graph: bool = False,
        ranges: str = "MinMax",
    ) -> None:
        self._formats = tuple(formats)
        self._with_activations = with_activations
        self._in_graph, self._ranges = in_graph, ranges
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
        axis = rule.weights.quant_axis
        if axis is None and rule.weights.observer_or_fake_quant == _BY_AXIS:
            axis = 0
        return Choice(rule.weights.dtype, axis, activations)

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
            key_of, why, allowed = self._axis_fault(name, found)
            if why:
                refuse(f"{name}.{key_of}", getattr(found, key_of), why, allowed)
            if found.kwargs:
                refuse(f"{name}.kwargs", found.kwargs, "are not read", ["{}"])
        return out

    def _axis_fault(self, name: str, found: Any) -> tuple[str, str, Sequence[Any]]:
        """Setting, fault and what is allowed, where observer or axis cannot be followed; else no fault."""
        observer, axis = found.observer_or_fake_quant, found.quant_axis
        is_input = name == "activations"
        observers = ("nothing", _WHOLE) if is_input else ("nothing", _WHOLE, _BY_AXIS)
        if is_input and axis is not None:
            return "quant_axis", "cannot be followed: inputs of a layer have one scale", ["nothing"]
        if not is_input and self._in_graph and axis not in (None, 0):
            why = "cannot be followed in an ONNX file: its weights have one scale, or one for each output"
            return "quant_axis", why, ["nothing", 0]
        setting = "observer_or_fake_quant"
        if observer not in (None, *observers):
            why = "is not known here; quantize.algorithm chooses how ranges of inputs are found"
            return setting, why, observers
        if observer == _WHOLE and axis is not None:
            return setting, f"finds one scale, and quant_axis {axis} wants several", ["nothing", _BY_AXIS]
        if observer == _WHOLE and is_input and self._ranges != "MinMax":
            why = f"is not what quantize.algorithm and backend_kwargs ask for, which is {self._ranges}"
            return setting, why, ["nothing"]
        return setting, "", observers
