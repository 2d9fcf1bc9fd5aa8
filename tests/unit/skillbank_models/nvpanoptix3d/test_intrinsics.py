"""Camera matrices from files."""

import json
from pathlib import Path

import numpy as np
import pytest

from skillbank.errors import DataError, MissingFilesError, ShapeError
from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.intrinsics import read_matrix

WANTED = Camera(270.0, 260.0, 160.0, 120.0, 320, 240)
THREE = WANTED.matrix()
FOUR = np.eye(4)
FOUR[:3, :3] = THREE


@pytest.mark.parametrize("matrix", [THREE, FOUR, THREE.ravel(), FOUR.ravel(), FOUR.astype(np.float32)])
def test_any_form_of_the_matrix_is_read(matrix: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", matrix)
    (tmp_path / "k.json").write_text(json.dumps(matrix.tolist()))
    np.savetxt(tmp_path / "k.txt", np.atleast_2d(matrix))
    for ending in ("npy", "json", "txt"):
        assert read_matrix(tmp_path / f"k.{ending}", 320, 240) == WANTED


def test_text_may_have_commas(tmp_path: Path) -> None:
    (tmp_path / "k.txt").write_text("270,0,160\n0,260,120\n0,0,1\n")
    assert read_matrix(tmp_path / "k.txt", 320, 240) == WANTED


@pytest.mark.parametrize(
    ("content", "message", "kind"),
    [
        ("1 2 3 4", "it must be 3 x 3 or 4 x 4", ShapeError),
        ("270 5 160 0 260 120 0 0 1", "it has the skew 5", DataError),
        ("-270 0 160 0 260 120 0 0 1", "fx is -270", DataError),
        ("nan 0 160 0 260 120 0 0 1", "not all numbers are finite", DataError),
        (
            "270 0 900 0 260 120 0 0 1",
            r"the principal point \(900, 120\) is outside the image of 320 x 240",
            DataError,
        ),
        ("fx fy", "it cannot be read as numbers", DataError),
    ],
)
def test_what_is_no_camera_is_refused(
    content: str, message: str, kind: type[DataError], tmp_path: Path
) -> None:
    (tmp_path / "k.txt").write_text(content)
    with pytest.raises(kind, match=rf"k\.txt: .*{message}"):
        read_matrix(tmp_path / "k.txt", 320, 240)


def test_missing_and_damaged_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"k\.npy: no such camera matrix"):
        read_matrix(tmp_path / "k.npy", 320, 240)
    (tmp_path / "k.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"k\.npy: this file cannot be read"):
        read_matrix(tmp_path / "k.npy", 320, 240)
    (tmp_path / "k.json").write_text("{")
    with pytest.raises(DataError, match=r"k\.json: it cannot be read as numbers"):
        read_matrix(tmp_path / "k.json", 320, 240)
