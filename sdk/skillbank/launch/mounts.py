"""``~/.tao_mounts.json``, the launcher's settings file: variables and folders that jobs get."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skillbank.errors import InvalidValueError, collect

__all__ = ["Mounts", "mounts_file", "read_mounts"]

_BLOCKS = ("Mounts", "Envs", "DockerOptions")

# Names that users of such jobs set; anything else is passed on too, but a near miss is probably a slip.
_KNOWN_NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LD_LIBRARY_PATH",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MKL_NUM_THREADS",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "NODE_RANK",
    "NO_PROXY",
    "NUM_GPU_PER_NODE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONPATH",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SKILLBANK_CPU_SLOTS",
    "SKILLBANK_HOME",
    "SKILLBANK_NETWORKS",
    "TOKENIZERS_PARALLELISM",
    "TORCH_HOME",
    "WANDB_API_KEY",
    "WANDB_MODE",
    "WORLD_SIZE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """What the file says.

    Attributes:
        envs: variables to set for every job.
        mounts: source folder -> destination in a container; means nothing to the local launcher.
        docker_options: kept for a container launcher.
        warnings: what is accepted but looks like a slip.
    """

    path: Path
    envs: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    docker_options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def mounts_file(environ: Mapping[str, str] | None = None) -> Path:
    """The file that is read: ``SKILLBANK_MOUNTS_FILE``, else ``~/.tao_mounts.json``."""
    given = (os.environ if environ is None else environ).get("SKILLBANK_MOUNTS_FILE", "").strip()
    return Path(given).expanduser() if given else Path.home() / ".tao_mounts.json"


def read_mounts(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Mounts:
    """Read the file; an absent one gives empty settings.

    Raises:
        InvalidValueError: the file cannot be read, is no JSON, or has entries of another form; says all.
    """
    path = path or mounts_file(environ)
    content = _load(path)
    problems: list[InvalidValueError] = []
    warnings = [
        f"{path}: block {name!r} is not known and ignored; known are {', '.join(_BLOCKS)}"
        for name in content
        if name not in _BLOCKS
    ]
    envs = _pairs(path, content, "Envs", "variable", "value", problems)
    mounts = _pairs(path, content, "Mounts", "source", "destination", problems)
    options = content.get("DockerOptions") or {}
    if not isinstance(options, dict):
        problems.append(_wrong(path, "DockerOptions", type(options).__name__, '{"shm_size": "16G"}'))
        options = {}
    if problems:
        raise collect(problems, f"settings file {path}")
    warnings += [text for name in envs if (text := _slip(path, name))]
    return Mounts(path=path, envs=envs, mounts=mounts, docker_options=options, warnings=tuple(warnings))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise InvalidValueError(
            f"settings file {path}: line {error.lineno}, column {error.colno}: no JSON ({error.msg})",
            hint=f"jq . {path} shows where; or move the file away",
            key=str(path),
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"settings file {path}: it cannot be read ({error})", hint=f"ls -l {path}", key=str(path)
        ) from error
    if not isinstance(content, dict):
        raise _wrong(
            path,
            "the file",
            type(content).__name__,
            '{"Envs": [{"variable": "OMP_NUM_THREADS", "value": "1"}]}',
        )
    return content


def _pairs(
    path: Path,
    content: Mapping[str, Any],
    block: str,
    key: str,
    value: str,
    problems: list[InvalidValueError],
) -> dict[str, str]:
    """A list of ``{key: ..., value: ...}`` entries as a map."""
    pairs: dict[str, str] = {}
    entries = content.get(block) or []
    form = f'[{{"{key}": "...", "{value}": "..."}}]'
    if not isinstance(entries, list):
        problems.append(_wrong(path, block, type(entries).__name__, form))
        return pairs
    for index, entry in enumerate(entries):
        pair = (entry.get(key), entry.get(value)) if isinstance(entry, dict) else (None, None)
        # A number is what people write for the number of threads.
        text = str(pair[1]) if isinstance(pair[1], int | float) and not isinstance(pair[1], bool) else pair[1]
        if isinstance(pair[0], str) and pair[0] and isinstance(text, str) and "=" not in pair[0]:
            pairs[pair[0]] = text
        else:
            found = (
                f"a map of {', '.join(sorted(entry))}" if isinstance(entry, dict) else type(entry).__name__
            )
            problems.append(_wrong(path, f"{block}[{index}]", found, form[1:-1]))
    return pairs


def _wrong(path: Path, where: str, found: str, form: str) -> InvalidValueError:
    # Types and names only: values may be secrets.
    return InvalidValueError(
        f"settings file {path}: {where}: found {found}; write {form}", hint=f"edit {path}", key=where
    )


def _slip(path: Path, name: str) -> str:
    if name in _KNOWN_NAMES:
        return ""
    near = difflib.get_close_matches(name.upper(), _KNOWN_NAMES, n=1, cutoff=0.88)
    return f"{path}: variable {name} is set, but did you mean {near[0]}?" if near else ""
