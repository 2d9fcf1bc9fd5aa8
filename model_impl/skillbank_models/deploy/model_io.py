"""What a deployed file takes, read from the file itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from skillbank.errors import ShapeError

__all__ = ["DeployedModel", "ModelInput"]

_MULTIPLE = 32  # image sizes of open length are multiples of the coarsest stride


class DeployedModel(Protocol):
    """A network in a file, of whatever kind."""

    @property
    def inputs(self) -> dict[str, ModelInput]:
        """What the file takes, in its order."""

    @property
    def outputs(self) -> list[str]:
        """Names of the results, in order."""

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter stored with the file."""

    @property
    def batch_size(self) -> int | None:
        """Images of one call; None = several numbers are possible."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the image input; None = open."""

    def __call__(self, inputs: Any) -> dict[str, Any]:
        """Run a batch of any size; tensors for tensors, arrays for arrays."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input.

    Attributes:
        shape: lengths; None where the file leaves one open. The first is the batch.
        least: smallest batch of one call.
        most: largest batch of one call; None = any.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype
    least: int = 1
    most: int | None = None

    @classmethod
    def read(cls, name: str, shape: Sequence[int | str | None], dtype: torch.dtype) -> ModelInput:
        """From lengths as runtimes give them: names, None or -1 stand for an open one."""
        lengths = tuple(length if isinstance(length, int) and length >= 0 else None for length in shape)
        batch = lengths[0] if lengths else None
        return cls(name, lengths, dtype, least=batch or 1, most=batch)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where both are fixed."""
        if len(self.shape) != 4 or self.shape[2] is None or self.shape[3] is None:
            return None
        return self.shape[2], self.shape[3]

    def check(self, shape: Sequence[int], where: str) -> None:
        """Refuse an array of another shape; the batch may be any number above zero.

        Raises:
            ShapeError: names the array, its shape and what is taken.
        """
        lengths = list(zip(self.shape[1:], shape[1:], strict=False))
        fits = len(shape) == len(self.shape) and shape[0] > 0
        fits = fits and all(want is None or want == have for want, have in lengths)
        open_size = len(self.shape) == 4 and None in self.shape[2:]
        if fits and open_size:
            fits = all(want is not None or have % _MULTIPLE == 0 for want, have in lengths[1:])
        if fits:
            return
        wanted = ", ".join("any" if length is None else str(length) for length in self.shape[1:])
        raise ShapeError(
            f"{where}: input {self.name} has the shape {tuple(shape)}; the file takes (batch, {wanted})"
            + (f", height and width multiples of {_MULTIPLE}" if open_size else ""),
            hint="resize and pad the images to this size, or export with export.dynamic_size=true",
            key=self.name,
            value=list(shape),
        )
