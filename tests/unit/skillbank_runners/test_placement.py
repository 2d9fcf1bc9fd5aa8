"""Which devices a job gets."""

from typing import Any

import pytest

from skillbank.errors import InvalidValueError, UsageError
from skillbank_runners.placement import Placement, decide

CPU = {"SKILLBANK_ACCELERATOR": "cpu"}


def test_one_gpu_is_the_default_and_the_cpu_serves_without_one() -> None:
    block = {"num_gpus": 1, "gpu_ids": [0], "num_nodes": 1}
    assert decide(block, "train", gpus=4, environ={}) == Placement(accelerator="cuda", ids=(0,))
    found = decide(block, "train", gpus=0, environ={})
    assert (found.accelerator, found.processes, found.slots) == ("cpu", 1, ("cpu",))
    assert found.notes == ("no GPU: the CPU is used",)


def test_the_larger_of_count_and_list_wins() -> None:
    found = decide({"num_gpus": 1, "gpu_ids": [1, 3]}, "train", gpus=4, environ={})
    assert found.ids == (1, 3)
    assert found.processes == 2
    assert found.slots == ("cuda:1", "cuda:3")
    assert "disagree" in found.notes[0]
    assert decide({"num_gpus": 2, "gpu_ids": [0]}, "train", gpus=2, environ={}).ids == (0, 1)


@pytest.mark.parametrize("gpus", [0, 1])
def test_more_gpus_than_there_are_is_an_error_with_two_ways_out(gpus: int) -> None:
    with pytest.raises(InvalidValueError, match=r"train\.num_gpus: 2 GPUs \(0, 1\) asked for") as found:
        decide({"num_gpus": 2}, "train", gpus=gpus, environ={})
    assert "train.num_gpus=1" in found.value.hint
    assert "SKILLBANK_ACCELERATOR=cpu" in found.value.hint


def test_the_cpu_can_be_asked_for_with_several_processes() -> None:
    found = decide({"num_gpus": 2}, "train", gpus=8, environ=CPU)
    assert (found.accelerator, found.ids, found.processes, found.world) == ("cpu", (), 2, 2)
    with pytest.raises(InvalidValueError):
        decide({"num_gpus": 1}, "train", gpus=0, environ={"SKILLBANK_ACCELERATOR": "gpu"})
    with pytest.raises(UsageError, match="'tpu' is not allowed; use auto, cpu or gpu"):
        decide({}, "train", gpus=0, environ={"SKILLBANK_ACCELERATOR": "tpu"})


@pytest.mark.parametrize(
    ("block", "slots"),
    [
        ({"gpu_id": 2}, ("cuda:2",)),
        ({"device": "cuda"}, ("cuda:0",)),
        ({"device": "cpu"}, ("cpu",)),
        ({}, ("cpu",)),
    ],
)
def test_actions_that_name_one_device_or_none(block: dict[str, Any], slots: tuple[str, ...]) -> None:
    assert decide(block, "export", gpus=3, environ={}).slots == slots


def test_several_nodes_have_to_know_which_one_they_are() -> None:
    block = {"num_gpus": 2, "num_nodes": 3}
    with pytest.raises(InvalidValueError, match=r"train\.num_nodes: 3 nodes asked for"):
        decide(block, "train", gpus=2, environ={"NODE_RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    found = decide(block, "train", gpus=2, environ={"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    assert (found.node_rank, found.nodes, found.world) == (1, 3, 6)
