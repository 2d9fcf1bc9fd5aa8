"""Arrays from files: content, or an error that names file, key, form and what is allowed."""

from pathlib import Path

import numpy as np
import pytest

from skillbank.errors import AnnotationError, DataError, MissingFilesError, ShapeError
from skillbank_models.data.arrays import check_array, load_npy, load_npz


def test_arrays_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", data=np.arange(3), mask=np.ones(2, bool))
    mask, data = load_npz(tmp_path / "a.npz", "mask", "data")
    assert data.tolist() == [0, 1, 2]
    assert mask.dtype == bool


def test_a_missing_key_tells_those_that_are_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.arange(3))
    with pytest.raises(AnnotationError, match=r"a\.npz: there is no key 'data'; the archive has key 'arr_0'"):
        load_npz(tmp_path / "a.npz", "data")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_cut_archives_are_refused(part: float, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, data=np.random.default_rng(0).random(5000))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match=r"a\.npz: this file cannot be read"):
        load_npz(path, "data")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, data=np.zeros(100_000, np.int64))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.npz: this file cannot be read"):
        load_npz(path, "data")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=np.array([{}], object))
    with pytest.raises(DataError, match=r"a\.npz: this file cannot be read"):
        load_npz(tmp_path / "a.npz", "data")


def test_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(DataError, match="a bare array, where an NPZ archive with key 'data' is expected"):
        load_npz(tmp_path / "a.npz", "data")
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, data=np.arange(3))
    with pytest.raises(DataError, match="an archive, where a bare array is expected"):
        load_npy(tmp_path / "a.npy")


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"a\.npz: no such file"):
        load_npz(tmp_path / "a.npz", "data")
    with pytest.raises(MissingFilesError, match=r"a\.npy: no such file"):
        load_npy(tmp_path / "a.npy")


def test_form_is_checked() -> None:
    check_array(np.zeros((2, 5), np.uint16), "a", shape=(2, None), kind="integer")
    with pytest.raises(ShapeError, match=r"a: 2 x 5 of type float32; it must be 2 x any, whole numbers"):
        check_array(np.zeros((2, 5), np.float32), "a", shape=(2, None), kind="integer")
    with pytest.raises(ShapeError, match=r"a: 2 x 5 of type bool; it must be 4 x 4 x 4, true and false"):
        check_array(np.zeros((2, 5), bool), "a", shape=(4, 4, 4), kind="mask")
