"""Checkpoint files: written whole or not at all, read without running code, found by rule."""

import contextlib
import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from skillbank.errors import InvalidValueError, NotFoundError, StorageError
from skillbank_runners.checkpoints import (
    RESUME_KEY,
    SafeCheckpointIO,
    check_fits,
    checkpoint_name,
    find_resume,
    load_exactly,
    plain,
    point_to_latest,
    read_checkpoint,
    remove_leftovers,
    tensors_of,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Small(pl.LightningModule):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.model = torch.nn.Linear(2, width)


def test_names_are_those_of_the_documents() -> None:
    assert checkpoint_name(0) == "model_epoch_000.pth"
    assert checkpoint_name(4, 120) == "model_epoch_004_step_00120.pth"


def test_a_file_comes_back_as_it_went_in_and_loads_safely(tmp_path: Path) -> None:
    content = {
        "state_dict": OrderedDict(w=torch.nn.Parameter(torch.ones(2))),
        "counts": defaultdict(int, a=1),
        "numbers": [np.float32(0.5), np.arange(3), (1, None, True)],
        "place": tmp_path,
    }
    SafeCheckpointIO().save_checkpoint(content, tmp_path / "a" / "m.pth")
    found = torch.load(tmp_path / "a" / "m.pth", weights_only=True)
    assert torch.equal(found["state_dict"]["w"], torch.ones(2))
    assert found["counts"] == {"a": 1}
    assert found["numbers"][0] == 0.5
    assert found["numbers"][1].tolist() == [0, 1, 2]
    assert found["numbers"][2] == (1, None, True)
    assert found["place"] == str(tmp_path)
    assert names(tmp_path / "a") == ["m.pth"]


def test_an_object_is_refused_and_its_place_named() -> None:
    with pytest.raises(TypeError, match=r"checkpoint\.callbacks\.mine\[\] is a Small"):
        plain({"callbacks": {"mine": [Small()]}})


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pth"
    SafeCheckpointIO().save_checkpoint({"a": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageError, match=r"m\.pth: the checkpoint cannot be written \(No space left"
    ) as found:
        SafeCheckpointIO().save_checkpoint({"a": 2}, path)
    assert "df -h" in found.value.hint
    assert read_checkpoint(path) == {"a": 1}
    assert names(tmp_path) == ["m.pth"]


def test_a_disk_that_fills_up_inside_a_write_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save

    def onto_a_full_disk(content: object, file: object) -> None:
        with contextlib.suppress(OSError), Path("/dev/full").open("wb") as full:
            try:
                real(content, full)
            except RuntimeError as err:
                hidden.append(err)
        raise hidden[0]

    hidden: list[RuntimeError] = []
    monkeypatch.setattr(torch, "save", onto_a_full_disk)
    with pytest.raises(StorageError) as found:
        SafeCheckpointIO().save_checkpoint({"a": torch.ones(100_000)}, tmp_path / "m.pth")
    assert "inline_container" in str(hidden[0])
    assert f"(disk full or not writable: {tmp_path} has " in found.value.message
    assert "inline_container" not in found.value.message
    assert names(tmp_path) == []


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Trap()}, "evil.pth")
    Path("evil.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(InvalidValueError, match="reading it could run code") as found:
            read_checkpoint(Path(name), key="evaluate.checkpoint")
        assert found.value.key == "evaluate.checkpoint"
        assert "weights convert" in found.value.hint
    assert not Path("trapped").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "list"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.pth"
    torch.save([1] if damage == "list" else {"a": torch.ones(1000)}, path)
    if damage != "list":
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(InvalidValueError, match=r"evaluate\.checkpoint: .*m\.pth"):
        read_checkpoint(path, key="evaluate.checkpoint")


def test_an_old_format_is_read_too(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(tmp_path / "m.pth")["a"], torch.ones(2))


def test_a_missing_file_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"evaluate\.checkpoint: there is no file .*none\.pth"):
        read_checkpoint(tmp_path / "none.pth", key="evaluate.checkpoint")


def test_weights_are_found_where_checkpoints_keep_them() -> None:
    weights = {"w": torch.ones(1)}
    assert tensors_of({"state_dict": weights, "epoch": 1}) == weights
    assert tensors_of({"model": weights, "epoch": 1}) == weights
    assert tensors_of({**weights, "epoch": 1}) == weights


