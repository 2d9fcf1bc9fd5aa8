"""Where a job runs: which devices, how many processes; decided before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skillbank.errors import InvalidValueError, UsageError
from skillbank.resolve.devices import reconcile

__all__ = ["Placement", "decide"]

_VARIABLE = "SKILLBANK_ACCELERATOR"
_CHOICES = {"": "auto", "auto": "auto", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Devices of one job on this machine.

    Attributes:
        ids: GPU indices, one process each; empty on the CPU.
        processes: processes on this node, on the CPU as well.
        nodes: machines that work on the job; `node_rank` is the number of this one.
        notes: what was adapted.
    """

    accelerator: Literal["cpu", "cuda"]
    ids: tuple[int, ...] = ()
    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    notes: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the devices that no other job may use meanwhile."""
        return tuple(f"cuda:{index}" for index in self.ids) or ("cpu",)

    @property
    def world(self) -> int:
        """Processes on all nodes."""
        return self.processes * self.nodes


def decide(block: Mapping[str, Any], action: str, *, gpus: int, environ: Mapping[str, str]) -> Placement:
    """Devices for an action.

    Args:
        block: the action's own block of the spec.
        gpus: GPUs of this machine.
        environ: ``SKILLBANK_ACCELERATOR=cpu`` runs on the CPU, with as many processes as GPUs are asked for.

    Raises:
        InvalidValueError: more GPUs or nodes than there are.
        UsageError: the variable has no value that is allowed.
    """
    wanted = environ.get(_VARIABLE, "").strip().lower()
    if wanted not in _CHOICES:
        raise UsageError(
            f"{_VARIABLE}: {wanted!r} is not allowed; use auto, cpu or gpu",
            hint=f"export {_VARIABLE}=auto",
            key=_VARIABLE,
            value=wanted,
            allowed=["auto", "cpu", "gpu"],
        )
    choice = _CHOICES[wanted]
    ids, notes = _wanted_ids(block, action)
    nodes = int(block.get("num_nodes") or 1)
    node_rank = _node_rank(nodes, action, environ)
    if not ids:
        return Placement(accelerator="cpu")
    if choice == "cpu":
        return Placement(accelerator="cpu", processes=len(ids), nodes=nodes, node_rank=node_rank, notes=notes)
    if gpus == 0 and choice == "auto" and len(ids) == 1:
        return Placement(
            accelerator="cpu", nodes=nodes, node_rank=node_rank, notes=(*notes, "no GPU: the CPU is used")
        )
    outside = [index for index in ids if index >= gpus]
    if outside:
        key = f"{action}.num_gpus" if "num_gpus" in block else f"{action}.gpu_id"
        have = f"{gpus} GPU{'' if gpus == 1 else 's'}"
        raise InvalidValueError(
            f"{key}: {len(ids)} GPU{'s' if len(ids) > 1 else ''} ({', '.join(map(str, ids))}) asked for; "
            f"this machine has {have}",
            hint=f"{key}={max(gpus, 1)}, or export {_VARIABLE}=cpu to use that many CPU processes",
            key=key,
            value=list(ids),
            allowed=list(range(gpus)),
        )
    return Placement(
        accelerator="cuda", ids=ids, processes=len(ids), nodes=nodes, node_rank=node_rank, notes=notes
    )


def _wanted_ids(block: Mapping[str, Any], action: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """GPU indices an action asks for; none when it has no use for a GPU."""
    if "num_gpus" in block or "gpu_ids" in block:
        _, ids, note = reconcile(block.get("num_gpus"), block.get("gpu_ids"))
        return ids, (f"{action}: {note}",) if note else ()
    if "gpu_id" in block:
        return (int(block["gpu_id"]),), ()
    if block.get("device") in ("cuda", "trt"):
        return (0,), ()
    return (), ()


def _node_rank(nodes: int, action: str, environ: Mapping[str, str]) -> int:
    if nodes == 1:
        return 0
    rank = environ.get("NODE_RANK", "")
    if (
        not rank.isdigit()
        or int(rank) >= nodes
        or not environ.get("MASTER_ADDR")
        or not environ.get("MASTER_PORT")
    ):
        raise InvalidValueError(
            f"{action}.num_nodes: {nodes} nodes asked for, but NODE_RANK, MASTER_ADDR and MASTER_PORT do "
            "not say which of them this is and where they meet",
            hint=f"{action}.num_nodes=1, or set the variables and start the job on every node",
            key=f"{action}.num_nodes",
            value=nodes,
        )
    return int(rank)
