"""Libraries that talk while they work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

__all__ = ["quiet_loggers"]


@contextlib.contextmanager
def quiet_loggers(names: Sequence[str], *, level: int = logging.ERROR) -> Iterator[None]:
    """Let loggers say only what is at least of a level; an empty name is the root logger."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)