def test_another_architecture_is_told_by_count_and_shape(tmp_path: Path) -> None:
    weights = {**Small(3).state_dict(), "model.extra": torch.ones(1)}
    del weights["model.bias"]
    with pytest.raises(InvalidValueError) as found:
        check_fits(Small(2), weights, tmp_path / "m.pth", "evaluate.checkpoint")
    text = str(found.value)
    assert "evaluate.checkpoint" in text
    assert "of 2 tensors, 1 missing (model.bias); 1 unknown here (model.extra)" in text
    assert "1 of another shape (model.weight (3, 2) instead of (2, 2))" in text
    check_fits(Small(2), Small(2).state_dict(), tmp_path / "m.pth", "evaluate.checkpoint")


def test_weights_are_loaded_exactly(tmp_path: Path) -> None:
    source, target = Small(), Small()
    SafeCheckpointIO().save_checkpoint({"state_dict": source.state_dict()}, tmp_path / "m.pth")
    load_exactly(target, tmp_path / "m.pth", "evaluate.checkpoint")
    assert torch.equal(target.model.weight, source.model.weight)


def test_the_link_moves_in_one_step(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text(name)
        point_to_latest(tmp_path / "latest.pth", tmp_path / name)
        assert (tmp_path / "latest.pth").read_text() == name
        assert (tmp_path / "latest.pth").is_symlink()
    assert names(tmp_path) == ["a.pth", "b.pth", "latest.pth"]


def test_without_symbolic_links_a_hard_one_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (tmp_path / "a.pth").write_text("a")
    point_to_latest(tmp_path / "latest.pth", tmp_path / "a.pth")
    assert (tmp_path / "latest.pth").samefile(tmp_path / "a.pth")


def test_half_written_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model_epoch_001.pth.4242.part").write_text("half")
    (tmp_path / "model_epoch_000.pth").write_text("whole")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model_epoch_000.pth"]


class TestResumeRule:
    def test_a_given_path_wins_over_the_link(self, tmp_path: Path) -> None:
        for name in ("mine.pth", "model_epoch_003.pth"):
            (tmp_path / name).write_text("")
        point_to_latest(tmp_path / "toy_model_latest.pth", tmp_path / "model_epoch_003.pth")
        given = find_resume(str(tmp_path / "mine.pth"), tmp_path, "toy_model_latest.pth")
        assert given is not None
        assert given.path.name == "mine.pth"
        assert RESUME_KEY in given.reason
        linked = find_resume(None, tmp_path, "toy_model_latest.pth")
        assert linked is not None
        assert linked.path.name == "model_epoch_003.pth"

    def test_an_empty_folder_or_the_link_of_another_network_starts_fresh(self, tmp_path: Path) -> None:
        assert find_resume(None, tmp_path, "toy_model_latest.pth") is None
        (tmp_path / "other_latest.pth").write_text("")
        assert find_resume("", tmp_path, "toy_model_latest.pth") is None

    @pytest.mark.parametrize("name", ["m.onnx", "m.ckpt", "m"])
    def test_only_pth_and_tlt_are_taken(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("")
        with pytest.raises(
            InvalidValueError, match=r"resume_training_checkpoint_path.*\.pth or \.tlt"
        ) as found:
            find_resume(str(tmp_path / name), tmp_path, "toy_model_latest.pth")
        assert found.value.allowed == [".pth", ".tlt"]

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="there is no file"):
            find_resume(str(tmp_path / "gone.tlt"), tmp_path, "toy_model_latest.pth")

    def test_a_dangling_link_falls_back_to_the_newest_file(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in (
            "model_epoch_001.pth",
            "model_epoch_002_step_00010.pth",
            "model_epoch_002_step_00009.pth",
        ):
            (tmp_path / name).write_text("")
        (tmp_path / "toy_model_latest.pth").symlink_to("model_epoch_009.pth")
        found = find_resume(None, tmp_path, "toy_model_latest.pth")
        assert found is not None
        assert found.path.name == "model_epoch_002_step_00010.pth"
        assert "which is gone" in caplog.text
