import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skillbank.errors import InvalidValueError, LaunchError, StorageError, UsageError
from skillbank.launch.slots import Slots

HOLD = """
import sys
from pathlib import Path
from skillbank.launch.slots import Slots
home, job, *devices = sys.argv[1:]
with Slots(Path(home), poll_s=0.01).acquire(job, devices, on_wait=lambda text: print(text, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Holder:
    """Another process that holds, or waits for, devices until told to stop."""

    def __init__(self, home: Path, job: str, *devices: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(home), job, *devices],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        self.process.communicate("\n", timeout=10)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(job: str, *devices: str) -> Holder:
        holders.append(Holder(tmp_path, job, *devices))
        return holders[-1]

    yield start
    for holder in holders:
        if holder.process.poll() is None:
            holder.kill()


def slots(home: Path, **environ: str) -> Slots:
    return Slots(home, environ=environ, poll_s=0.01)


def tickets(home: Path) -> list[Path]:
    return list((home / "slots").glob("*.ticket"))


def test_a_free_device_is_granted_at_once_and_given_back(tmp_path: Path) -> None:
    said: list[str] = []
    with slots(tmp_path).acquire("a", ("cuda:0",), on_wait=said.append) as got:
        assert got == ("cuda:0",)
        assert slots(tmp_path).holders() == {"cuda:0": ["a"]}
    assert said == []
    assert slots(tmp_path).holders() == {}
    assert tickets(tmp_path) == []


def test_no_device_needs_no_slot(tmp_path: Path) -> None:
    with slots(tmp_path).acquire("a", ()) as got:
        assert got == ()
    assert not (tmp_path / "slots").exists()


def test_another_device_is_not_waited_for(tmp_path: Path) -> None:
    with slots(tmp_path).acquire("a", ("cuda:0",)), slots(tmp_path).acquire("b", ("cuda:1",), timeout_s=0):
        assert slots(tmp_path).holders() == {"cuda:0": ["a"], "cuda:1": ["b"]}


def test_a_device_in_use_is_waited_for_with_a_word(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    first = hold("a", "cuda:0")
    assert first.line() == "held"
    second = hold("b", "cuda:0")
    assert second.line() == "waiting for cuda:0: held by a"
    first.stop()
    assert second.line() == "held"
    second.stop()
    assert tickets(tmp_path) == []


def test_a_timeout_says_who_holds_the_device(tmp_path: Path) -> None:
    ticks = iter(range(100))
    waiting = Slots(tmp_path, environ={}, sleep=lambda _: None, clock=lambda: next(ticks))
    with (
        slots(tmp_path).acquire("a", ("cuda:0",)),
        pytest.raises(
            LaunchError, match=r"job b: waiting for cuda:0: held by a; gave up after 3 s"
        ) as caught,
        waiting.acquire("b", ("cuda:0",), timeout_s=3),
    ):
        pass
    assert "gpu_ids" in caught.value.hint
    assert tickets(tmp_path) == []


def test_devices_of_a_killed_holder_are_free_at_once(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    first = hold("a", "cuda:0")
    assert first.line() == "held"
    first.kill()
    with slots(tmp_path).acquire("b", ("cuda:0",), timeout_s=0):
        assert slots(tmp_path).holders() == {"cuda:0": ["b"]}


def test_a_killed_waiter_does_not_block_the_queue(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    first = hold("a", "cuda:0")
    assert first.line() == "held"
    second = hold("b", "cuda:0")
    assert "held by a" in second.line()
    third = hold("c", "cuda:0")
    assert third.line() == "waiting for cuda:0: held by a; b before it in the queue"
    second.kill()
    assert third.line() == "waiting for cuda:0: held by a"
    first.stop()
    assert third.line() == "held"


def test_who_came_first_is_served_first(hold: Callable[..., Holder]) -> None:
    first = hold("a", "cuda:0")
    assert first.line() == "held"
    waiting = []
    for job in ("b", "c", "d"):
        waiting.append(hold(job, "cuda:0"))
        assert waiting[-1].line().startswith("waiting")
    first.stop()
    for index, holder in enumerate(waiting):
        while (line := holder.line()) != "held":
            assert line.startswith("waiting")
        assert all(later.process.poll() is None for later in waiting[index + 1 :])
        holder.stop()


def test_several_devices_are_granted_together(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    first = hold("a", "cuda:1")
    assert first.line() == "held"
    both = hold("b", "cuda:0", "cuda:1")
    assert both.line() == "waiting for cuda:0, cuda:1: held by a"
    assert slots(tmp_path).holders() == {"cuda:1": ["a"]}
    late = hold("c", "cuda:0")
    assert late.line() == "waiting for cuda:0: b before it in the queue"
    first.stop()
    assert both.line() == "held"
    assert slots(tmp_path).holders() == {"cuda:0": ["b"], "cuda:1": ["b"]}
    both.stop()
    while (line := late.line()) != "held":
        assert "b" in line


def test_opposite_orders_do_not_lock_each_other_out(tmp_path: Path) -> None:
    script = HOLD.replace('    print("held", flush=True)\n    sys.stdin.readline()', "    pass")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), f"job{index}", *devices], stdout=subprocess.DEVNULL
        )
        for index, devices in enumerate([("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")] * 3)
    ]
    assert [run.wait(timeout=20) for run in runs] == [0] * 6
    assert tickets(tmp_path) == []


def test_the_cpu_has_as_many_slots_as_set(tmp_path: Path) -> None:
    two = slots(tmp_path, SKILLBANK_CPU_SLOTS="2")
    with two.acquire("a", ("cpu",)), two.acquire("b", ("cpu",), timeout_s=0):
        with pytest.raises(LaunchError, match="held by a, b"), two.acquire("c", ("cpu",), timeout_s=0):
            pass
        with pytest.raises(LaunchError), slots(tmp_path).acquire("d", ("cpu",), timeout_s=0):
            pass


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_a_wrong_number_of_slots_is_refused(tmp_path: Path, value: str) -> None:
    with (
        pytest.raises(UsageError, match=f"SKILLBANK_CPU_SLOTS: '{value}' is not allowed") as caught,
        slots(tmp_path, SKILLBANK_CPU_SLOTS=value).acquire("a", ("cpu",)),
    ):
        pass
    assert caught.value.hint == "export SKILLBANK_CPU_SLOTS=1"


def test_the_device_behind_the_visible_number_counts(tmp_path: Path) -> None:
    seen = slots(tmp_path, CUDA_VISIBLE_DEVICES="3,1")
    with seen.acquire("a", ("cuda:0",)) as got:
        assert got == ("cuda:3",)
        with slots(tmp_path).acquire("b", ("cuda:0",), timeout_s=0):
            pass
        with (
            pytest.raises(LaunchError, match="held by a"),
            slots(tmp_path).acquire("c", ("cuda:3",), timeout_s=0),
        ):
            pass


def test_an_error_inside_gives_the_device_back(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), slots(tmp_path).acquire("a", ("cuda:0",)):
        raise RuntimeError
    assert slots(tmp_path).holders() == {}


def test_a_forked_child_does_not_keep_the_device(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom skillbank.launch.slots import Slots\n"
        "with Slots(Path(sys.argv[1])).acquire('a', ('cuda:0',)):\n"
        "    child = os.fork()\n    if child == 0:\n        time.sleep(30)\n"
        "print(child, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.wait()
    try:
        with slots(tmp_path).acquire("b", ("cuda:0",), timeout_s=0):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:x", "cuda:-1", ""])
def test_another_name_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(InvalidValueError, match="use cpu or cuda:N"), slots(tmp_path).acquire("a", (device,)):
        pass


def test_a_home_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="they cannot be kept there") as caught,
        slots(tmp_path / "file").acquire("a", ("cpu",)),
    ):
        pass
    assert "SKILLBANK_HOME" in caught.value.hint
