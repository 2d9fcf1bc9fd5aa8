"""Further processes of a job: started with what they need, ended with it, heard when they fail."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from skillbank_runners.placement import Placement
from skillbank_runners.ranks import Rank, RankFailure, Ranks, fail_file

PLAN: dict[str, Any] = {
    "job_id": "toy-1",
    "network": "no_such_network",
    "action": "train",
    "spec": {"train": {}},
    "placement": {"accelerator": "cpu", "ids": (), "notes": (), "processes": 2, "nodes": 1, "node_rank": 0},
}


def plan(tmp_path: Path) -> dict[str, Any]:
    return {**PLAN, "folder": str(tmp_path)}


def unheard(failure: RankFailure) -> None:
    raise AssertionError(failure)


def test_a_process_counts_over_all_nodes() -> None:
    rank = Rank(local=1, per_node=4, node=2, nodes=3)
    assert (rank.number, rank.world) == (9, 12)
    assert Rank(**rank.to_dict()) == rank


def test_alone_nothing_is_started(tmp_path: Path) -> None:
    with Ranks(tmp_path, plan(tmp_path), Rank(), unheard).running():
        assert list(tmp_path.iterdir()) == []


def test_a_failed_process_leaves_its_reason(tmp_path: Path) -> None:
    heard: list[RankFailure] = []
    ranks = Ranks(tmp_path, plan(tmp_path), Rank(per_node=2), heard.append)
    with ranks.running():
        failure = ranks.failure(patience_s=30)
    assert failure is not None
    assert failure.number == 1
    assert failure.code == 4  # not found
    error = failure.to_error()
    assert "process 1: there is no network 'no_such_network'" in error.message
    assert error.hint == "skillbank networks"
    assert not heard  # the worker itself came to an end
    assert [path.name for path in tmp_path.iterdir()] == [fail_file(tmp_path, 1).name]


def test_the_worker_is_told_when_it_does_not_notice_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillbank_runners.ranks._OWN_REPORT_S", 0.05)
    heard: list[RankFailure] = []
    told = threading.Event()

    def lost(failure: RankFailure) -> None:
        heard.append(failure)
        told.set()

    with Ranks(tmp_path, plan(tmp_path), Rank(per_node=2), lost).running():
        assert told.wait(30)
    assert heard[0].number == 1


def test_a_process_killed_without_a_word_is_explained() -> None:
    error = RankFailure(3, -9, None).to_error()
    assert error.message == "process 3 of the job ended with exit code -9"
    assert "memory" in error.hint


def test_a_process_ends_when_its_worker_is_gone(tmp_path: Path) -> None:
    """The worker is killed with SIGKILL; the process it started would sleep for a minute."""
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys, time; "
        "from skillbank_runners.ranks import watch_parent; watch_parent(int(sys.argv[1])); "
        'print("up", flush=True); time.sleep(60)\', str(os.getpid())], stdout=subprocess.PIPE)\n'
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        threading.Event().wait(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the process outlived its worker")


def test_the_plan_survives_json() -> None:
    placement = Placement(accelerator="cuda", ids=(0, 2), processes=2)
    values = json.loads(json.dumps({"ids": placement.ids, "slots": placement.slots}))
    assert values == {"ids": [0, 2], "slots": ["cuda:0", "cuda:2"]}
