"""Pickles of arrays are read, pickles of anything else run nothing."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skillbank_models.weights.pickles import ForbiddenClassError, read_pickle


def read(value: Any, protocol: int) -> Any:
    return read_pickle(io.BytesIO(pickle.dumps(value, protocol=protocol)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(protocol: int) -> None:
    arrays = {
        "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "turned": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        "big_endian": np.arange(6, dtype=">f4"),
        "half": np.ones(2, np.float16),
        "empty": np.zeros((0, 3), np.float32),
        "number": np.array(3.0),
        "flags": np.array([True, False]),
        "wide": np.array([7], np.uint16),
    }
    found = read({"model": OrderedDict(arrays), "scalar": np.float32(2), "author": "x"}, protocol)
    assert found["author"] == "x"
    assert found["scalar"] == 2
    assert found["model"].keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(
            found["model"][name].numpy(), array.astype(array.dtype.newbyteorder("="))
        )
    assert found["model"]["half"].dtype == torch.float16


def test_tensors_that_were_pickled_without_torch_save() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    found = read({"t": whole.t(), "p": torch.nn.Parameter(torch.ones(2))}, 4)
    assert torch.equal(found["t"], whole.t())
    assert torch.equal(found["p"], torch.ones(2))
    found["t"].add_(1)  # its own memory


class Runs:
    """Makes a file when it is unpickled by an ordinary reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    content = pickle.dumps({"model": {"a": np.ones(2)}, "x": Runs(trace)})
    pickle.loads(content)
    assert trace.exists()  # the pickle is a working one
    trace.unlink()
    with pytest.raises(ForbiddenClassError, match="system"):
        read_pickle(io.BytesIO(content))
    assert not trace.exists()


def test_an_object_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForbiddenClassError, match="array of object"):
        read(np.array([Runs(tmp_path / "it-ran")], dtype=object), 4)
    with pytest.raises(ForbiddenClassError, match="array of"):
        read(np.array(["text"]), 4)
    with pytest.raises(ForbiddenClassError, match="array of"):
        read(np.zeros(2, [("a", "f4"), ("b", "i4")]), 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cskillbank_models.weights.pickles\nread_pickle\n.",
        b"cnumpy\nload\n.",
        b"ctorch\nload\n.",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"cbuiltins\nbytearray\n(I99\ntR.",
    ],
)
def test_hand_written_programs_are_refused(program: bytes) -> None:
    with pytest.raises(ForbiddenClassError):
        read_pickle(io.BytesIO(program))


@pytest.mark.parametrize("name", [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cbuiltins\nset\n"])
def test_what_it_hands_out_cannot_be_changed(name: bytes) -> None:
    # BUILD with a state of two halves sets attributes
    changes = name + b"(N(dS'__call__'\nI1\nstb."
    with pytest.raises((TypeError, AttributeError, pickle.UnpicklingError)):
        read_pickle(io.BytesIO(changes))


def test_a_small_pickle_of_many_references_does_not_grow() -> None:
    nest: list[Any] = [1]
    for _ in range(60):
        nest = [nest, nest]
    found = read(nest, 4)
    depth = 0
    while isinstance(found[0], list):
        found, depth = found[0], depth + 1
    assert depth == 60
