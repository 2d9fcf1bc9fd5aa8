"""Devices of this machine, counted without loading a GPU library."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["cpu_count", "describe", "gpu_count", "physical"]

_PROC = Path("/proc/driver/nvidia/gpus")
_SMI_TIMEOUT_S = 20.0


def describe(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """``{"nodes": 1, "gpus_per_node": n, "cpus": n}`` of this machine."""
    return {"nodes": 1, "gpus_per_node": gpu_count(environ), "cpus": cpu_count()}


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_count(environ: Mapping[str, str] | None = None, *, proc: Path = _PROC) -> int:
    """GPUs that a job started from here would see; 0 without a driver.

    ``CUDA_VISIBLE_DEVICES`` is read as the driver does: the list ends at the first entry that names no GPU.
    """
    visible = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not _entries(visible):
        return 0
    names = _installed(proc)
    if visible is None:
        return len(names)
    count = 0
    for entry in _entries(visible):
        is_there = int(entry) < len(names) if entry.isdigit() else _is_named(entry, names)
        if not is_there:
            break
        count += 1
    return count


def physical(device: str, environ: Mapping[str, str] | None = None) -> str:
    """The device behind a name that a job uses, so that two jobs with different views do not share one.

    Args:
        device: ``cuda:N`` or ``cpu``.
        environ: with ``CUDA_VISIBLE_DEVICES=3,1`` the device ``cuda:0`` is ``cuda:3``.
    """
    visible = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    kind, _, number = device.partition(":")
    if kind != "cuda" or visible is None or not number.isdigit():
        return device
    entries = _entries(visible)
    index = int(number)
    return f"cuda:{entries[index]}" if index < len(entries) else device


def _entries(visible: str) -> list[str]:
    """Entries up to the first that hides the rest, as ``-1`` does."""
    found: list[str] = []
    for entry in visible.split(","):
        name = entry.strip()
        if not name or name.startswith("-") or name == "NoDevFiles":
            break
        found.append(name)
    return found


def _is_named(entry: str, names: list[str]) -> bool:
    # The driver accepts the beginning of an identifier; parts of a GPU (MIG) are not in our list.
    return entry.startswith("MIG-") or any(name.startswith(entry) for name in names)


def _installed(proc: Path) -> list[str]:
    """Identifiers of the GPUs, in no order that matters."""
    found = _asked()
    if found is not None:
        return found
    texts = [path.read_text(errors="replace") for path in sorted(proc.glob("*/information"))]
    return [
        line.partition(":")[2].strip()
        for text in texts
        for line in text.splitlines()
        if line.startswith("GPU UUID")
    ]


def _asked() -> list[str] | None:
    """What the driver's own tool lists; None without the tool or its driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
