import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.jobs.processes import is_locked
from skillbank.launch import supervisor
from skillbank.launch.supervisor import NOT_STARTED, record_exit


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def start(folder: Path, *command: str, open_gate: bool = True) -> dict[str, int]:
    """Start a supervisor as the launcher does; the process numbers that it reports."""
    report, report_end = os.pipe()
    gate_end, gate = os.pipe()
    script = [sys.executable, "-I", "-S", supervisor.__file__, str(report_end), str(gate_end), str(folder)]
    subprocess.run([*script, *command], pass_fds=(report_end, gate_end), check=True, cwd=folder)
    os.close(report_end)
    os.close(gate_end)
    found: dict[str, int] = json.loads(os.read(report, 4096))
    if open_gate:
        os.write(gate, b"\n")
    os.close(gate)
    os.close(report)
    return found


def ended(folder: Path) -> int:
    until((folder / "exit.json").exists)
    record = json.loads((folder / "exit.json").read_text())
    assert record["ended_at"].endswith("Z")
    return int(record["code"])


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -11 $$", 139)]
)
def test_the_exit_record_says_how_the_worker_ended(tmp_path: Path, script: str, code: int) -> None:
    start(tmp_path, "/bin/sh", "-c", script)
    assert ended(tmp_path) == code


def test_a_closed_gate_means_that_nothing_is_run(tmp_path: Path) -> None:
    start(tmp_path, "/bin/sh", "-c", "touch ran", open_gate=False)
    assert ended(tmp_path) == NOT_STARTED
    assert not (tmp_path / "ran").exists()


def test_a_signal_to_the_supervisor_goes_on_to_the_worker(tmp_path: Path) -> None:
    found = start(tmp_path, "/bin/sh", "-c", "touch ready; exec sleep 60")
    until((tmp_path / "ready").exists)
    os.kill(found["supervisor"], signal.SIGTERM)
    assert ended(tmp_path) == 143


def test_the_lock_is_held_as_long_as_one_of_the_two_lives(tmp_path: Path) -> None:
    found = start(tmp_path, "/bin/sh", "-c", "while [ ! -e stop ]; do sleep 0.02; done")
    lock = tmp_path / ".lock"
    assert is_locked(lock) is True
    os.kill(found["supervisor"], signal.SIGKILL)
    time.sleep(0.05)
    assert is_locked(lock) is True
    (tmp_path / "stop").touch()
    until(lambda: is_locked(lock) is False)


def test_signals_have_their_usual_meaning_in_the_worker(tmp_path: Path) -> None:
    start(tmp_path, "/bin/sh", "-c", "(yes; echo $? > code) | head -1 > /dev/null; exec true")
    ended(tmp_path)
    until(lambda: (tmp_path / "code").exists() and (tmp_path / "code").read_text() != "")
    assert (tmp_path / "code").read_text().strip() == str(128 + signal.SIGPIPE)


def test_a_record_is_kept_unless_the_worker_itself_replaces_it(tmp_path: Path) -> None:
    record_exit(tmp_path, 0)
    record_exit(tmp_path, 139)
    assert ended(tmp_path) == 0
    record_exit(tmp_path, 6, replace=True)
    assert ended(tmp_path) == 6


def test_a_record_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervisor.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        record_exit(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
