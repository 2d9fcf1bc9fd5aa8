"""Weight files of every kind, and what is said of those that are none."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skillbank.errors import InvalidValueError, MissingFilesError, NotFoundError
from skillbank_models.weights.files import ForeignWeights, read_tensors

KEY = "train.pretrained_model_path"


def read(path: Path) -> ForeignWeights:
    return read_tensors(path, key=KEY)


def test_kinds(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(2, 3), "a.bias": torch.zeros(2)}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    torch.save(tensors, tmp_path / "flat.pt")
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "model.pth")
    torch.save({"state_dict": tensors, "tao_model": "x", "skillbank": {"network": "x"}}, tmp_path / "own.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "renamed.bin")
    save_file(tensors, tmp_path / "x.safetensors")
    kinds = {
        "d2.pkl": "pickle", "flat.pt": "torch", "model.pth": "torch", "own.pth": "torch", "old.pth": "torch",
        "x.safetensors": "safetensors", "renamed.bin": "safetensors",
    }  # fmt: skip
    for name, kind in kinds.items():
        found = read(tmp_path / name)
        assert (found.kind, found.origin) == (kind, tmp_path / name)
        assert found.tensors.keys() == tensors.keys()
        assert all(torch.equal(found.tensors[key], tensors[key]) for key in tensors)
    assert read(tmp_path / "model.pth").marks == {"epoch": 3}
    assert read(tmp_path / "own.pth").marks == {"tao_model": "x", "skillbank": {"network": "x"}}


def test_a_checkpoint_with_objects_in_it(tmp_path: Path) -> None:
    class Config:
        pass

    # a class that the reading process does not have either
    Config.__module__, Config.__qualname__ = "__main__", "Config"
    import __main__

    __main__.Config = Config  # type: ignore[attr-defined]
    try:
        torch.save({"state_dict": {"a": torch.ones(2)}, "hyper": Config(), "epoch": 1}, tmp_path / "x.ckpt")
    finally:
        del __main__.Config  # type: ignore[attr-defined]
    found = read(tmp_path / "x.ckpt")
    assert torch.equal(found.tensors["a"], torch.ones(2))
    assert found.marks == {"epoch": 1}


def test_folders(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (tmp_path / "config.json").write_text('{"num_queries": 5}')
    for path in (tmp_path, index):
        found = read(path)
        assert sorted(found.tensors) == ["a", "b"]
        assert found.kind == "folder"
        assert found.config == {"num_queries": 5}
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(MissingFilesError, match=r"2 parts, of which 1 are not there: model-2.safetensors"):
        read(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(InvalidValueError, match=r"names files outside its folder"):
        read(tmp_path)
    index.write_text("{}")
    with pytest.raises(InvalidValueError, match=r"cannot be read"):
        read(tmp_path)
    index.unlink()
    torch.save({"c": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert list(read(tmp_path).tensors) == ["c"]
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(InvalidValueError, match=r"holds none of model.safetensors.index.json"):
        read(tmp_path)


class Runs:
    """Makes a file when it is unpickled by an ordinary reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["x.pkl", "x.pth", "x.tlt"])
def test_malicious_files_run_nothing(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    (tmp_path / name).write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "x": Runs(trace)}))
    with pytest.raises(
        InvalidValueError, match=r"it holds \w+.system, and reading that could run code"
    ) as info:
        read(tmp_path / name)
    assert info.value.key == KEY
    assert "safetensors" in info.value.hint
    assert not trace.exists()
    torch.save({"a": Runs(trace)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidValueError, match=r"reading that could run code"):
        read(tmp_path / "old.pth")
    torch.save({"a": Runs(trace)}, tmp_path / "new.pth")
    with pytest.raises(InvalidValueError, match=r"holds no tensors"):
        read(tmp_path / "new.pth")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.pth", b"", "is empty"),
        ("x.pth", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("x.pkl", b"<!DOCTYPE html><html>", "is a web page"),
        ("x.pth", b"hello", "is no weight file of a known kind"),
        ("x.tar.gz", b"\x1f\x8b123", "is a gzip file"),
        ("x.safetensors", b"\x08\x00", "cannot be read as weights"),
        ("x.pkl", b"\x80\x04\x95", "cannot be read as weights"),
        ("x.pkl", pickle.dumps([1, 2]), "holds no tensors"),
    ],
)
def test_files_that_are_none(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=said) as info:
        read(path)
    assert str(info.value).startswith(f"{KEY}: {path}")
    assert info.value.hint


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(64, 64)}
    torch.save(tensors, tmp_path / "x.pth")
    save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": tensors["a"].numpy()}))
    for name in ("x.pth", "x.safetensors", "x.pkl"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(InvalidValueError, match=r"cannot be read as weights") as info:
            read(path)
        assert "cut off" in info.value.hint


def test_encrypted_checkpoints_and_missing_files(tmp_path: Path) -> None:
    torch.save({"state_dict": b"secret", "state_dict_encrypted": "x"}, tmp_path / "x.tlt")
    with pytest.raises(InvalidValueError, match=r"is encrypted"):
        read(tmp_path / "x.tlt")
    with pytest.raises(NotFoundError, match=f"{KEY}: there is no file or folder") as info:
        read(tmp_path / "none.pth")
    assert info.value.exit_code == 4
