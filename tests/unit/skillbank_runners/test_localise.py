"""Inputs become local paths, results get a local place."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skillbank.errors import MissingFilesError, StorageError
from skillbank.jobs.record import Job, Request
from skillbank.jobs.states import State
from skillbank.skill_info import ActionInfo, Input, Output
from skillbank.storage import Storage
from skillbank.storage.pointers import pointer_content
from skillbank_runners.localise import fetch_inputs, fetch_latest, place_results


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with Storage(tmp_path / "cache") as found:
        yield found


def info(outputs: dict[str, Output] | None = None, **inputs: Input) -> ActionInfo:
    named = {key.replace("__", "."): rule for key, rule in inputs.items()}
    return ActionInfo(description="d", command="c", inputs=named, outputs=outputs or {})


def job(tmp_path: Path, action: str = "train", results_dir: str | None = None) -> Job:
    folder = tmp_path / "home" / "jobs" / "toy-1"
    return Job(
        id="toy-1", network="toy", action=action, name="n", state=State.PENDING, message="", created_at="",
        updated_at="", folder=folder, results_dir=results_dir or str(folder / "results"),
        request=Request(network="toy", action=action),
    )  # fmt: skip


def test_plain_paths_and_file_uris_become_paths(tmp_path: Path, storage: Storage) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    spec = {
        "dataset": {
            "one": str(tmp_path / "a.txt"),
            "many": [f"file://{tmp_path}/a.txt", str(tmp_path / "b.txt")],
        }
    }
    found = fetch_inputs(
        spec, info(dataset__one=Input(type="file"), dataset__many=Input(type="file")), storage
    )
    assert found["dataset"] == {
        "one": str(tmp_path / "a.txt"),
        "many": [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")],
    }
    assert spec["dataset"]["many"][0].startswith("file://")  # type: ignore[index]


def test_words_of_a_key_are_no_places(tmp_path: Path, storage: Storage) -> None:
    rules = info(inference__camera=Input(type="file", words=["known"]))
    assert fetch_inputs({"inference": {"camera": "known"}}, rules, storage) == {
        "inference": {"camera": "known"}
    }
    with pytest.raises(MissingFilesError):
        fetch_inputs({"inference": {"camera": "unknown"}}, rules, storage)


def test_keys_are_found_behind_lists(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "a.txt").write_text("a")
    spec = {"dataset": {"sources": [{"file": f"file://{tmp_path}/a.txt"}, {"other": 1}]}}
    found = fetch_inputs(spec, info(dataset__sources__file=Input(type="file")), storage)
    assert found["dataset"]["sources"] == [{"file": str(tmp_path / "a.txt")}, {"other": 1}]


def test_an_archive_becomes_the_folder_it_holds(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("a")
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "images", "images")
    spec = {"dataset": {"dir": str(tmp_path / "images.tar.gz"), "kept": str(tmp_path / "images.tar.gz")}}
    rules = info(dataset__dir=Input(type="folder", archive="extract"), dataset__kept=Input(type="file"))
    found = fetch_inputs(spec, rules, storage)
    assert (Path(found["dataset"]["dir"]) / "a.png").read_text() == "a"
    assert found["dataset"]["kept"].endswith(".tar.gz")


def test_all_missing_inputs_are_told_at_once_with_their_keys(tmp_path: Path, storage: Storage) -> None:
    spec = {
        "dataset": {
            "a": str(tmp_path / "a.txt"),
            "b": f"file://{tmp_path}/b",
            "c": "",
            "d": str(tmp_path / "d"),
        }
    }
    rules = info(
        dataset__a=Input(type="file"),
        dataset__b=Input(type="folder"),
        dataset__c=Input(type="file"),
        dataset__d=Input(type="file", optional=True),
        dataset__e=Input(type="file"),
    )
    with pytest.raises(MissingFilesError) as found:
        fetch_inputs(spec, rules, storage)
    text = str(found.value)
    assert "dataset.a: there is no file" in text
    assert "dataset.b: there is no folder" in text
    assert "dataset.c" not in text
    assert "dataset.d" not in text
    assert found.value.exit_code == 3


def test_an_input_that_is_a_pipe_is_refused_with_its_key(tmp_path: Path, storage: Storage) -> None:
    os.mkfifo(tmp_path / "pipe")
    spec = {"dataset": {"file": str(tmp_path / "pipe")}}
    with pytest.raises(StorageError, match=r"^dataset\.file: .*/pipe: is a device, a pipe or a socket"):
        fetch_inputs(spec, info(dataset__file=Input(type="file")), storage)


def test_results_go_below_the_root_or_where_the_action_says(tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec: dict[str, Any] = {"results_dir": str(root), "train": {"results_dir": None}}
    places = place_results(spec, job(tmp_path), info())
    assert places.folder == root / "train"
    assert places.folder.is_dir()
    assert spec["train"]["results_dir"] == str(root / "train")
    spec["train"]["results_dir"] = str(tmp_path / "own")
    assert place_results(spec, job(tmp_path), info()).folder == tmp_path / "own"
    assert not places.trees
    assert not places.files


def test_remote_results_get_a_local_folder(tmp_path: Path) -> None:
    made = job(tmp_path, "export", results_dir="s3://bucket/run")
    local = made.folder / "results"
    spec: dict[str, Any] = {
        "results_dir": str(local),
        "export": {"onnx_file": "s3://bucket/models/m.onnx", "results_dir": None},
    }
    outputs = {"results_dir": Output(type="folder"), "export.onnx_file": Output(type="file")}
    places = place_results(spec, made, info(outputs))
    assert places.trees == {local: "s3://bucket/run"}
    assert spec["export"]["onnx_file"] == str(local / "export" / "m.onnx")
    assert places.files == {local / "export" / "m.onnx": "s3://bucket/models/m.onnx"}

    own = {"results_dir": str(local), "export": {"results_dir": "s3://bucket/other"}}
    places = place_results(own, replace(made, results_dir=str(local)), info(outputs))
    assert places.trees == {local / "export": "s3://bucket/other"}


def test_folders_of_output_files_are_made(tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "results_dir": str(tmp_path / "r"),
        "export": {"onnx_file": str(tmp_path / "x/y/m.onnx")},
    }
    place_results(spec, job(tmp_path, "export"), info({"export.onnx_file": Output(type="file")}))
    assert (tmp_path / "x" / "y").is_dir()


def test_the_newest_checkpoint_of_an_earlier_run_is_found_through_its_pointer(
    tmp_path: Path, storage: Storage
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "status.json").write_text("waiting\n")
    (tmp_path / "status.json").write_text("earlier\n")
    assert fetch_latest(str(tmp_path), "toy_model_latest.pth", local, storage) is None
    (tmp_path / "model_epoch_001.pth").write_text("weights")
    (tmp_path / "toy_model_latest.pth").write_bytes(pointer_content("model_epoch_001.pth"))
    found = fetch_latest(str(tmp_path), "toy_model_latest.pth", local, storage)
    assert found is not None
    assert found.read_text() == "weights"
    assert (local / "status.json").read_text() == "earlier\nwaiting\n"
