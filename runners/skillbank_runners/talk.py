"""What a worker prints: log lines on stderr, without secrets, warnings among them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from skillbank_runners.redaction import Redactor

__all__ = ["talking"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def talking(redactor: Redactor) -> Iterator[None]:
    """Log to stderr during the body, everything cleaned of secrets."""
    root = logging.getLogger()
    before = root.level
    with redactor.guarding_output():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
        handler.addFilter(redactor)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            root.removeHandler(handler)
            root.setLevel(before)
