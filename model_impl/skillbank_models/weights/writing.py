"""Weight files for other programs, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillbank.errors import StorageError

__all__ = ["write_folder", "write_pickle", "write_safetensors", "write_torch"]


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """A PyTorch file of tensors and plain values.

    Raises:
        StorageError: no space, or no right to write.
    """
    with _placed(path) as temporary:
        torch.save(dict(content), temporary)


def write_pickle(path: Path, content: Mapping[str, Any]) -> None:
    """A pickle of NumPy arrays, which detectron2 reads; tensors become arrays.

    Raises:
        StorageError: no space, or no right to write.
    """
    with _placed(path) as temporary, temporary.open("wb") as file:
        _Pickler(file, protocol=4).dump(_as_arrays(content))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file.

    Raises:
        StorageError: no space, or no right to write.
    """
    from safetensors.torch import save_file

    with _placed(path) as temporary:
        # readers of Hugging Face ask for this mark
        save_file(
            {name: item.contiguous() for name, item in tensors.items()}, temporary, metadata={"format": "pt"}
        )


def write_folder(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, Mapping[str, Any]]) -> None:
    """A Hugging Face folder: `model.safetensors` and JSON files by name.

    Raises:
        StorageError: no space, or no right to write.
    """

    def fill(folder: Path) -> None:
        folder.mkdir()
        write_safetensors(folder / "model.safetensors", tensors)
        for name, content in texts.items():
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")

    with _placed(path) as temporary:
        fill(temporary)


class _Pickler(pickle.Pickler):
    """Arrays through the name `numpy.ndarray` alone, which every version of NumPy has."""

    def reducer_override(self, obj: Any) -> Any:
        """How an array is made again: from shape, dtype and bytes."""
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype.str, bytearray(obj.tobytes()))
        return NotImplemented


def _as_arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        # NumPy has no bfloat16
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, Mapping):
        return {key: _as_arrays(item) for key, item in value.items()}
    return value


@contextlib.contextmanager
def _placed(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed when all is written."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as err:
        said = err.strerror if isinstance(err, OSError) else str(err).splitlines()[0]
        raise StorageError(
            f"{path}: the weights cannot be written ({said})", hint=f"df -h {path.parent}", key=str(path)
        ) from err
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else (path,):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
