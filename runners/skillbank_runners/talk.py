"""What a worker prints: log lines on stderr, without secrets, warnings among them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from skillbank_runners.redaction import Redactor

__all__ = ["talking"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_HARMLESS = (
    # Lightning asks torch in a way that newer versions of torch call deprecated; nothing can be done here
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Lightning on frozen parts, which evaluate on purpose
    r"Found \d+ module\(s\) in eval mode at the start of training",
)

_TALKATIVE = frozenset({"boto3", "botocore", "s3transfer", "urllib3"})


@contextmanager
def talking(redactor: Redactor, *, process: int = 0) -> Iterator[None]:
    """Log to stderr during the body, everything cleaned of secrets.

    Args:
        process: number among the processes of a job; all but the first say only what went wrong.
    """
    root = logging.getLogger()
    before = root.level
    with redactor.guarding_output(), warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"[process {process}] {_FORMAT}" if process else _FORMAT))
        handler.addFilter(_is_of_interest)
        handler.addFilter(redactor)
        root.addHandler(handler)
        root.setLevel(logging.WARNING if process else logging.INFO)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            root.removeHandler(handler)
            root.setLevel(before)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Everything but the small talk of libraries that move data."""
    return record.levelno >= logging.WARNING or record.name.split(".")[0] not in _TALKATIVE
