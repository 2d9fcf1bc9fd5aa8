"""Weight-only quantisation of a module: 8-bit numbers in the file, the module's own arithmetic when it runs.

The numbers and scales come from torchao's affine quantisation. They are stored as plain tensors (see
`skillbank_models.weights.quantised`), so reading the file needs no torchao.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skillbank.errors import InvalidValueError, RuntimeMissingError
from skillbank.runtime import is_installed
from skillbank_models.deploy.quantise_rules import Choice, LayerRules
from skillbank_models.deploy.quiet import quiet_loggers
from skillbank_models.weights.quantised import DTYPES, pack

__all__ = ["QuantisedWeights", "quantise_weights", "require_torchao"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedWeights:
    """Tensors of a module, some of them quantised.

    Attributes:
        tensors: as stored.
        layers: module path -> what was done, for the report.
        bytes_before: of all tensors before.
        bytes_after: of all tensors as stored.
    """

    tensors: Mapping[str, Tensor]
    layers: Mapping[str, dict[str, Any]]
    bytes_before: int
    bytes_after: int


def require_torchao() -> None:
    """Refuse early where torchao is missing.

    Raises:
        RuntimeMissingError: says how to get it.
    """
    if not is_installed("torchao"):
        raise RuntimeMissingError(
            "quantize.backend=torchao needs torchao, which is not installed",
            hint="pip install -c constraints.txt 'skillbank[quantize]'",
            key="torchao",
        )


@torch.no_grad()
def quantise_weights(module: nn.Module, rules: LayerRules) -> QuantisedWeights:
    """Quantise the weights of linear layers, convolutions and packed attention projections.

    Args:
        rules: which layers, and how.

    Raises:
        RuntimeMissingError: torchao is not installed.
        InvalidValueError: the rules leave nothing to quantise, or name an axis that a weight does not have.
    """
    require_torchao()
    state = module.state_dict()
    stored: dict[str, Tensor] = {name: tensor.detach().cpu() for name, tensor in state.items()}
    layers: dict[str, dict[str, Any]] = {}
    for path, name, classes in _weights(module):
        choice = rules.choice(path, classes)
        if choice is None:
            continue
        full = f"{path}.{name}" if path else name
        values, scale = _quantised(stored.pop(full).float(), choice, full)
        back = values.float() * scale
        original = state[full].cpu().float()
        stored.update(pack(full, values, scale))
        layers[full] = {
            "dtype": choice.weights,
            "scales": scale.numel(),
            "relative_error": float((back - original).norm() / original.norm().clamp_min(1e-12)),
        }
    if not layers:
        raise InvalidValueError(
            "quantize.layers and quantize.skip_names leave no layer to quantise",
            hint="quantize.layers=[] quantises every layer",
            key="quantize.layers",
        )
    for pattern in rules.unused():
        log.warning("quantize: no layer matches %r", pattern)
    return QuantisedWeights(
        tensors=stored, layers=layers, bytes_before=_bytes(state), bytes_after=_bytes(stored)
    )


def _weights(module: nn.Module) -> list[tuple[str, str, list[str]]]:
    """Module path, name of the weight, and names of the module's classes."""
    out: list[tuple[str, str, list[str]]] = []
    for path, part in module.named_modules():
        classes = [found.__name__ for found in type(part).__mro__ if issubclass(found, nn.Module)]
        if isinstance(part, nn.Linear | nn.Conv2d):
            out.append((path, "weight", classes))
        elif isinstance(getattr(part, "in_proj_weight", None), nn.Parameter):
            out.append((path, "in_proj_weight", [*classes, "Linear"]))
    return out


def _quantised(weight: Tensor, choice: Choice, name: str) -> tuple[Tensor, Tensor]:
    """8-bit numbers, and float32 scales that broadcast with them; symmetric around zero."""
    axis = choice.axis
    if axis is not None and not -weight.ndim <= axis < weight.ndim:
        raise InvalidValueError(
            f"quantize.layers: quant_axis {axis} does not exist in {name} of shape {tuple(weight.shape)}",
            hint="0 is the axis of outputs, empty means one scale",
            key="quantize.layers",
            value=axis,
        )
    keep = None if axis is None else axis % weight.ndim
    block = tuple(1 if place == keep else length for place, length in enumerate(weight.shape))
    shape = tuple(length // side for length, side in zip(weight.shape, block, strict=True))
    if choice.weights == "fp8_e4m3fn":
        largest = torch.finfo(torch.float8_e4m3fn).max
        axes = tuple(place for place in range(weight.ndim) if place != keep)
        scale = (weight.abs().amax(axes, keepdim=True) / largest).clamp_min(1e-12)
        return (weight / scale).clamp(-largest, largest).to(DTYPES["fp8_e4m3fn"]), scale
    with quiet_loggers(("torchao", "torch.utils._pytree")):  # tells of kernels that this has no use for
        from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

    scale, zero = choose_qparams_affine(
        weight, MappingType.SYMMETRIC, block, torch.int8, quant_min=-127, quant_max=127, eps=1e-12
    )
    values = quantize_affine(weight, block, scale, zero, torch.int8, quant_min=-127, quant_max=127)
    return values, scale.reshape(shape)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
