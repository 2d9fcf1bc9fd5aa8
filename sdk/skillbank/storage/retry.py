"""Trying again: how often, after which pause, and what counts as worth it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from skillbank.errors import StorageError

__all__ = ["Interrupted", "Retry"]

log = logging.getLogger(__name__)
T = TypeVar("T")


class Interrupted(Exception):  # noqa: N818 - a state on the way, never seen by users
    """A transfer broke in a way that another try may mend.

    Args:
        error: what the user is told when no try is left.
        after_s: pause the server asks for.
        attempts: tries in a row that this is worth, where that is less than usual.
    """

    def __init__(self, error: StorageError, *, after_s: float = 0.0, attempts: int | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after_s = after_s
        self.attempts = attempts


@dataclass(frozen=True, slots=True)
class Retry:
    """How to try again.

    Attributes:
        attempts: tries in a row without any progress, the first included.
        base_s: mean pause before the second try is half of this; it doubles with every further one.
        cap_s: longest pause.
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 20.0

    def pause(self, failed: int, broken: Interrupted, stop: threading.Event | None = None) -> None:
        """Wait after the failed try number `failed`; raises the error when it was the last one.

        Args:
            failed: tries without progress so far.
            broken: what happened.
            stop: ends the waiting early.
        """
        attempts = min(self.attempts, broken.attempts or self.attempts)
        if failed >= attempts:
            raise broken.error
        # Random pauses keep many workers from coming back at the same moment.
        wait_s = random.uniform(0, min(self.cap_s, self.base_s * 2 ** (failed - 1)))  # noqa: S311
        wait_s = max(wait_s, min(broken.after_s, self.cap_s))
        log.warning("%s; try %d of %d in %.1f s", broken, failed + 1, attempts, wait_s)
        (stop or threading.Event()).wait(wait_s)

    def call(self, operation: Callable[[], T]) -> T:
        """The operation's result, tried again after `Interrupted`."""
        failed = 0
        while True:
            try:
                return operation()
            except Interrupted as broken:
                failed += 1
                self.pause(failed, broken)
