"""How many GPUs and which: two spec keys that may disagree, and what a launcher has to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skillbank.errors import InvalidValueError, SpecError, collect
from skillbank.skill_info import SkillInfo

__all__ = ["DeviceKeys", "Devices", "check_fit", "device_keys", "reconcile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeys:
    """Spec keys of one action that say where it runs."""

    gpus: str
    ids: str
    nodes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What a job is given.

    Attributes:
        gpus: GPUs per node; 0 = the processor.
        ids: their indices on each node, `gpus` of them.
        notes: what was adapted, for the user.
    """

    gpus: int
    ids: tuple[int, ...]
    nodes: int = 1
    notes: tuple[str, ...] = ()


def device_keys(info: SkillInfo, action: str) -> DeviceKeys:
    """The device keys of an action: those of training with the action's own block in front."""
    gpus = ".".join([action, *info.gpu_spec_key.split(".")[1:]])
    nodes = ".".join([action, *info.node_spec_key.split(".")[1:]])
    return DeviceKeys(gpus=gpus, ids=f"{gpus.rpartition('.')[0]}.gpu_ids", nodes=nodes)


def reconcile(num_gpus: int | None, gpu_ids: Sequence[int] | None) -> tuple[int, tuple[int, ...], str]:
    """Make count and indices agree: the setting with more GPUs wins, the other follows.

    A list that is too short gets the lowest free indices; unset or empty means one GPU, the first. A repeated
    index counts once.

    Returns:
        Count, indices, and a note when two wishes disagreed (else empty); a plain ``[0]`` is no wish.
    """
    ids = tuple(dict.fromkeys(gpu_ids or (0,)))
    count = max(num_gpus if num_gpus is not None else 1, len(ids))
    free = (index for index in range(count + max(ids) + 1) if index not in ids)
    filled = ids + tuple(next(free) for _ in range(count - len(ids)))
    if num_gpus in (None, len(ids)) or ids == (0,):
        return count, filled, ""
    return (
        count,
        filled,
        f"num_gpus {num_gpus} and gpu_ids {list(ids)} disagree; the larger wins: {list(filled)}",
    )


def check_fit(
    wanted: Devices,
    available: Mapping[str, Any],
    keys: DeviceKeys,
    *,
    is_default: bool = False,
    where: str = "local",
) -> Devices:
    """Compare a wish with what a launcher has; one GPU on a machine without any means the processor.

    Args:
        available: ``{"nodes": n, "gpus_per_node": n}`` as `Launcher.devices` gives it.
        is_default: nobody asked for this number of GPUs, so it is lowered instead of refused.
        where: name of the launcher, for messages.

    Raises:
        InvalidValueError: more nodes or GPUs than there are, or an index that is not there.
    """
    have = int(available.get("gpus_per_node", 0))
    nodes = int(available.get("nodes", 1))
    problems: list[SpecError] = []
    if wanted.nodes > nodes:
        problems.append(_too_many(keys.nodes, wanted.nodes, nodes, "node", where))
    if have == 0 and wanted.gpus <= 1:
        fitted = Devices(gpus=0, ids=(), nodes=wanted.nodes, notes=wanted.notes)
    elif is_default and wanted.gpus > max(have, 1):
        note = f"{keys.gpus}: the default of {wanted.gpus} GPUs is lowered to the {max(have, 1)} of {where}"
        fitted = Devices(gpus=have, ids=tuple(range(have)), nodes=wanted.nodes, notes=(*wanted.notes, note))
    else:
        fitted = wanted
        if wanted.gpus > have:
            problems.append(_too_many(keys.gpus, wanted.gpus, have, "GPU", where))
        elif outside := [index for index in wanted.ids if index >= have]:
            problems.append(
                InvalidValueError(
                    f"{keys.ids}: {where} has no GPU {', '.join(map(str, outside))}; use 0 to {have - 1}",
                    hint=f"{keys.ids}={list(range(wanted.gpus))}",
                    key=keys.ids,
                    value=list(wanted.ids),
                    allowed=list(range(have)),
                )
            )
    if problems:
        raise collect(problems, "the request for devices")
    return fitted


def _too_many(key: str, wanted: int, have: int, what: str, where: str) -> InvalidValueError:
    found = f"{have} {what}{'' if have == 1 else 's'}"
    return InvalidValueError(
        f"{key}: {wanted} is more than {where} has, which is {found}",
        hint=f"{key}={max(have, 1)}",
        key=key, value=wanted, allowed=list(range(1, max(have, 1) + 1)),
    )  # fmt: skip
