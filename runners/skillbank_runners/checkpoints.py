"""Checkpoint files: names, the link to the newest, safe writing and reading, which one a run starts from."""

from __future__ import annotations

import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from skillbank.errors import InvalidValueError, NotFoundError, StorageError
from skillbank_runners.failures import writer_refusal

__all__ = [
    "RESUME_KEY",
    "SafeCheckpointIO",
    "check_fits",
    "checkpoint_name",
    "find_resume",
    "load_exactly",
    "plain",
    "point_to_latest",
    "read_checkpoint",
    "remove_leftovers",
    "tensors_of",
]

log = logging.getLogger(__name__)

RESUME_KEY = "train.resume_training_checkpoint_path"

_ENDINGS = (".pth", ".tlt")
_NAME = re.compile(r"model_epoch_(\d+)(?:_step_(\d+))?\.pth")
_PART = ".part"
_NAMED = 5


def checkpoint_name(epoch: int, step: int | None = None) -> str:
    """File name after an epoch, or inside one when the step is given; both count from 0 as documented."""
    return f"model_epoch_{epoch:03d}.pth" if step is None else f"model_epoch_{epoch:03d}_step_{step:05d}.pth"


class SafeCheckpointIO(CheckpointIO):
    """Writes checkpoints of tensors and plain values, under a temporary name first; reads such files."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write, flush to the disk, rename.

        Raises:
            StorageError: no space, or no right to write.
        """
        final = Path(path)
        temporary = final.with_name(f".{final.name}.{os.getpid()}{_PART}")
        content = plain(checkpoint)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except (OSError, RuntimeError) as err:
            said = err.strerror if isinstance(err, OSError) else str(err).splitlines()[0]
            reason = writer_refusal(err, final.parent) or said
            raise StorageError(
                f"{final}: the checkpoint cannot be written ({reason})",
                hint=f"df -h {final.parent}; the earlier checkpoints are untouched",
                key=str(final),
            ) from err
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read without ever running code from the file, whatever is asked for."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a file."""
        Path(path).unlink(missing_ok=True)


def plain(value: Any, place: str = "checkpoint") -> Any:
    """The same content as tensors, numbers, texts, lists, tuples and dicts, which load without running code.

    Raises:
        TypeError: something else is in there; names the place.
    """
    if value is None or isinstance(value, bool | int | float | complex | torch.dtype | torch.device):
        return value
    if isinstance(value, torch.Tensor):
        return value.data if isinstance(value, torch.nn.Parameter) else value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {plain(key, place): plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | set | frozenset):
        return [plain(item, f"{place}[]") for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item, f"{place}[]") for item in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{place} is a {type(value).__name__}; a checkpoint holds tensors and plain values only, "
        "so keep such objects out of hyper-parameters and callback states"
    )


