"""``~/.tao_mounts.json``: variables that the TAO launcher passes to its containers and we pass to jobs."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from skillbank.errors import DataError
from skillbank_runners.cli.output import talk

__all__ = ["mounted_variables"]

_WELL_KNOWN = (
    "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY", "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "LD_LIBRARY_PATH", "MASTER_ADDR", "MASTER_PORT",
    "MKL_NUM_THREADS", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SOCKET_IFNAME", "NGC_KEY",
    "NODE_RANK", "NO_PROXY", "NUM_GPU_PER_NODE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH",
    "PYTORCH_CUDA_ALLOC_CONF", "TOKENIZERS_PARALLELISM", "WANDB_API_KEY", "WANDB_MODE", "WORLD_SIZE",
)  # fmt: skip


def mounted_variables(path: Path | None = None) -> dict[str, str]:
    """The variables of the file, empty when there is none; odd names are pointed out on stderr.

    Raises:
        DataError: the file is there but does not have the documented form.
    """
    path = path or Path.home() / ".tao_mounts.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        variables = {str(item["variable"]): str(item["value"]) for item in content.get("Envs") or []}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
        raise DataError(
            f"{path}: not of the form {{'Envs': [{{'variable': NAME, 'value': TEXT}}]}}: {err}",
            hint=f"correct or rename {path}",
            key=str(path),
        ) from err
    for name in variables:
        near = get_close_matches(name, _WELL_KNOWN, n=1, cutoff=0.85)
        if name not in _WELL_KNOWN and near:
            talk(f"note: {path}: variable {name} is passed on as it is; did you mean {near[0]}?")
    _tell_unused(content, path)
    return variables


def _tell_unused(content: dict[str, Any], path: Path) -> None:
    unused = [name for name in ("Mounts", "DockerOptions") if content.get(name)]
    if unused:
        talk(f"note: {path}: {' and '.join(unused)} concern containers; jobs here see this machine's own paths")
