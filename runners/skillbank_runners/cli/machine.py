"""What this machine can do: devices, installed extras, store, access to S3."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skillbank_runners.cli.options import Output
from skillbank_runners.cli.output import emit

__all__ = ["cluster_nodes", "doctor"]

# extra -> (import name, distribution, what it is for)
_EXTRAS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "runtime": (
        ("torch", "torch"),
        ("pytorch_lightning", "pytorch-lightning"),
        ("numpy", "numpy"),
        ("cv2", "opencv-python-headless"),
        ("PIL", "pillow"),
        ("pycocotools", "pycocotools"),
        ("safetensors", "safetensors"),
        ("scipy", "scipy"),
        ("OpenEXR", "OpenEXR"),
        ("skimage", "scikit-image"),
    ),
    "automl": (("optuna", "optuna"),),
    "export": (("onnx", "onnx"), ("onnxruntime", "onnxruntime"), ("onnxscript", "onnxscript")),
    "quantize": (("torchao", "torchao"),),
    "sparse-cpu or sparse-cuda": (("spconv", "spconv"),),
    "trt": (("tensorrt", "tensorrt"),),
}
_NEEDED_FOR = {
    "runtime": "any job",
    "automl": "searches (skillbank automl)",
    "export": "ONNX files: export, evaluate and inference with them, static INT8",
    "quantize": "INT8 weights (quantize with torchao)",
    "sparse-cpu or sparse-cuda": "faster 3D convolutions of nvpanoptix3d",
    "trt": "gen_trt_engine",
}


def cluster_nodes(output: Output = None) -> None:
    """List the nodes jobs may use, with their devices.

    Example:
    tao cluster nodes
    """
    from skillbank.jobs.store import JobStore
    from skillbank.launch import get_launcher

    devices = get_launcher("local", JobStore()).devices()
    row = {
        "name": platform.node() or "localhost",
        "backend": "local",
        "status": "ready",
        "cpus": os.cpu_count(),
        "memory_gb": _memory_gb(),
        **devices,
    }
    emit([row], output, name="name")


def doctor(output: Output = None) -> None:
    """Check what this machine can run and name the fix for everything that is missing.

    Example:
    skillbank doctor
    """
    checks = [_python(), *_extras(), _store(), _bank(), *_networks(), _s3(), _tools()]
    emit(checks, output, columns=("check", "status", "found", "fix"), name="check")


def _check(
    check: str, ok: bool, found: str, *, needed_for: str = "", fix: str = "", otherwise: str = "missing"
) -> dict[str, Any]:
    """A row; `otherwise` is its status when it is not there, such as ``optional``."""
    return {
        "check": check,
        "ok": ok,
        "status": "ok" if ok else otherwise,
        "found": found,
        "needed_for": needed_for,
        "fix": "" if ok else fix,
    }


def _python() -> dict[str, Any]:
    from skillbank import __version__

    found = f"skillbank {__version__}, Python {platform.python_version()} at {sys.prefix}"
    return _check("program", True, found, needed_for="everything")


def _extras() -> list[dict[str, Any]]:
    rows = []
    for extra, parts in _EXTRAS.items():
        missing = [distribution for module, distribution in parts if importlib.util.find_spec(module) is None]
        versions = [f"{name} {_version(name)}" for module, name in parts if name not in missing]
        name = extra.partition(" ")[0]
        rows.append(
            _check(
                f"extra {extra}",
                not missing,
                ", ".join(versions) or "not installed",
                needed_for=_NEEDED_FOR[extra],
                fix=f"pip install -c constraints.txt 'skillbank[{name}]'",
                otherwise="optional",
            )
        )
    return rows


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def _store() -> dict[str, Any]:
    from skillbank.bank import home

    folder = home()
    near = folder
    while not near.exists() and near != near.parent:
        near = near.parent
    ok = os.access(near, os.W_OK)
    free_gb = shutil.disk_usage(near).free / 1e9
    return _check(
        "store",
        ok,
        f"{folder}, {free_gb:.0f} GB free",
        needed_for="jobs and caches",
        fix="set SKILLBANK_HOME to a folder you may write to",
    )


def _bank() -> dict[str, Any]:
    from skillbank.bank import bank_root
    from skillbank.errors import SkillBankError

    try:
        root = bank_root()
    except SkillBankError as err:
        return _check("bank", False, err.message, needed_for="schemas and playbooks", fix=err.hint)
    made = (root / "manifest.json").is_file()
    return _check("bank", made, str(root), needed_for="schemas and playbooks", fix="skillbank generate")


def _networks() -> list[dict[str, Any]]:
    from skillbank.runtime import has_implementation
    from skillbank.specs import networks

    return [
        _check(
            f"network {found.name}",
            has_implementation(found),
            found.impl if has_implementation(found) else f"{found.impl} is not there",
            needed_for=f"jobs of {found.name}",
            fix="specs, schemas and --dry-run work; nothing to install",
            otherwise="not in this version",
        )
        for found in networks()
    ]


def _s3() -> dict[str, Any]:
    named = [name for name in ("AWS_ACCESS_KEY_ID", "ACCESS_KEY", "AWS_PROFILE") if os.environ.get(name)]
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")
    ok = bool(named) or file.is_file()
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("S3_ENDPOINT_URL") or "AWS"
    found = f"credentials from {named[0] if named else file}, endpoint {endpoint}" if ok else "no credentials"
    return _check(
        "s3",
        ok,
        found,
        needed_for="s3:// datasets and results",
        fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        otherwise="optional",
    )


def _tools() -> dict[str, Any]:
    found = shutil.which("nvidia-smi")
    return _check(
        "nvidia driver",
        found is not None,
        found or "no nvidia-smi",
        needed_for="GPUs; without one jobs run on the CPU",
        fix="install the NVIDIA driver on a machine with a GPU",
        otherwise="optional",
    )


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None
