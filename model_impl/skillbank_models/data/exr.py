"""Depth in OpenEXR files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import DataError, MissingFilesError, RuntimeMissingError

__all__ = ["read_exr"]

_DEPTH = "Z"


def read_exr(path: Path) -> NDArray[np.float32]:
    """The channel ``Z`` of a file, or its only channel, (H0, W0).

    Raises:
        MissingFilesError: no such file.
        DataError: damaged, no EXR file, or several channels without one named ``Z``.
        RuntimeMissingError: the library for such files is not installed.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise RuntimeMissingError(
            f"{path}: reading EXR files needs the package OpenEXR, which is not installed",
            hint="pip install OpenEXR",
            key=str(path),
        ) from error
    if not path.is_file():
        raise MissingFilesError(f"{path}: no such EXR file", hint=f"ls {path.parent}", key=str(path))
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: np.asarray(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, TypeError, OSError) as error:  # the library has no errors of its own
        raise DataError(
            f"{path}: this EXR file cannot be read, it is damaged or of another kind ({error})",
            hint="copy the file again",
            key=str(path),
        ) from error
    wanted = _DEPTH if _DEPTH in channels else next(iter(channels)) if len(channels) == 1 else None
    if wanted is None or channels[wanted].ndim != 2:
        raise DataError(
            f"{path}: the channels are {', '.join(sorted(channels)) or 'none'}; depth is the channel "
            f"{_DEPTH}, or the only one",
            hint="write the depth, in metres, as a single channel named Z",
            key=str(path),
        )
    return channels[wanted].astype(np.float32)
