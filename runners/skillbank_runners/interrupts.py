"""Being asked to stop: SIGTERM and SIGINT become an error at a place where work can be put away."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from skillbank.errors import InterruptedJobError

__all__ = ["Interrupts"]

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Turns a signal into `InterruptedJobError`, at once or, inside `deferred`, when `check` is called.

    A second signal is never deferred.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals during the body; without effect outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the body ask with `check` where it can stop."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Finish the body whatever comes; for writing down how the job ended."""
        self._deferred += 2
        try:
            yield
        finally:
            self._deferred -= 2

    def check(self) -> None:
        """Stop here if a signal came.

        Raises:
            InterruptedJobError: one did.
        """
        if self.received is not None:
            raise self.error()

    def error(self) -> InterruptedJobError:
        """The error that stands for the signal that came."""
        name = self.received.name if self.received is not None else "request"
        return InterruptedJobError(
            f"the job was stopped by {name}",
            hint="with the same results_dir, the same command goes on from the newest checkpoint",
        )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = signal.Signals(number)
        log.warning("%s received", self.received.name)
        if self._deferred == 0 or (self._deferred == 1 and not first):
            raise self.error()
