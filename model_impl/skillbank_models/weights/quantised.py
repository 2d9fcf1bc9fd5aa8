"""Weights kept as 8-bit numbers with scales, as plain tensors that any reader of checkpoints can open.

A quantised tensor `name` is stored as two: ``name#int8`` or ``name#fp8_e4m3fn``, and ``name#scale``. A scale
has the axes of the tensor, of length 1 where the scale does not change, so that their product is the tensor
again. All other tensors are stored as they are. Nothing of the library that quantised is needed to read the
file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skillbank.errors import InvalidValueError

__all__ = ["DTYPES", "is_packed", "pack", "restore"]

DTYPES: Mapping[str, torch.dtype] = {"int8": torch.int8, "fp8_e4m3fn": torch.float8_e4m3fn}

_SCALE = "#scale"


def pack(name: str, values: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """The two tensors that stand for a quantised one.

    Args:
        name: of the tensor in the checkpoint.
        values: its 8-bit numbers.
        scale: float32, broadcasts with `values`.
    """
    kind = next(kind for kind, dtype in DTYPES.items() if dtype == values.dtype)
    return {f"{name}#{kind}": values.contiguous(), f"{name}{_SCALE}": scale.float().contiguous()}


def is_packed(tensors: Mapping[str, Tensor]) -> bool:
    """Whether some tensors are quantised ones."""
    return any(name.endswith(_SCALE) for name in tensors)


def restore(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """All tensors in float32, quantised ones computed back; others are handed through.

    Args:
        where: the file, for messages.

    Raises:
        InvalidValueError: a quantised tensor lacks its numbers or its scale.
    """
    plain: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        base, mark, kind = name.rpartition("#")
        if mark and kind in {*DTYPES, "scale"}:
            halves.setdefault(base, {})["scale" if kind == "scale" else "values"] = tensor
        else:
            plain[name] = tensor
    broken = [name for name, found in halves.items() if len(found) != 2]
    if broken:
        raise InvalidValueError(
            f"{where}: quantised tensors without their numbers or scale: {', '.join(sorted(broken)[:10])}",
            hint="the file is damaged; quantise again",
            key=where,
        )
    for name, found in halves.items():
        plain[name] = found["values"].float() * found["scale"]
    return plain
