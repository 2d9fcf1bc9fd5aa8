"""Signals become errors where work can be put away."""

import os
import signal
import threading
import time

import pytest

from skillbank.errors import InterruptedJobError
from skillbank_runners.interrupts import Interrupts


def send(number: signal.Signals = signal.SIGTERM) -> None:
    """A signal to this process, handled before this returns."""
    os.kill(os.getpid(), number)
    time.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_work_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    interrupts = Interrupts()
    with (
        interrupts.installed(),
        pytest.raises(InterruptedJobError, match=f"stopped by {number.name}") as found,
    ):
        send(number)
    assert "goes on from the newest checkpoint" in found.value.hint
    assert found.value.exit_code == 6
    assert signal.getsignal(number) == before


def test_inside_deferred_the_work_asks_when_it_can_stop() -> None:
    interrupts = Interrupts()
    with interrupts.installed(), interrupts.deferred():
        interrupts.check()
        send()
        assert interrupts.received is signal.SIGTERM
        with pytest.raises(InterruptedJobError):
            interrupts.check()


def test_a_second_signal_is_not_deferred() -> None:
    interrupts = Interrupts()
    with interrupts.installed(), interrupts.deferred():
        send()
        with pytest.raises(InterruptedJobError):
            send()


def test_while_the_outcome_is_written_nothing_comes_between() -> None:
    interrupts = Interrupts()
    with interrupts.installed(), interrupts.ignored():
        send()
        send()
        send(signal.SIGINT)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    seen = []

    def work() -> None:
        with Interrupts().installed():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
