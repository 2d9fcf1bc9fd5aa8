"""Keeps secrets out of all that a worker prints: log records, tracebacks, what libraries print themselves."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from skillbank.jobs.redact import scrub, secret_values

__all__ = ["Redactor"]


class Redactor(logging.Filter):
    """Blanks out known secrets.

    Args:
        environ: variables whose names say that they hold a secret give their values.
        key: the encryption key of the job.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, *, key: str | None = None) -> None:
        super().__init__()
        hidden = {*secret_values(os.environ if environ is None else environ), *([key] if key else [])}
        self._hidden = sorted(hidden, key=len, reverse=True)

    def clean(self, value: Any) -> Any:
        """The text, or the JSON-like value, without secrets."""
        return scrub(value, self._hidden)

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; none is dropped."""
        record.msg, record.args = self.clean(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.clean(record.exc_text)
        return True

    @contextmanager
    def guarding_output(self) -> Iterator[None]:
        """Clean what is printed to stdout and stderr during the body."""
        before = sys.stdout, sys.stderr
        sys.stdout = _Cleaned(before[0], self)
        sys.stderr = _Cleaned(before[1], self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Cleaned:
    """A text stream that passes everything on without secrets."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream = stream
        self._redactor = redactor

    def write(self, text: str) -> int:
        self._stream.write(self._redactor.clean(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
