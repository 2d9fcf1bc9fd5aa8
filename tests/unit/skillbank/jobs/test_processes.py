import fcntl
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skillbank.jobs import processes
from skillbank.jobs.processes import ProcessId, identify, is_alive, is_locked, this_process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "30"])
    yield process
    process.kill()
    process.wait()


def test_this_process_lives_and_survives_json() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.started
    assert identify(me.pid) == me
    assert ProcessId.from_dict(me.to_dict()) == me
    assert is_alive(me) is True


@pytest.mark.parametrize("value", [None, {}, {"pid": "7"}, []])
def test_what_is_no_process_gives_none(value: object) -> None:
    assert ProcessId.from_dict(value) is None


def test_a_killed_process_is_dead_even_before_its_parent_noticed(sleeper: subprocess.Popen[bytes]) -> None:
    process = identify(sleeper.pid)
    assert process is not None
    assert is_alive(process) is True
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(process) is False
    sleeper.wait()
    assert is_alive(process) is False
    assert identify(sleeper.pid) is None


def test_a_reused_number_is_another_process() -> None:
    assert is_alive(replace(this_process(), started="1")) is False


def test_a_process_before_the_last_boot_is_dead() -> None:
    assert is_alive(replace(this_process(), boot="an earlier one")) is False


def test_another_host_cannot_be_judged() -> None:
    assert is_alive(replace(this_process(), host="elsewhere", boot="an earlier one")) is None


def test_in_another_container_the_lock_decides(tmp_path: Path) -> None:
    process = replace(this_process(), namespace="pid:[1]")
    lock = tmp_path / "lock"
    assert is_alive(process) is None
    assert is_alive(process, lock) is None
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(lock) is True
        assert is_alive(process, lock) is True
    assert is_locked(lock) is False
    assert is_alive(process, lock) is False


def test_without_proc_the_start_time_comes_from_ps(sleeper: subprocess.Popen[bytes]) -> None:
    started = processes._start_time_by_ps(sleeper.pid)
    assert started
    assert processes._start_time_by_ps(sleeper.pid) == started
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert processes._start_time_by_ps(sleeper.pid) is None
