"""Optimiser and learning-rate schedule of the 2D segmentation networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, StepLR

from skillbank.errors import ConflictError, InvalidValueError
from skillbank_models.layers.norms import ChannelLayerNorm

if TYPE_CHECKING:
    from skillbank.specs.common import Optim

__all__ = ["build_optimiser", "build_schedule"]

_SECOND_BETA = 0.999  # published recipes
_POWER = 0.9  # of Warmuppoly; published recipes
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, ChannelLayerNorm)
_TABLES = {"relative_position_bias_table", "absolute_pos_embed", "pos_embed"}
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def build_optimiser(module: nn.Module, optim: Optim) -> Optimizer:
    """The optimiser of all parameters that are to be trained, in one group per learning rate and decay.

    What lies below ``backbone`` learns at ``lr * backbone_multiplier``. Norms, embeddings, position tables
    and modules with ``without_decay = True`` do not decay; biases of linear layers and convolutions do.

    Args:
        module: the network; parameters without ``requires_grad`` are left out.
        optim: `train.optim` of a spec.

    Returns:
        Groups have a ``name``: backbone, backbone without decay, head, head without decay; those without
        parameters are left out.

    Raises:
        ConflictError: nothing is left to train.
        InvalidValueError: a momentum that AdamW cannot work with.

    Source: the published recipes of Mask2Former (Cheng et al. 2022, section 4.1).
    """
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter, decays in _trained(module):
        key = (name.startswith("backbone."), decays)
        members.setdefault(key, []).append(parameter)
    if not members:
        raise ConflictError(
            "train.freeze: every parameter of the network is frozen, so there is nothing to train; at least "
            "one module must be left out",
            hint="train.freeze=[backbone]",
            key="train.freeze",
        )
    groups = [
        {
            "params": members[key],
            "name": ("backbone" if key[0] else "head") + ("" if key[1] else " without decay"),
            "lr": optim.lr * (optim.backbone_multiplier if key[0] else 1.0),
            "weight_decay": optim.weight_decay if key[1] else 0.0,
        }
        for key in sorted(members, reverse=True)
    ]
    # one pass over memory instead of a dozen; on a GPU the fused form would unscale fp16 gradients by itself,
    # after they are clipped
    on_cpu = all(parameter.device.type == "cpu" for group in members.values() for parameter in group)
    fused = True if on_cpu else None
    if optim.type == "SGD":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=fused)
    if optim.momentum >= 1:
        raise InvalidValueError(
            f"train.optim.momentum: {optim.momentum} is not allowed with AdamW, whose first decay rate it "
            "is; allowed is above 0 and below 1",
            hint="train.optim.momentum=0.9",
            key="train.optim.momentum",
            value=optim.momentum,
        )
    return AdamW(groups, lr=optim.lr, betas=(optim.momentum, _SECOND_BETA), fused=fused)


def build_schedule(
    optimizer: Optimizer,
    optim: Optim,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_factor: float = 1.0,
) -> dict[str, Any]:
    """The schedule of the learning rate, as Lightning takes it beside an optimiser.

    MultiStep multiplies by `gamma` at each of the `milestones`, StepLR every ``milestones[0]`` epochs (no
    other key can carry the period), Warmuppoly sets ``lr * (1 - t / T) ** 0.9`` at step t of T, times a line
    from `warmup_factor` to 1 over the first `warmup_steps`. None of them watches a value; `monitor_name`
    goes along as ``monitor``, which Lightning reads for schedules that react to a plateau.

    Args:
        optimizer: its present learning rates are those to start from.
        optim: `train.optim` of a spec.
        total_steps: T, optimiser steps of the whole training.
        warmup_steps: of Warmuppoly.
        warmup_factor: of Warmuppoly.

    Raises:
        InvalidValueError: StepLR without a period.
    """
    by_step = optim.lr_scheduler == "Warmuppoly"
    schedule: LRScheduler
    if by_step:
        last = max(total_steps, 1)

        def factor(step: int) -> float:
            risen = step / warmup_steps if step < warmup_steps else 1.0
            warm = warmup_factor + (1.0 - warmup_factor) * risen
            return warm * math.pow(max(0.0, 1.0 - step / last), _POWER)

        schedule = LambdaLR(optimizer, factor)
    elif optim.lr_scheduler == "StepLR":
        period = optim.milestones[0] if optim.milestones else 0
        if period < 1:
            raise InvalidValueError(
                f"train.optim.milestones: {list(optim.milestones)} gives StepLR no period; its first number "
                "must be the epochs between two decays, at least 1",
                hint="'train.optim.milestones=[10]', or train.optim.lr_scheduler=MultiStep",
                key="train.optim.milestones",
                value=list(optim.milestones),
            )
        schedule = StepLR(optimizer, period, gamma=optim.gamma)
    else:
        schedule = MultiStepLR(optimizer, list(optim.milestones), gamma=optim.gamma)
    return {
        "scheduler": schedule,
        "interval": "step" if by_step else "epoch",
        "frequency": 1,
        "monitor": optim.monitor_name,
        "name": optim.lr_scheduler,
    }


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name, parameter and whether it decays; a shared parameter comes once."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        fixed = isinstance(owner, (*_NORMS, nn.Embedding)) or getattr(owner, "without_decay", False)
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = f"{path}.{name}" if path else name
            for wrapper in _WRAPPERS:
                full = full.replace(wrapper, "")
            yield full, parameter, not fixed and name not in _TABLES
