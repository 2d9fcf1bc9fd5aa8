"""Files of a job folder, written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skillbank.errors import NotFoundError, StorageError

__all__ = ["read_json", "require_folder", "write_json", "write_text"]


def write_text(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Put a file in place under its final name only once its content is on the disk.

    Raises:
        StorageError: the folder is missing or not writable, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"{path}: the file cannot be written ({error.strerror})",
            hint=f"df -h {path.parent}",
            key=str(path),
        ) from error


def write_json(path: Path, value: Mapping[str, Any], *, mode: int = 0o600) -> None:
    """`write_text` of an indented JSON object; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode=mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def require_folder(folder: Path, job_id: str) -> None:
    """Refuse to go on when someone removed the folder of a job.

    Raises:
        NotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise NotFoundError(
            f"job {job_id}: its folder {folder} is gone",
            hint="create the job again; the record of this one is kept",
            key="job_id",
            value=job_id,
        )
