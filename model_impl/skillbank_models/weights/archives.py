"""PyTorch files that hold more than tensors, read without running anything that they name.

Checkpoints of trainers often carry their settings as objects, and `torch.load(weights_only=True)` refuses
such a file as a whole. Here the tensors are read and every other object becomes one without content.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank_models.weights.inert import CONTAINERS, Call, inert_class

__all__ = ["Archive", "read_archive"]

_STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype for dtype in _STORAGES.values()
}


@dataclass(frozen=True, slots=True)
class _StorageKind:
    """A class of storages."""

    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A storage: a record of the file, and what its numbers are."""

    record: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Pending:
    """A tensor whose numbers have not been read yet."""

    source: _Bytes
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Archive:
    """What a file holds; tensors are read when they are asked for.

    Attributes:
        content: the pickled object; tensors in it are `Pending`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            if len(pickled) != 1:
                raise pickle.UnpicklingError("it is a zip file, but not one of PyTorch")
            self._folder = pickled[0].rpartition("/")[0]
            self.content = _Unpickler(io.BytesIO(archive.read(pickled[0]))).load()

    def tensors(self, content: Any) -> dict[str, Tensor]:
        """The named tensors of a map that was found in `content`; anything else in it is left out."""
        if not isinstance(content, dict):
            return {}
        read: dict[_Bytes, Tensor] = {}
        with zipfile.ZipFile(self.path) as archive:
            return {
                name: self._tensor(archive, item, read)
                for name, item in dict.items(content)
                if isinstance(name, str) and isinstance(item, Pending)
            }

    def _tensor(self, archive: zipfile.ZipFile, item: Pending, read: dict[_Bytes, Tensor]) -> Tensor:
        source = item.source
        if source not in read:
            raw = bytearray(archive.read(f"{self._folder}/data/{source.record}"))
            empty = torch.empty(0, dtype=source.dtype)
            read[source] = torch.frombuffer(raw, dtype=source.dtype) if raw else empty
        return read[source].as_strided(item.size, item.stride, item.offset)


def read_archive(path: Path) -> Archive:
    """Open a file that `torch.save` wrote in its present form, a zip file.

    Raises:
        pickle.UnpicklingError, zipfile.BadZipFile, ...: another kind of file, or a damaged one.
    """
    return Archive(path)


def _tensor_v2(source: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(source, _Bytes):
        raise pickle.UnpicklingError("a tensor without content")
    return Pending(source, int(offset), tuple(size), tuple(stride))


def _tensor_v3(source: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, *more: Any) -> Any:
    if not isinstance(source, _Bytes) or not more or not isinstance(more[0], torch.dtype):
        raise pickle.UnpicklingError("a tensor without content")
    return _tensor_v2(_Bytes(source.record, more[0]), offset, size, stride)


def _first(data: Any, *_: Any) -> Any:
    return data


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in; nothing is imported."""
        if (module, name) in CONTAINERS:
            return CONTAINERS[module, name]
        if module in ("torch", "torch.storage"):
            if name in _STORAGES:
                return _StorageKind(_STORAGES[name])
            if name in _DTYPES:
                return _DTYPES[name]
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch._utils":
            calls: dict[str, Callable[..., Any]] = {
                "_rebuild_tensor_v2": _tensor_v2,
                "_rebuild_tensor_v3": _tensor_v3,
                "_rebuild_parameter": _first,
                "_rebuild_parameter_with_state": _first,
            }
            if name in calls:
                return Call(calls[name])
        return inert_class(name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage, by the number of its record."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], _StorageKind)):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Bytes(str(pid[2]), pid[1].dtype)
