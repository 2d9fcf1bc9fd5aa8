"""Files for other programs, whole or not at all."""

import pickle
import pickletools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from skillbank.errors import StorageError
from skillbank_models.weights.files import read_tensors
from skillbank_models.weights.writing import write_folder, write_pickle, write_safetensors, write_torch

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3).t(),
    "b": torch.ones(2, dtype=torch.bfloat16),
    "c": torch.tensor(3),
}


def test_a_pickle_that_an_ordinary_reader_understands(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.pkl"
    write_pickle(path, {"model": TENSORS, "__author__": "me"})
    found = pickle.loads(path.read_bytes())
    assert found["__author__"] == "me"
    assert found["model"]["a"].tolist() == TENSORS["a"].tolist()
    assert found["model"]["a"].flags.writeable
    assert found["model"]["b"].dtype == "float32"
    assert found["model"]["c"] == 3
    # no name that one version of NumPy has and another lacks
    named = {word for _, word, _ in pickletools.genops(path.read_bytes()) if isinstance(word, str)}
    assert {"numpy", "ndarray"} <= named
    assert not any("multiarray" in word or "numeric" in word for word in named)
    again = read_tensors(path, key="k").tensors
    assert all(
        torch.equal(again[name], TENSORS[name].float() if name == "b" else TENSORS[name]) for name in TENSORS
    )


def test_other_files(tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", {"state_dict": TENSORS, "epoch": 1})
    assert torch.load(tmp_path / "x.pth", weights_only=True)["epoch"] == 1
    write_safetensors(tmp_path / "x.safetensors", TENSORS)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    write_folder(tmp_path / "folder", TENSORS, {"config.json": {"a": 1}})
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    found = read_tensors(tmp_path / "folder", key="k")
    assert found.config == {"a": 1}
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x.pth", "x.safetensors"]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="the weights cannot be written"):
        write_torch(tmp_path / "file" / "x.pth", TENSORS)
    shared = {"a": TENSORS["a"], "b": torch.ones(1).expand(2)[:1]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_folder(tmp_path / "folder", shared, {"config.json": {"a": float("nan")}})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