def read_checkpoint(path: Path, *, key: str = "checkpoint") -> dict[str, Any]:
    """A checkpoint on the CPU, mapped from the file where its format allows.

    Args:
        key: spec key that named the file, for messages.

    Raises:
        NotFoundError: no such file.
        InvalidValueError: damaged, or not a checkpoint of tensors and plain values.
    """
    if not path.is_file():
        raise NotFoundError(
            f"{key}: there is no file {path}", hint=f"ls -l {path.parent}", key=key, value=str(path)
        )
    try:
        with warnings.catch_warnings():
            # says of a foreign file that it may not be readable; the error that follows says it better
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            mapped = zipfile.is_zipfile(path)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as err:
        raise InvalidValueError(
            f"{key}: {path} is no checkpoint of tensors and plain values; reading it could run code",
            hint=f"skillbank weights convert {path} --help",
            key=key,
            value=str(path),
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise InvalidValueError(
            f"{key}: {path} cannot be read as a checkpoint ({reason})",
            hint="the file is cut off or not a .pth file; take another checkpoint",
            key=key,
            value=str(path),
        ) from err
    if not isinstance(found, dict):
        raise InvalidValueError(
            f"{key}: {path} holds a {type(found).__name__}, not named tensors",
            hint="take a checkpoint that training wrote",
            key=key,
            value=str(path),
        )
    return found


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint: under `state_dict` or `model`, or the file itself."""
    for name in ("state_dict", "model"):
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping):
            checkpoint = inner
            break
    return {name: value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)}


def check_fits(module: pl.LightningModule, weights: Mapping[str, torch.Tensor], path: Path, key: str) -> None:
    """Compare names and shapes before anything is loaded.

    Raises:
        InvalidValueError: the file belongs to another architecture; counts and names what differs.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    other = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    found = [(missing, "missing"), (unexpected, "unknown here"), (other, "of another shape")]
    parts = [f"{len(names)} {what} ({_some(names)})" for names, what in found if names]
    if parts:
        raise InvalidValueError(
            f"{key}: {path} is of another architecture: of {len(own)} tensors, {'; '.join(parts)}",
            hint="use the model settings (classes, backbone, sizes) that the checkpoint was trained with",
            key=key,
            value=str(path),
        )


def load_exactly(module: pl.LightningModule, path: Path, key: str) -> None:
    """Load all weights of a module from a checkpoint.

    Raises:
        NotFoundError, InvalidValueError: see `read_checkpoint` and `check_fits`.
    """
    weights = tensors_of(read_checkpoint(path, key=key))
    check_fits(module, weights, path, key)
    module.load_state_dict(weights)
    log.info("loaded %d tensors from %s", len(weights), path)


def point_to_latest(link: Path, target: Path) -> None:
    """Make the link name the newest checkpoint, in one step; a hard link where there are no symbolic ones."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}{_PART}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(target, link.parent))
    except OSError:
        os.link(target, temporary)
    temporary.replace(link)


def remove_leftovers(folder: Path) -> None:
    """Delete half-written checkpoints of a run that was killed."""
    for leftover in folder.glob(f".*.pth.*{_PART}"):
        log.info("removing half-written %s", leftover.name)
        leftover.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Resume:
    """The checkpoint a run goes on from, and why that one."""

    path: Path
    reason: str


def find_resume(given: str | None, folder: Path, link_name: str) -> Resume | None:
    """The resume rule: the path that was given, else what the link in the folder names, else a fresh start.

    Raises:
        InvalidValueError: the path does not end in .pth or .tlt.
        NotFoundError: there is no such file.
    """
    if given:
        path = Path(given)
        if path.suffix not in _ENDINGS:
            raise InvalidValueError(
                f"{RESUME_KEY}: {given!r} is no checkpoint; use a file that ends in {' or '.join(_ENDINGS)}",
                hint=f"ls {folder}/*.pth",
                key=RESUME_KEY,
                value=given,
                allowed=list(_ENDINGS),
            )
        if not path.is_file():
            raise NotFoundError(
                f"{RESUME_KEY}: there is no file {path}",
                hint=f"ls {path.parent}, or leave the key empty to take the newest one",
                key=RESUME_KEY,
                value=given,
            )
        return Resume(path, f"{RESUME_KEY} names it")
    link = folder / link_name
    if link.is_file():
        return Resume(link.resolve(), f"{link_name} points to it")
    if link.is_symlink():
        newest = _newest(list(folder.glob("model_epoch_*.pth")))
        log.warning("%s points to %s, which is gone", link, link.readlink())
        if newest is not None:
            return Resume(newest, f"the newest one left in {folder}")
    return None


def _newest(paths: Sequence[Path]) -> Path | None:
    def age(path: Path) -> tuple[int, float, float]:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        epoch, step = match.groups()
        # a file without a step was written at the end of its epoch
        return int(epoch), float(step) if step else float("inf"), path.stat().st_mtime

    return max((path for path in paths if _NAME.fullmatch(path.name)), key=age, default=None)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f", and {more} more" if more > 0 else "")
