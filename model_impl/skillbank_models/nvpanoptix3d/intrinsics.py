"""Camera matrices from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import DataError, MissingFilesError
from skillbank_models.data.arrays import load_npy
from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.views import camera_from_matrix

__all__ = ["MATRIX_ENDINGS", "read_matrix"]

MATRIX_ENDINGS = (".npy", ".txt", ".json")

_HINT = "write [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the image as stored"


def read_matrix(path: Path, width: int, height: int) -> Camera:
    """A pinhole camera from a matrix (3, 3) or (4, 4), flat or not, in a .npy, .txt or .json file.

    Args:
        width: of the image that the matrix is for.

    Raises:
        MissingFilesError: no such file.
        DataError: damaged, or no camera matrix of an image of that size.
    """
    values = _values(path)
    try:
        camera = camera_from_matrix(values, width, height)
    except DataError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, key=str(path)) from error
    if not (0 <= camera.cx <= width and 0 <= camera.cy <= height):
        raise _refused(
            path,
            f"the principal point ({camera.cx:g}, {camera.cy:g}) is outside the image of {width} x {height} "
            "pixels (width x height)",
        )
    return camera


def _values(path: Path) -> NDArray[np.float64]:
    if not path.is_file():
        raise MissingFilesError(f"{path}: no such camera matrix", hint=f"ls {path.parent}", key=str(path))
    found: Any
    try:
        if path.suffix == ".npy":
            found = load_npy(path)
        elif path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            found = [float(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()]
        return np.asarray(found, np.float64)
    except DataError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise _refused(path, f"it cannot be read as numbers ({error})") from error


def _refused(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}", hint=_HINT, key=str(path))
