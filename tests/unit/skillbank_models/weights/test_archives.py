"""PyTorch files with objects in them give their tensors and run nothing."""

import argparse
import collections
import enum
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from skillbank_models.weights.archives import read_archive


class Colour(enum.Enum):
    """An enum, which pickles as a call."""

    RED = 1


class Settings(dict):  # type: ignore[type-arg]
    """A map with a class of its own, like those of configuration libraries."""


class Runs:
    """Makes a file when it is unpickled by an ordinary reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_tensors_among_objects(tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    whole = torch.randn(3, 4)
    state = collections.OrderedDict(
        turned=whole.t(), part=whole[1:], learned=torch.nn.Parameter(torch.ones(2)), none=torch.empty(0, 3),
        half=torch.ones(2, dtype=torch.bfloat16),
        flag=torch.ones(1, dtype=torch.bool), number=torch.tensor(3.0),
    )  # fmt: skip
    content = {
        "state_dict": state, "epoch": 3, "hyper_parameters": argparse.Namespace(a=1),
        "settings": Settings(a=1),
        "colour": Colour.RED, "counted": collections.Counter("aab"), "path": tmp_path, "evil": Runs(trace),
    }  # fmt: skip
    path = tmp_path / "x.ckpt"
    torch.save(content, path)
    torch.load(path, weights_only=False)
    assert trace.exists()  # an ordinary reader runs it
    trace.unlink()
    archive = read_archive(path)
    assert archive.content["epoch"] == 3
    found = archive.tensors(archive.content["state_dict"])
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())
    assert not trace.exists()


def test_shared_memory_is_read_once(tmp_path: Path) -> None:
    whole = torch.randn(8)
    torch.save({"a": whole[:4], "b": whole[4:]}, tmp_path / "x.pth")
    archive = read_archive(tmp_path / "x.pth")
    found = archive.tensors(archive.content)
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()
    assert archive.tensors("no map") == {}


def with_pickle(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", program)
    return path


def test_other_zip_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(pickle.UnpicklingError, match="not one of PyTorch"):
        read_archive(tmp_path / "x.zip")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(4)}, tmp_path / "x.pth")
    archive = read_archive(tmp_path / "x.pth")
    pending = archive.content["a"]
    reaching = type(pending)(pending.source, 0, (1000,), (1,))
    with pytest.raises(RuntimeError, match="out of bounds"):
        archive.tensors({"a": reaching})


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(S'no storage'\nI0\n(t(ttR.",
        b"ctorch._utils\n_rebuild_tensor_v3\n(S'no storage'\nI0\n(t(tI0\n(dtR.",
        b"S'no tuple'\nQ.",
    ],
)
def test_broken_programs_are_refused(program: bytes, tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError):
        read_archive(with_pickle(tmp_path / "x.pth", program))


def test_unknown_classes_can_be_treated_in_every_way_and_do_nothing(tmp_path: Path) -> None:
    program = (
        b"\x80\x02cevil\nThing\n)\x81"  # an object of a class
        b"(dS'a'\nI1\nsb"  # with a state
        b"cevil\nThing\n(dS'__setstate__'\nI1\nsb"  # a class with a state
        b"0cevil\nthing\n(I1\ntRI2\na."  # a call, to which a number is appended
    )
    content = read_archive(with_pickle(tmp_path / "x.pth", program)).content
    assert type(content).__mro__[-2].__name__ == "Inert"
