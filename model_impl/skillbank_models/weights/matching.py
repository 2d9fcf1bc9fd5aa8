"""Comparing named tensors with those of a module, and loading the ones that fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skillbank.errors import InvalidValueError

__all__ = ["LoadReport", "Mismatch", "compare", "load_matching", "suggest"]

log = logging.getLogger(__name__)

_NAMED = 10


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor of another shape than the module's."""

    name: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.found} instead of {self.wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """How a file and a module agree, tensor by tensor.

    Attributes:
        what: where the tensors came from, for messages.
        loaded: tensors that fit by name and shape.
        missing: tensors of the module that the file lacks; they keep their initial values.
        unexpected: tensors of the file that the module lacks.
        mismatched: tensors of another shape; the module's keep their initial values.
    """

    what: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]

    @property
    def is_exact(self) -> bool:
        """Whether file and module agree in every tensor."""
        return not (self.missing or self.unexpected or self.mismatched)

    def share(self, within: str = "") -> float:
        """The share of the module's tensors, of those whose names begin with `within`, that fit."""
        fit = sum(name.startswith(within) for name in self.loaded)
        others = [*self.missing, *(item.name for item in self.mismatched)]
        wanted = fit + sum(name.startswith(within) for name in others)
        return fit / wanted if wanted else 0.0

    def text(self) -> str:
        """Counts, and the first ten names of what does not fit."""
        wanted = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f"{self.what}: loaded {len(self.loaded)} of {wanted} tensors"]
        for title, names in self.differences():
            lines.append(f"  {len(names)} {title}: {_some(names)}")
        return "\n".join(lines)

    def differences(self) -> list[tuple[str, Sequence[str]]]:
        """What does not fit: a title and the tensors, for each kind of difference that there is."""
        found: list[tuple[str, Sequence[str]]] = [
            ("missing", self.missing),
            ("of another shape", [str(item) for item in self.mismatched]),
            ("unknown here", self.unexpected),
        ]
        return [(title, names) for title, names in found if names]


def compare(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, what: str) -> LoadReport:
    """Compare names and shapes; loads nothing.

    Args:
        wanted: the state dict of a module.
        tensors: what a file has, under the module's names.
        what: where the tensors came from.
    """
    shared = [name for name in wanted if name in tensors]
    return LoadReport(
        what=what,
        loaded=tuple(name for name in shared if tensors[name].shape == wanted[name].shape),
        missing=tuple(name for name in wanted if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in wanted),
        mismatched=tuple(
            Mismatch(name, tuple(tensors[name].shape), tuple(wanted[name].shape))
            for name in shared
            if tensors[name].shape != wanted[name].shape
        ),
    )


def load_matching(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    what: str,
    key: str,
    min_share: float,
    within: str = "",
) -> LoadReport:
    """Load every tensor that fits by name and shape; the others keep what the module was initialised with.

    Tensors are converted to the dtype of the module. A module on the meta device takes over the tensors
    themselves, so that a mapped file is not copied.

    Args:
        what: where the tensors came from.
        key: spec key that named the file.
        min_share: least share of the module's tensors that must fit; below it nothing is loaded.
        within: judge that share on tensors whose names begin so.

    Raises:
        InvalidValueError: too few fit; names the likely cause.
    """
    wanted = module.state_dict()
    report = compare(wanted, tensors, what=what)
    share = report.share(within)
    if share < min_share or not report.loaded:
        raise _too_few(report, wanted, tensors, key=key, min_share=min_share, within=within)
    fitting = {name: tensors[name].to(wanted[name].dtype) for name in report.loaded}
    is_meta = any(wanted[name].is_meta for name in fitting)
    with torch.no_grad():
        module.load_state_dict(fitting, strict=False, assign=is_meta)
    return report


def suggest(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Settings to change, as ``key=value``, so that a module fits a file.

    Args:
        found: settings that the file's tensors tell, by dotted key.
        wanted: the same of the module.
    """
    out = []
    for name, value in found.items():
        if wanted.get(name, value) != value or (name not in wanted and value is not None):
            text = str(value).replace(" ", "")
            out.append(f"'{name}={text}'" if isinstance(value, list) else f"{name}={text}")
    return out


def _too_few(
    report: LoadReport,
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    key: str,
    min_share: float,
    within: str,
) -> InvalidValueError:
    of = f"the tensors of {within.rstrip('.')}" if within else "the tensors"
    return InvalidValueError(
        f"{key}: only {report.share(within):.0%} of {of} are in {report.what}, which has {len(tensors)} "
        f"tensors; {min_share:.0%} are needed. {_cause(report, wanted, tensors)}",
        hint=f"skillbank weights inspect {report.what}",
        key=key,
        value=report.what,
    )


def _cause(report: LoadReport, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    if len(report.mismatched) > len(report.missing):
        return "The names agree and the shapes do not, so it is a model of another size: " + _some(
            [str(item) for item in report.mismatched], 3
        )
    more, count = _prefix(tensors, wanted)
    if count > len(tensors) / 3:
        return f"Its names begin with {more!r}, which ours do not"
    less, count = _prefix(wanted, tensors)
    if count > len(tensors) / 3:
        return f"Its names lack {less!r}, with which ours begin, so it is part of a model"
    return f"It is another architecture; its names are like {_some(list(tensors), 3)}"


def _prefix(long: Iterable[str], short: Mapping[str, Any]) -> tuple[str, int]:
    """The beginning that most often has to be cut off a name of `long` to give one of `short`."""
    found: Counter[str] = Counter()
    for name in long:
        at = name.find(".")
        while at >= 0:
            if name[at + 1 :] in short:
                found[name[: at + 1]] += 1
            at = name.find(".", at + 1)
    return found.most_common(1)[0] if found else ("", 0)


def _some(names: Sequence[str], most: int = _NAMED) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f", and {more} more" if more > 0 else "")
