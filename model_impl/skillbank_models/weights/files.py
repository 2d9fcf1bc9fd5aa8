"""Weight files of any origin as named tensors; nothing that a file names is ever run.

| file | read as |
|---|---|
| `.pkl` | pickle of NumPy arrays or tensors, as detectron2 publishes weights |
| `.pth`, `.pt`, `.tlt`, `.ckpt`, `.bin` | PyTorch file: bare tensors, or a checkpoint that holds them |
| `.safetensors` | safetensors |
| folder | Hugging Face: `model.safetensors` or `pytorch_model.bin`, in one part or with an index of parts |

The content decides, not the ending, so a renamed file is read too.
"""

from __future__ import annotations

import json
import logging
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank.errors import InvalidValueError, MissingFilesError, NotFoundError, RuntimeMissingError
from skillbank_models.weights.archives import read_archive
from skillbank_models.weights.pickles import ForbiddenClassError, read_pickle
from skillbank_models.weights.quantised import is_packed, restore

__all__ = ["FACTS", "ForeignWeights", "read_tensors"]

log = logging.getLogger(__name__)

_ENDINGS = ".pkl, .pth, .pt, .tlt, .ckpt, .bin, .safetensors or a Hugging Face folder"
_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
FACTS = "network_facts"  # entry of our checkpoints: what the network says of itself
_HOLDERS = ("state_dict", "model", "model_state_dict", "model_state", "module", "params")
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# what people get instead of a weight file, by its first bytes
_MISTAKEN = {
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "a web page; the download went wrong",
    b"<!doctype": "a web page; the download went wrong",
    b"<html": "a web page; the download went wrong",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"BZh": "a bzip2 file; unpack it first",
    b"ftrt": "a TensorRT engine; weights cannot be read back from it",
}
_UNREADABLE = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, LookupError,
    TypeError, AttributeError, OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignWeights:
    """Tensors as a file has them.

    Attributes:
        tensors: by the names of the file, on the CPU, mapped from the file where its format allows.
        kind: ``pickle``, ``torch``, ``safetensors`` or ``folder``.
        origin: the file or folder.
        marks: plain values beside the tensors, such as ``epoch`` or ``tao_model``.
        config: what `config.json` of a Hugging Face folder says.
    """

    tensors: Mapping[str, Tensor]
    kind: str
    origin: Path
    marks: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read_tensors(path: Path, *, key: str) -> ForeignWeights:
    """Read a weight file or folder.

    Args:
        key: spec key or flag that named the path, for messages.

    Raises:
        NotFoundError: there is no such file or folder.
        MissingFilesError: parts that an index names are not there.
        InvalidValueError: damaged, encrypted, empty, of no known kind, or a pickle of anything but arrays.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        path = path.parent
    if path.is_dir():
        found = _folder(path, key)
    elif path.is_file():
        found = _file(path, key)
    else:
        raise NotFoundError(
            f"{key}: there is no file or folder {path}",
            hint=f"ls -l {path.parent}",
            key=key,
            value=str(path),
        )
    if not found.tensors:
        raise _refused(key, path, "holds no tensors", "take a file of weights: " + _ENDINGS)
    return found


def _file(path: Path, key: str) -> ForeignWeights:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise _refused(key, path, "is empty", f"ls -l {path}; copy it again")
    for magic, what in _MISTAKEN.items():
        if start.startswith(magic):
            raise _refused(key, path, f"is {what}", f"head -c 200 {path}")
    if _is_safetensors(path, start):
        return ForeignWeights(
            tensors=_safetensors(path, key), kind="safetensors", origin=path, config=_config(path.parent)
        )
    if start.startswith((b"PK", _OLD_TORCH)):
        return _torch(path, key)
    if start.startswith(b"\x80") or path.suffix == ".pkl":
        return _pickle(path, key)
    raise _refused(key, path, "is no weight file of a known kind", "known are " + _ENDINGS)


def _is_safetensors(path: Path, start: bytes) -> bool:
    """By its ending, or because the length of a JSON header comes first."""
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:9] == b"{" and length < path.stat().st_size)


def _safetensors(path: Path, key: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as err:
        raise RuntimeMissingError(
            f"{key}: reading {path} needs safetensors, which is not installed",
            hint="pip install -c constraints.txt 'skillbank[runtime]'",
            key="safetensors",
        ) from err
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as err:
        raise _damaged(key, path, err) from err


def _pickle(path: Path, key: str) -> ForeignWeights:
    try:
        with path.open("rb") as file:
            content = read_pickle(file)
    except ForbiddenClassError as err:
        raise InvalidValueError(
            f"{key}: {path} is a pickle of something else than arrays: it holds {err.name}, and reading that "
            "could run code",
            hint="save the weights as .safetensors, or as a .pkl of NumPy arrays alone",
            key=key,
            value=str(path),
        ) from err
    except _UNREADABLE as err:
        raise _damaged(key, path, err) from err
    return _chosen(content, path, "pickle", key)


def _torch(path: Path, key: str) -> ForeignWeights:
    try:
        with warnings.catch_warnings():
            # says of a foreign file that it may not be readable; the error that follows says it better
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as err:
        if zipfile.is_zipfile(path):
            return _only_tensors(path, key)
        raise _refused(
            key,
            path,
            "is damaged, or holds more than tensors and plain values in the old form of PyTorch files; "
            "reading that could run code",
            "save it again, with the program that wrote it, as a map of tensors alone",
        ) from err
    except _UNREADABLE as err:
        raise _damaged(key, path, err) from err
    return _chosen(content, path, "torch", key)


def _only_tensors(path: Path, key: str) -> ForeignWeights:
    try:
        archive = read_archive(path)
        holder, marks = _holder(archive.content)
        tensors = archive.tensors(holder)
    except _UNREADABLE as err:
        raise _damaged(key, path, err) from err
    _refuse_encrypted(archive.content, path, key)
    log.info("%s holds objects beside its tensors; they were left out without running them", path)
    return ForeignWeights(tensors=tensors, kind="torch", origin=path, marks=marks)


def _chosen(content: Any, path: Path, kind: str, key: str) -> ForeignWeights:
    _refuse_encrypted(content, path, key)
    holder, marks = _holder(content)
    tensors = {
        name: item.detach()
        for name, item in (dict.items(holder) if isinstance(holder, dict) else ())
        if isinstance(name, str) and isinstance(item, Tensor)
    }
    if is_packed(tensors):
        tensors = restore(tensors, where=f"{key}: {path}")
    return ForeignWeights(tensors=tensors, kind=kind, origin=path, marks=marks)


def _holder(content: Any) -> tuple[Any, dict[str, Any]]:
    """The map that holds the tensors, and the plain values around it."""
    if not isinstance(content, dict):
        return content, {}
    for name in _HOLDERS:
        inner = dict.get(content, name)
        if isinstance(inner, dict) and inner:
            return inner, _plain(content)
    return content, _plain(content)


def _plain(content: dict[Any, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in dict.items(content):
        if not isinstance(name, str):
            continue
        if isinstance(value, str | int | float | bool) or name in ("skillbank", FACTS):
            out[name] = value
    return out


def _refuse_encrypted(content: Any, path: Path, key: str) -> None:
    if isinstance(content, dict) and (
        "state_dict_encrypted" in content or isinstance(dict.get(content, "state_dict"), bytes)
    ):
        raise _refused(
            key, path, "is encrypted", "save it again without a key, with the program that encrypted it"
        )


def _folder(folder: Path, key: str) -> ForeignWeights:
    name = next((name for name in _FOLDER if (folder / name).is_file()), None)
    if name is None:
        raise _refused(key, folder, "holds none of " + ", ".join(_FOLDER), f"ls -l {folder}")
    parts = _parts(folder, name, key) if name.endswith(".index.json") else [folder / name]
    tensors: dict[str, Tensor] = {}
    for part in parts:
        tensors.update(_file(part, key).tensors)
    return ForeignWeights(tensors=tensors, kind="folder", origin=folder, config=_config(folder))


def _parts(folder: Path, index: str, key: str) -> list[Path]:
    try:
        placed = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(placed.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as err:
        raise _damaged(key, folder / index, err) from err
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise _refused(key, folder / index, "names files outside its folder", f"head -c 400 {folder / index}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MissingFilesError(
            f"{key}: {folder / index} names {len(names)} parts, of which {len(missing)} are not there: "
            + ", ".join(missing[:10]),
            hint=f"copy them into {folder}",
            key=key,
            value=missing,
        )
    return [folder / name for name in names]


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _damaged(key: str, path: Path, err: BaseException) -> InvalidValueError:
    reason = (str(err).splitlines() or [type(err).__name__])[0] or type(err).__name__
    return _refused(
        key,
        path,
        f"cannot be read as weights ({reason})",
        f"ls -l {path}; it may be cut off, so copy it again, or take another file",
    )


def _refused(key: str, path: Path, why: str, hint: str) -> InvalidValueError:
    return InvalidValueError(f"{key}: {path} {why}", hint=hint, key=key, value=str(path))
