"""What went wrong, in words that help."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from skillbank.errors import (
    InvalidValueError,
    OutOfMemoryError,
    RuntimeMissingError,
    ShapeError,
    StorageError,
)
from skillbank_runners.failures import explain, memory_hint, writer_refusal

SPEC: dict[str, Any] = {
    "dataset": {"train": {"batch_size": 8, "num_workers": 4}, "val": {"batch_size": 1}},
    "train": {"activation_checkpoint": False},
    "model": {"frustum_dims": 256, "precise": False},
    "evaluate": {"batch_size": 4},
}


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "GPU"),
        (RuntimeError("cuDNN error: CUDA error: out of memory"), "GPU"),
        (MemoryError(), "host"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "host"),
        (OSError(12, "Cannot allocate memory"), "host"),
    ],
)
def test_memory_that_ran_out_names_the_settings_to_lower(error: BaseException, where: str) -> None:
    found = explain(error, SPEC, "train", ("model.frustum_dims", "model.precise=true"))
    assert isinstance(found, OutOfMemoryError)
    assert f"train: {where} memory ran out" in found.message
    assert found.hint == (
        "lower dataset.train.batch_size=4, or train.activation_checkpoint=true, "
        "or model.frustum_dims=128, or model.precise=true"
    )
    assert found.exit_code == 6


def test_without_a_known_setting_the_hint_is_general() -> None:
    assert memory_hint({"dataset": {"batch_size": 1}}, "train") == (
        "use a smaller model, smaller images or a larger device"
    )


def test_batch_sizes_of_another_action_are_not_named() -> None:
    assert "evaluate.batch_size" not in memory_hint(SPEC, "train")
    assert "evaluate.batch_size=2" in memory_hint(SPEC, "evaluate")


@pytest.mark.parametrize(
    "ending", ["Killed.", "Bus error. It is possible that dataloader's workers are out of shared"]
)
def test_a_killed_loader_process_is_a_matter_of_memory(ending: str) -> None:
    error = RuntimeError(f"DataLoader worker (pid 12) is killed by signal: {ending}")
    found = explain(error, SPEC, "train")
    assert isinstance(found, OutOfMemoryError)
    assert ("shared memory" in found.message) == ("Bus" in ending)
    assert found.hint == "use fewer loader processes: dataset.train.num_workers=2"


def test_a_missing_package_says_how_to_get_it() -> None:
    found = explain(ModuleNotFoundError("No module named 'spconv'", name="spconv"), SPEC, "train")
    assert isinstance(found, RuntimeMissingError)
    assert found.key == "spconv"
    assert "pip install" in found.hint


@pytest.mark.parametrize(
    ("error", "says", "hint"),
    [
        (NotADirectoryError(20, "Not a directory", "/a/file/x"), "/a/file/x: not a directory", "/a/file"),
        (OSError(28, "No space left on device", "/a/x.pth"), "/a/x.pth: no space left", "df -h /a"),
        (PermissionError(13, "Permission denied", "/a/x"), "/a/x: permission denied", "ls -ld /a"),
        (FileNotFoundError(2, "No such file or directory"), "train: no such file", "see what is there"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_file_system_refuses_is_no_bug_of_ours(error: OSError, says: str, hint: str) -> None:
    found = explain(error, SPEC, "train")
    assert isinstance(found, StorageError)
    assert says in found.message
    assert hint in found.hint


def test_what_hides_a_full_disk_names_folder_and_room(tmp_path: Path) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    found = explain(error, {**SPEC, "results_dir": str(tmp_path)}, "train")
    assert isinstance(found, StorageError)
    assert re.fullmatch(
        rf"train: disk full or not writable: {tmp_path} has \d+ bytes \([^)]+\) free", found.message
    )
    assert found.hint == f"df -h {tmp_path}"
    other = RuntimeError("[enforce fail at inline_container.cc:1] . PytorchStreamReader failed")
    assert writer_refusal(other, tmp_path) is None
    assert writer_refusal(KeyError("inline_container"), tmp_path) is None


def test_anything_else_is_our_bug_with_type_and_message() -> None:
    found = explain(KeyError("a bug\nsecond line"), SPEC, "train")
    assert found.code == "internal"
    assert found.exit_code == 1
    assert found.message == "train: KeyError: 'a bug\\nsecond line'"
    assert explain(ZeroDivisionError(), SPEC, "train").message == "train: ZeroDivisionError: "


def test_an_error_of_ours_stays_as_it_is() -> None:
    error = InvalidValueError("x")
    assert explain(error, SPEC, "train") is error


class Refusing(Dataset[int]):
    """A data set whose files are damaged."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        try:
            raise KeyError("mask")
        except KeyError as error:
            raise ShapeError("a.npz: 3 x 4\nand more", hint="write it again", key="a.npz") from error


def test_an_error_of_a_loader_process_is_told_as_it_was_there() -> None:
    """Torch makes a message of the whole traceback, and leaves out the hint."""
    with pytest.raises(ShapeError) as caught:
        next(iter(DataLoader(Refusing(), num_workers=1)))
    found = explain(caught.value, SPEC, "train")
    assert type(found) is ShapeError
    assert found.message == "a.npz: 3 x 4\nand more"
    assert found.hint == "write it again"


def test_an_error_of_this_process_stays_as_it_is() -> None:
    error = InvalidValueError("Caught in the act", hint="h", key="k", value=3)
    assert explain(error, SPEC, "train") is error
