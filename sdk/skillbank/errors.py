"""Every error that a user can meet, by stage; the exit code of the command line is part of the class.

    SkillBankError
      UsageError 2            wrong command, flag or combination
      SpecError 3             UnknownKeyError, InvalidValueError, MissingValueError, ConflictError
      DataError 3             MissingFilesError, AnnotationError, ShapeError
      StaleFilesError 3
      NotFoundError 4         network, action, job, checkpoint
      BackendError 5          RuntimeMissingError, NotInThisVersionError, LaunchError, StorageError
      JobError 6              JobFailedError, OutOfMemoryError, InterruptedJobError, InvalidTransitionError

Exit code 1 is left to our own bugs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

__all__ = [
    "AnnotationError",
    "BackendError",
    "ConflictError",
    "DataError",
    "InterruptedJobError",
    "InvalidTransitionError",
    "InvalidValueError",
    "JobError",
    "JobFailedError",
    "LaunchError",
    "MissingFilesError",
    "MissingValueError",
    "NotFoundError",
    "NotInThisVersionError",
    "OutOfMemoryError",
    "RuntimeMissingError",
    "ShapeError",
    "SkillBankError",
    "SpecError",
    "StaleFilesError",
    "StorageError",
    "UnknownKeyError",
    "UsageError",
    "collect",
]

_ABSENT: Any = object()


class SkillBankError(Exception):
    """Base of all errors that name a cause the user can act on.

    Args:
        message: where and what is wrong, with the value; what is allowed.
        hint: one line that can be executed or followed.
        key: dotted spec key, flag or file the error is about.
        value: the offending value; leave it out when there is none. Never pass a secret.
        allowed: what would have been accepted.
        problems: the single errors that this one sums up.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        key: str | None = None,
        value: Any = _ABSENT,
        allowed: Sequence[Any] | None = None,
        problems: Iterable[SkillBankError] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # for tracebacks; str() is the message alone
        self.key = key
        self.has_value = value is not _ABSENT
        self.value = value if self.has_value else None
        self.allowed = list(allowed) if allowed is not None else None
        self.problems = tuple(problems)

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready fields: code, message, hint and, where they apply, key, value, allowed."""
        out: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.hint:
            out["hint"] = self.hint
        if self.key is not None:
            out["key"] = self.key
        if self.has_value:
            simple = isinstance(self.value, str | int | float | bool | list | dict | None)
            out["value"] = self.value if simple else str(self.value)
        if self.allowed is not None:
            out["allowed"] = self.allowed
        if self.problems:
            out["problems"] = [problem.to_dict() for problem in self.problems]
        return out


class UsageError(SkillBankError):
    """Wrong command, flag or combination of flags."""

    code = "usage"
    exit_code = 2


class SpecError(SkillBankError, ValueError):
    """A spec that cannot be run as written."""

    code = "spec.invalid"
    exit_code = 3


class UnknownKeyError(SpecError):
    """A key that the spec of this network and action does not have."""

    code = "spec.unknown-key"


class InvalidValueError(SpecError):
    """A value of the wrong type, outside its bounds or not among the options."""

    code = "spec.invalid-value"


class MissingValueError(SpecError):
    """A mandatory value that neither file, override, parent job nor dataset supplies."""

    code = "spec.missing-value"


class ConflictError(SpecError):
    """Two settings that contradict each other."""

    code = "spec.conflict"


class DataError(SkillBankError, ValueError):
    """Input data that cannot be used."""

    code = "data.invalid"
    exit_code = 3


class MissingFilesError(DataError):
    """Data files that a rule names and that are not there; lists all of them."""

    code = "data.missing-files"


class AnnotationError(DataError):
    """Annotation content that breaks its format."""

    code = "data.annotation"


class ShapeError(DataError):
    """An array whose shape or dtype is not the documented one."""

    code = "data.shape"


class StaleFilesError(SkillBankError):
    """Generated files that differ from what the sources give."""

    code = "generate.stale"
    exit_code = 3


class NotFoundError(SkillBankError, LookupError):
    """A network, action, job, checkpoint or file that does not exist."""

    code = "not-found"
    exit_code = 4


class BackendError(SkillBankError, RuntimeError):
    """Something outside the spec refuses: a runtime, a launcher, a store."""

    code = "backend"
    exit_code = 5


class RuntimeMissingError(BackendError):
    """An optional part is not installed; the hint says how to get it."""

    code = "backend.runtime-missing"


class NotInThisVersionError(RuntimeMissingError):
    """The network is known, but this version cannot run it; there is nothing to install."""

    code = "backend.not-in-this-version"


class LaunchError(BackendError):
    """A job could not be handed to its launcher."""

    code = "backend.launch"


class StorageError(BackendError):
    """A file could not be read from or written to its store."""

    code = "backend.storage"


class JobError(SkillBankError, RuntimeError):
    """A job that did not end well."""

    code = "job"
    exit_code = 6


class JobFailedError(JobError):
    """A job, or the parent it waited for, ended with an error."""

    code = "job.failed"


class OutOfMemoryError(JobError):
    """Memory ran out; the hint names the settings to lower."""

    code = "job.out-of-memory"


class InterruptedJobError(JobError):
    """A job that was canceled or killed."""

    code = "job.interrupted"


class InvalidTransitionError(JobError):
    """A job was asked to go to a state that may not follow its present one."""

    code = "job.invalid-transition"


def collect(problems: Sequence[SkillBankError], what: str) -> SkillBankError:
    """One error out of many, so that all problems are reported at once.

    A single problem is returned as it is. Several of one class keep that class; a mixture takes the class of
    the stage (SpecError, DataError, ...) they share, else SpecError where one is among them, since a spec is
    mended first, else the stage of the first.

    Args:
        problems: at least one error.
        what: the thing that has the problems, such as ``spec mask2former train``.
    """
    if len(problems) == 1:
        return problems[0]
    shared = type(problems[0])
    for problem in problems[1:]:
        while not issubclass(type(problem), shared):
            shared = next(base for base in shared.__mro__[1:] if issubclass(base, SkillBankError))
    if shared is SkillBankError:
        stages = [_stage(problem) for problem in problems]
        shared = SpecError if SpecError in stages else stages[0]
    lines = [f"{what} has {len(problems)} problems:"]
    for problem in problems:
        lines.append(f"  - {problem.message}")
        if problem.hint:
            lines.append(f"    hint: {problem.hint}")
    return shared("\n".join(lines), problems=problems)


def _stage(problem: SkillBankError) -> type[SkillBankError]:
    lineage = type(problem).__mro__
    return next((cls for cls in lineage if SkillBankError in cls.__bases__), SkillBankError)
