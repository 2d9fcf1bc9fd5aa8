"""Images of a folder, for inference and calibration."""

from __future__ import annotations

import os
from pathlib import Path

from skillbank.errors import DataError, MissingFilesError
from skillbank_models.data.images import image_endings

__all__ = ["find_images"]


def find_images(folder: Path, *, key: str) -> list[str]:
    """Images of a folder and the folders in it, relative to it, sorted; hidden ones are skipped.

    Args:
        key: the setting that names the folder, for messages.

    Raises:
        MissingFilesError: no such folder, or no image in it.
        DataError: a file, not a folder.
    """
    if folder.is_file():
        raise DataError(
            f"{key}: {folder} is a file; the folder of the images is expected",
            hint=f"{key}={folder.parent}",
            key=key,
            value=str(folder),
        )
    if not folder.is_dir():
        raise MissingFilesError(
            f"{key}: {folder} is no folder", hint=f"ls {folder.parent}", key=key, value=str(folder)
        )
    endings = image_endings()
    found: list[str] = []
    others: set[str] = set()
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        state = Path(parent).stat()
        if (state.st_dev, state.st_ino) in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add((state.st_dev, state.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            ending = Path(name).suffix.lower()
            if ending in endings and not name.startswith("."):
                found.append((Path(parent) / name).relative_to(folder).as_posix())
            else:
                others.add(ending or name)
    if not found:
        seen = f"; there are files of kind {', '.join(sorted(others)[:5])}" if others else "; it is empty"
        raise MissingFilesError(
            f"{key}: no image in {folder}{seen}",
            hint="images end in " + ", ".join(e for e in (".jpg", ".png", ".webp", ".tif") if e in endings),
            key=key,
            value=str(folder),
        )
    return sorted(found)
