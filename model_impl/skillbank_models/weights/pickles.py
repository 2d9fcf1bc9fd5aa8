"""Pickles of NumPy arrays, such as detectron2's `.pkl` files, read without running what they name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from skillbank_models.weights.inert import CONTAINERS, Call

__all__ = ["ForbiddenClassError", "read_pickle"]

# no objects, no records: only numbers can become tensors
_KINDS = "biufc"


class ForbiddenClassError(pickle.UnpicklingError):
    """A pickle names something else than arrays and containers.

    Args:
        name: what it names, with its module.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it holds {name}")
        self.name = name


def read_pickle(file: BinaryIO) -> Any:
    """The content with arrays as tensors; NumPy scalars become tensors without dimensions.

    Raises:
        ForbiddenClassError: something else than numbers, texts, containers, arrays and tensors is in there.
        pickle.UnpicklingError, EOFError, ...: not a pickle, or a damaged one.
    """
    found = _Unpickler(file).load()
    return _finished(found)


class _Dtype:
    """A NumPy dtype on its way; the byte order arrives in a second step."""

    def __init__(self, name: Any) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in _KINDS:
            raise ForbiddenClassError(f"an array of {self.dtype}")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A NumPy array on its way; content and shape arrive in a second step."""

    def __init__(self) -> None:
        self.content: tuple[Any, ...] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.content = (raw, dtype, shape, "F" if is_fortran else "C")

    def tensor(self) -> Tensor:
        """The finished array."""
        if self.content is None:
            raise pickle.UnpicklingError("an array without content")
        return _tensor(*self.content)


def _tensor(raw: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> Tensor:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a dtype")
    data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    view: np.ndarray[Any, Any] = np.ndarray(
        tuple(shape), dtype.dtype, buffer=data, order="F" if order == "F" else "C"
    )
    if axes is not None:
        view = view.transpose(axes)
    native = np.array(view, dtype=dtype.dtype.newbyteorder("="), order="C", copy=True)
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.int64)  # torch can do little with wide unsigned numbers
    return torch.from_numpy(native)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _new_array(shape: Any, dtype: Any, raw: Any) -> Tensor:
    """`numpy.ndarray(shape, dtype, buffer)`, as `skillbank_models.weights.writing` writes arrays."""
    return _tensor(raw, dtype if isinstance(dtype, _Dtype) else _Dtype(dtype), shape)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ForbiddenClassError(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _bytes(raw: Any = b"") -> bytes:
    if not isinstance(raw, bytes):
        raise ForbiddenClassError("bytes made of something else than bytes")
    return raw


def _storage(raw: Any) -> Tensor:
    """The numbers of a tensor that was pickled without `torch.save`: a file of its own inside this one."""
    found: Any = torch.load(io.BytesIO(bytes(raw)), map_location="cpu", weights_only=True)
    # the public way from such a storage to its bytes warns that the class is old
    return torch.empty(0, dtype=found.dtype).set_(found._untyped_storage)


def _torch_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Tensor):
        raise pickle.UnpicklingError("a tensor without content")
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _torch_parameter(data: Any, *_: Any) -> Any:
    return data


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("builtins", "__builtin__")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


@dataclass(frozen=True, slots=True)
class _Scalar:
    """A NumPy number on its way."""

    dtype: Any
    raw: Any


def _known() -> Mapping[tuple[str, str], Any]:
    calls: dict[tuple[str, str], Callable[..., Any]] = {
        **{(core, "_reconstruct"): _reconstruct for core in _CORES},
        **{(core, "scalar"): _Scalar for core in _CORES},
        **{(numeric, "_frombuffer"): _tensor for numeric in _NUMERIC},
        ("numpy", "ndarray"): _new_array,
        ("numpy", "dtype"): lambda name, *_: _Dtype(name),
        ("_codecs", "encode"): _encode,
        **{(module, name): _bytes for module in _BUILTINS for name in ("bytes", "bytearray")},
        ("torch.storage", "_load_from_bytes"): _storage,
        ("torch._utils", "_rebuild_tensor_v2"): _torch_tensor,
        ("torch._utils", "_rebuild_parameter"): _torch_parameter,
    }
    return {**CONTAINERS, **{name: Call(call) for name, call in calls.items()}}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        # texts of Python 2, which the oldest published files have
        super().__init__(file, encoding="latin1")
        self._known = _known()

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in; nothing is imported."""
        try:
            return self._known[module, name]
        except KeyError:
            raise ForbiddenClassError(f"{module}.{name}") from None


def _finished(value: Any, done: dict[int, Any] | None = None) -> Any:
    """The same containers with finished tensors; what a pickle holds many times is finished once."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Array):
        found: Any = value.tensor()
    elif isinstance(value, _Scalar):
        found = _tensor(value.raw, value.dtype, ())
    elif isinstance(value, dict):
        found = done[id(value)] = {}
        found.update((key, _finished(item, done)) for key, item in dict.items(value))
    elif isinstance(value, list | tuple):
        found = done[id(value)] = []
        found.extend(_finished(item, done) for item in value)
    else:
        return value
    done[id(value)] = found
    return found
