"""Why an action failed, in words that help: memory, a missing package, a killed loader, or a bug of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skillbank.errors import OutOfMemoryError, RuntimeMissingError, SkillBankError, StorageError
from skillbank.storage.disk import free_bytes, human

__all__ = ["UnexpectedError", "explain", "memory_hint", "refusal", "tells_all", "writer_refusal"]

_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
    "unable to allocate",
    "defaultcpuallocator",
)
_LOADER_TEXTS = ("dataloader worker", "killed by signal")
_FROM_LOADER = "Caught "
_SHARED_TEXTS = ("bus error", "shared memory", "no space left on device: '/dev/shm")
_FIRST = 400

# What a file system refuses and a user can mend: the way out, `{place}` being the folder in question.
_PLACES = {
    errno.ENOSPC: "free some space: df -h {place}",
    errno.EDQUOT: "free some of your quota, or use another disk",
    errno.EROFS: "use a place you may write to",
    errno.EACCES: "check the rights: ls -ld {place}",
    errno.EPERM: "check the rights: ls -ld {place}",
    errno.ENOENT: "see what is there: ls {place}",
    errno.ENOTDIR: "a file stands where a folder belongs: ls -ld {place}",
    errno.EEXIST: "a file stands where a folder belongs: ls -ld {place}",
    errno.EISDIR: "a folder stands where a file belongs: ls -ld {place}",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.EIO: "the disk or network file system fails: use another one",
}


class UnexpectedError(SkillBankError):
    """An error that nobody foresaw; the traceback is in the log."""

    code = "internal"
    exit_code = 1


def explain(
    error: BaseException, spec: Mapping[str, Any], action: str, memory_keys: Sequence[str] = ()
) -> SkillBankError:
    """The error as one that a record can hold.

    Args:
        error: what ended the action.
        spec: nested, for naming settings with their value.
        memory_keys: see `Implementation.memory_keys`.
    """
    if isinstance(error, SkillBankError):
        return _without_trace(error)
    text = _first_line(error)
    lower = str(error).lower()
    if all(part in lower for part in _LOADER_TEXTS):
        shared = any(part in lower for part in _SHARED_TEXTS)
        what = (
            "shared memory (/dev/shm) ran out"
            if shared
            else "a loader process was killed, so host memory ran out"
        )
        return OutOfMemoryError(f"{action}: {what}: {text}", hint=_worker_hint(spec, action))
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or _is_about_memory(lower)
    ):
        on_gpu = "cuda" in lower or type(error).__name__ == "OutOfMemoryError"
        where = "GPU" if on_gpu else "host"
        return OutOfMemoryError(
            f"{action}: {where} memory ran out ({text or type(error).__name__})",
            hint=memory_hint(spec, action, memory_keys),
        )
    if isinstance(error, ImportError):
        name = error.name or text
        return RuntimeMissingError(
            f"{action}: {name} cannot be imported ({text})",
            hint="pip install -c constraints.txt 'skillbank[runtime]'",
            key=name,
        )
    if reason := writer_refusal(error, folder := Path(str(spec.get("results_dir") or "."))):
        return StorageError(f"{action}: {reason}", hint=f"df -h {folder}", key=str(folder))
    refused = refusal(error, action) if isinstance(error, OSError) else None
    return refused or UnexpectedError(
        f"{action}: {type(error).__name__}: {text}",
        hint="the log has the traceback; please report it with the spec",
    )


def tells_all(found: SkillBankError) -> bool:
    """Whether the message of an explained error says all there is, so that a traceback only hides it."""
    return isinstance(found, OutOfMemoryError | StorageError)


def refusal(error: OSError, what: str) -> StorageError | None:
    """What the file system refused, with the path where it names one; None for other errors of the system.

    Args:
        what: what was being done, such as the action.
    """
    if error.errno not in _PLACES:
        return None
    path = error.filename2 or error.filename
    named = isinstance(path, str | bytes | os.PathLike)
    where = f"{os.fsdecode(path)}: " if named else ""
    place = Path(os.fsdecode(path)).parent if named else Path()
    return StorageError(
        f"{what}: {where}{(error.strerror or str(error)).lower()}",
        hint=_PLACES[error.errno].format(place=place),
        key=os.fsdecode(path) if named else None,
    )


def writer_refusal(error: BaseException, folder: Path) -> str | None:
    """What it means when torch's writer of files fails; None for every other error.

    The writer hides what the system said: on a full disk it only finds itself at an unexpected place.
    """
    text = str(error).lower()
    if not isinstance(error, RuntimeError) or "inline_container" not in text or "reader" in text:
        return None
    free = free_bytes(folder)
    return f"disk full or not writable: {folder} has {free} bytes ({human(free)}) free"


def memory_hint(spec: Mapping[str, Any], action: str, more: Sequence[str] = ()) -> str:
    """The settings that lower the need for memory, as options with values to try."""
    options = []
    for key, value in _leaves(spec):
        block = key.split(".")[0]
        if block in ("dataset", "data", action) and key.endswith("batch_size") and _is_above_one(value):
            options.append(f"{key}={max(1, value // 2)}")
        if key == f"{action}.activation_checkpoint" and value is False:
            options.append(f"{key}=true")
    for entry in more:
        key, _, wanted = entry.partition("=")
        now: Any = dict(_leaves(spec)).get(key)
        if wanted:
            options += [f"{key}={wanted}"] if str(now).lower() != wanted.lower() else []
        elif _is_above_one(now):
            options.append(f"{key}={now // 2}")
    if not options:
        return "use a smaller model, smaller images or a larger device"
    return "lower " + ", or ".join(dict.fromkeys(options))


def _worker_hint(spec: Mapping[str, Any], action: str) -> str:
    options = [
        f"{key}={value // 2}"
        for key, value in _leaves(spec)
        if key.split(".")[-1] in ("num_workers", "workers") and isinstance(value, int) and value > 0
    ]
    return "use fewer loader processes: " + ", ".join(options) if options else memory_hint(spec, action)


def _without_trace(error: SkillBankError) -> SkillBankError:
    """The error as a loader process raised it; torch makes a new one of it, with the traceback as message."""
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    if not error.message.startswith(_FROM_LOADER) or name not in error.message:
        return error
    message, _, hint = error.message.rpartition(name)[2].strip().partition("\nhint: ")
    return type(error)(message, hint=hint)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_above_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _is_about_memory(lower: str) -> bool:
    return any(text in lower for text in _MEMORY_TEXTS)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_FIRST] if lines else ""
