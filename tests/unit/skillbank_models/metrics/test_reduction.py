"""Gathering over real processes."""

import json
import subprocess
import sys
from datetime import timedelta

import torch.distributed as dist

from skillbank_models.metrics.reduction import (
    from_first,
    gather_on_all,
    gather_on_first,
    is_shared,
    merge_images,
)


def work(rank: int, store: str) -> None:
    """What one of two processes does; it prints what it got."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    mine = {str(rank): "own", "7": f"seen by {rank}"}
    said = {
        "shared": is_shared(),
        "all": gather_on_all(mine),
        "first": gather_on_first(rank),
        "from first": from_first("said by 0" if rank == 0 else None),
    }
    dist.destroy_process_group()
    print(json.dumps(said))


def test_two_processes(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    everyone = [{"0": "own", "7": "seen by 0"}, {"1": "own", "7": "seen by 1"}]
    for rank, text in enumerate(said):
        found = json.loads(text)
        assert found["shared"]
        assert found["all"] == everyone
        assert found["first"] == ([0, 1] if rank == 0 else None)
        assert found["from first"] == "said by 0"


def test_one_process_sends_nothing():
    assert not is_shared()
    value = {"a": 1}
    assert gather_on_all(value)[0] is value
    assert gather_on_first(value)[0] is value
    assert from_first(value) is value


def test_images_are_merged_once_and_in_order():
    merged = merge_images([{10: "a", 2: "b"}, {2: "again", "x.jpg": "c", 1: "d"}])
    assert list(merged.items()) == [(1, "d"), (2, "b"), (10, "a"), ("x.jpg", "c")]


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
