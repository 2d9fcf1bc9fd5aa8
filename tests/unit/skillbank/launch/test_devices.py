import os
from pathlib import Path

import pytest

from skillbank.launch import devices


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's folder with two GPUs, and no nvidia-smi."""
    for name, uuid in (("0000:01:00.0", "GPU-aaaa"), ("0000:02:00.0", "GPU-bbbb")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text(
            f"Model: \t\t X\nGPU UUID: \t {uuid}-1\nBus Type: PCIe\n"
        )
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 2),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("0", 1),
        ("1,0", 2),
        ("0, 1", 2),
        ("0,7,1", 1),
        ("1,-1,0", 1),
        ("GPU-bbbb", 1),
        ("GPU-aaaa-1,GPU-bbbb", 2),
        ("GPU-cccc", 0),
    ],
)
def test_gpus_are_counted_as_the_driver_shows_them(two_gpus: Path, visible: str | None, count: int) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert devices.gpu_count(environ, proc=two_gpus) == count


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_count({}, proc=tmp_path / "none") == 0
    assert devices.gpu_count({"CUDA_VISIBLE_DEVICES": "0,1"}, proc=tmp_path / "none") == 0


@pytest.mark.parametrize(("script", "count"), [("echo GPU-1; echo GPU-2; echo GPU-3", 3), ("exit 9", 2)])
def test_the_drivers_tool_is_asked_first(
    two_gpus: Path, monkeypatch: pytest.MonkeyPatch, script: str, count: int
) -> None:
    tool = two_gpus / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{two_gpus}{os.pathsep}/bin")
    assert devices.gpu_count({}, proc=two_gpus) == count


def test_a_device_is_named_by_what_is_behind_it() -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "3, GPU-x"}
    assert devices.physical("cuda:0", visible) == "cuda:3"
    assert devices.physical("cuda:1", visible) == "cuda:GPU-x"
    assert devices.physical("cuda:2", visible) == "cuda:2"
    assert devices.physical("cpu", visible) == "cpu"
    assert devices.physical("cuda:0", {}) == "cuda:0"


def test_the_description_has_one_node() -> None:
    found = devices.describe({"CUDA_VISIBLE_DEVICES": ""})
    assert found == {"nodes": 1, "gpus_per_node": 0, "cpus": len(os.sched_getaffinity(0))}
