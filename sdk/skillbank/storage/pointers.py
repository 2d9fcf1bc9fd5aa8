"""Pointer files: how a link such as ``model_latest.pth`` travels through stores that know no links.

A pointer file stands under the name of the link and holds one line: the target, relative to its own folder.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

__all__ = ["link_target", "pointer_content", "read_pointer"]

_MARK = "skillbank-link: "
_LONGEST = 1024


def link_target(link: Path, root: Path) -> str | None:
    """Where a link leads, relative to its own folder; None unless it is a file below `root`."""
    target = link.resolve()
    if not target.is_file() or not target.is_relative_to(root.resolve()):
        return None
    return Path(os.path.relpath(target, link.parent.resolve())).as_posix()


def pointer_content(target: str) -> bytes:
    """Content of the pointer file for a link."""
    return f"{_MARK}{target}\n".encode()


def read_pointer(path: Path) -> str | None:
    """Target of a pointer file, relative to its folder; None for every other file."""
    try:
        if path.stat().st_size > _LONGEST:
            return None
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    if not text.startswith(_MARK):
        return None
    target = PurePosixPath(text.removeprefix(_MARK).strip())
    return None if target.is_absolute() or not target.parts else str(target)
