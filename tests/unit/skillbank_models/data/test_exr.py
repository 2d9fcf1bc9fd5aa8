"""Depth in OpenEXR files: the right channel, in metres, or one clear error."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from front3d_files import FRONT3D_SAMPLE, write_exr

from skillbank.errors import DataError, MissingFilesError, RuntimeMissingError
from skillbank_models.data.exr import read_exr

DEPTH = np.linspace(0.5, 6.0, 12, dtype=np.float32).reshape(3, 4)


def test_depth_is_the_channel_z(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", {"Z": DEPTH, "A": DEPTH * 0})
    found = read_exr(tmp_path / "a.exr")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, DEPTH)


def test_a_single_channel_is_depth_whatever_its_name(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", {"Y": DEPTH})
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr"), DEPTH)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", {"Z": DEPTH.astype(np.float16)})
    found = read_exr(tmp_path / "a.exr")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, DEPTH.astype(np.float16))


def test_several_channels_without_z_are_refused(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", {"R": DEPTH, "G": DEPTH})
    with pytest.raises(
        DataError, match=r"a\.exr: the channels are G, R; depth is the channel Z, or the only one"
    ):
        read_exr(tmp_path / "a.exr")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.6])
def test_damaged_files_are_refused(part: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.exr"
    write_exr(path, {"Z": np.random.default_rng(0).random((64, 64), np.float32)})
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match=r"a\.exr: this EXR file cannot be read") as caught:
        read_exr(path)
    assert caught.value.hint == "copy the file again"
    capfd.readouterr()  # the library tells it on stderr too


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"a\.exr: no such EXR file"):
        read_exr(tmp_path / "a.exr")


def test_the_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "OpenEXR":
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeMissingError, match="needs the package OpenEXR") as caught:
        read_exr(tmp_path / "a.exr")
    assert caught.value.hint == "pip install OpenEXR"


def test_the_real_depth_is_read() -> None:
    if not FRONT3D_SAMPLE.is_dir():
        pytest.skip("the sample data is not there: ../shared/data/front3d_sample")
    depth = read_exr(FRONT3D_SAMPLE / "data" / "sample" / "depth_0007.exr")
    assert depth.shape == (240, 320)
    assert 0.91 < depth.min() < depth.max() < 3.5
