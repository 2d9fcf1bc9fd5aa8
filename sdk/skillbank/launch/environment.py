"""Variables that a worker starts with."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from skillbank.errors import LaunchError, UsageError
from skillbank.launch.base import Bundle
from skillbank.launch.devices import cpu_count

__all__ = ["cpu_slots", "free_port", "worker_environment"]


def worker_environment(
    bundle: Bundle, environ: Mapping[str, str] | None = None, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The caller's variables, `extra` of the settings file, those of the bundle, and what ranks need.

    Both the older meaning of ``WORLD_SIZE``, the number of nodes, and the plain names ``NNODES`` and
    ``NPROC_PER_NODE`` are set. On one node the meeting point is this machine, with a port of its own per job.

    Raises:
        LaunchError: several nodes are asked for and nothing says which one this is.
    """
    asked = {**(extra or {}), **bundle.env}
    env = {**(os.environ if environ is None else environ), **asked}
    ranks = max(bundle.gpus, 1)
    if bundle.nodes > 1:
        _require_meeting_point(bundle, env)
    else:
        # What the caller's own variables say belongs to the caller's own distributed run, if any.
        here = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        env.update({name: value for name, value in here.items() if name not in asked})
    env.update(
        {
            "WORLD_SIZE": str(bundle.nodes),
            "NNODES": str(bundle.nodes),
            "NUM_GPU_PER_NODE": str(bundle.gpus),
            "NPROC_PER_NODE": str(ranks),
            "PYTHONUNBUFFERED": "1",
            "SKILLBANK_JOB_ID": bundle.job_id,
        }
    )
    # More threads than this in every rank made multi-GPU runs crash, and slow each other down.
    threads = 1 if ranks > 1 else max(1, cpu_count() // cpu_slots(env))
    env.setdefault("OMP_NUM_THREADS", str(threads))
    # Threads that spin while they wait made a job on busy cores several times slower.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return env


def cpu_slots(environ: Mapping[str, str] | None = None) -> int:
    """How many jobs may use the CPU at once: ``SKILLBANK_CPU_SLOTS``, default 1.

    Raises:
        UsageError: the value is no positive whole number.
    """
    text = (os.environ if environ is None else environ).get("SKILLBANK_CPU_SLOTS", "").strip()
    if not text:
        return 1
    if not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"SKILLBANK_CPU_SLOTS: {text!r} is not allowed; use a whole number from 1 on",
            hint="export SKILLBANK_CPU_SLOTS=1",
            key="SKILLBANK_CPU_SLOTS",
            value=text,
        )
    return int(text)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _require_meeting_point(bundle: Bundle, env: Mapping[str, str]) -> None:
    absent = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if absent:
        raise LaunchError(
            f"job {bundle.job_id}: {bundle.nodes} nodes are asked for; the local launcher has one, and "
            f"{', '.join(absent)} do not say which of several this is",
            hint="train.num_nodes=1; or set the variables and run the command on every node",
            key="train.num_nodes",
            value=bundle.nodes,
        )
