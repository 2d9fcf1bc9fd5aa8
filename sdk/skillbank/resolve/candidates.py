"""Files of a finished job that another job may take: those it registered, else those found in its results."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from skillbank.errors import NotFoundError
from skillbank.jobs.record import Job, timestamp
from skillbank.storage.uri import is_remote

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["NAME_PATTERNS", "Candidate", "FileName", "candidates", "parse_name"]

log = logging.getLogger(__name__)

# Shown when nothing was found; `parse_name` is what decides.
NAME_PATTERNS = (
    "model_epoch_000",
    "model_epoch_000_step_00100",
    "model_epoch=049",
    "epoch=3-step=40",
    "model_best_*",
    "*_latest",
)
_SKIPPED_FOLDERS = frozenset({"inputs", "ptm"})
_PARTIAL = (".part", ".tmp", ".partial", ".incomplete", ".download")
# Kinds of artifacts that are weights or graphs; reports, metrics and pretrained files never compete.
_KINDS = frozenset({"checkpoint", "onnx", "engine"})

_EPOCH = re.compile(r"(?:^|[_\-.])(?:epoch|ep)[_=\-]?(\d+)", re.IGNORECASE)
_BEST_EPOCH = re.compile(r"best[_=\-](\d+)$", re.IGNORECASE)
_STEP = re.compile(r"(?:^|[_\-.])(?:step|iter|iteration)[_=\-]?(\d+)", re.IGNORECASE)
_BEST = re.compile(r"^(?:model|checkpoint|ckpt)?[_\-]?best(?:[_\-.=](?:model[_\-.=]?)?.*)?$", re.IGNORECASE)
_LATEST = re.compile(r"(?:^|[_\-])(?:latest|last)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileName:
    """What the name of a trained checkpoint says; numbers it does not say are None.

    Attributes:
        best: the name claims the best metric; latest: it stands for the newest, without a number.
    """

    epoch: int | None = None
    step: int | None = None
    best: bool = False
    latest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file to choose from; `created_at` is RFC 3339 in UTC, or empty."""

    path: str
    name: FileName
    epoch: int | None = None
    step: int | None = None
    created_at: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A file of a results folder: `target` is its identity, so that a link and its file count once."""

    path: str
    target: str
    parts: tuple[str, ...]
    modified: str
    is_link: bool = False


def parse_name(name: str) -> FileName | None:
    """Read the name of a checkpoint file; None when it is not one that training writes.

    Known forms: ``model_epoch_000.pth``, ``model_epoch_000_step_00100.pth``, ``model_epoch=049.pth``,
    ``epoch=3-step=40.ckpt``, ``model_best_*``, ``*_latest.pth``, ``last.ckpt``. A number alone, as in
    ``swin_base_patch4_window12_384.pth``, says nothing.
    """
    stem = name.rsplit(".", 1)[0] if "." in name else name
    step = _STEP.search(stem)
    epoch = _EPOCH.search(stem) or _BEST_EPOCH.search(stem)
    best, latest = bool(_BEST.match(stem)), bool(_LATEST.search(stem))
    if not (epoch or step or best or latest):
        return None
    return FileName(
        epoch=int(epoch.group(1)) if epoch else None,
        step=int(step.group(1)) if step else None,
        best=best,
        latest=latest and not epoch,
    )


def candidates(
    store: JobStore, job: Job, accepts: Sequence[str], *, any_name: bool
) -> tuple[list[Candidate], str]:
    """Everything of a job with one of the wanted endings, and where it was looked for.

    Args:
        accepts: file endings such as ``.pth``.
        any_name: also take files whose name does not follow the forms of training checkpoints.

    Returns:
        Candidates in no particular order, and "its registered artifacts" or the folder that was listed.
    """
    registered = [
        Candidate(
            path=artifact.path,
            name=parse_name(artifact.path.rsplit("/", 1)[-1]) or FileName(),
            epoch=artifact.epoch,
            step=artifact.step,
            created_at=artifact.created_at,
            metrics=dict(artifact.metrics),
        )
        for artifact in store.artifacts(job.id)
        if artifact.kind in _KINDS and _fits(artifact.path, accepts) and _still_there(artifact.path)
    ]
    if registered:
        return registered, "its registered artifacts"
    return list(_scanned(job.results_dir, accepts, any_name=any_name)), job.results_dir


def _scanned(results: str, accepts: Sequence[str], *, any_name: bool) -> Iterator[Candidate]:
    found = [item for item in _files(results) if _fits(item.path, accepts) and _is_result(item.parts)]
    # The file itself speaks before a link to it.
    found.sort(key=lambda item: (item.is_link, item.path))
    seen: set[str] = set()
    for item in found:
        if item.target in seen:
            continue
        seen.add(item.target)
        name = parse_name(item.target.rsplit("/", 1)[-1]) or parse_name(item.parts[-1])
        if name is None and not any_name:
            log.debug("%s is not named like a trained checkpoint and is left out", item.path)
            continue
        name = name or FileName()
        yield Candidate(
            path=item.target, name=name, epoch=name.epoch, step=name.step, created_at=item.modified
        )


def _files(results: str) -> Iterator[_Found]:
    """Non-empty files below a results folder or URI."""
    from skillbank.storage import Storage

    if is_remote(results):
        try:
            entries = Storage().list(results)
        except NotFoundError:
            return
        for entry in entries:
            inside = entry.uri.removeprefix(results.rstrip("/") + "/")
            if entry.size:
                yield _Found(
                    path=entry.uri,
                    target=entry.uri,
                    parts=tuple(inside.split("/")),
                    modified=str(entry.modified or ""),
                )
        return
    root = Path(results.removeprefix("file://"))
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                target, state = path.resolve(strict=True), path.stat()
            except OSError:  # a dangling link, or removed while we look
                continue
            if path.is_file() and state.st_size:
                modified = timestamp(datetime.fromtimestamp(state.st_mtime, UTC))
                yield _Found(
                    path=str(path), target=str(target), parts=path.relative_to(root).parts, modified=modified,
                    is_link=path.is_symlink(),
                )  # fmt: skip


def _fits(path: str, accepts: Sequence[str]) -> bool:
    return path.lower().endswith(tuple(ending.lower() for ending in accepts))


def _is_result(parts: tuple[str, ...]) -> bool:
    """Neither an input nor half-written."""
    name = parts[-1]
    return (
        not (_SKIPPED_FOLDERS & set(parts[:-1])) and not name.startswith(".") and not name.endswith(_PARTIAL)
    )


def _still_there(path: str) -> bool:
    """Whether a registered file can still be used; remote ones are taken at their word."""
    if "://" in path and not path.startswith("file://"):
        return True
    local = Path(path.removeprefix("file://"))
    return local.is_file() and local.stat().st_size > 0
