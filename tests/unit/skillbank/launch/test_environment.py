from pathlib import Path

import pytest

from skillbank.errors import LaunchError
from skillbank.launch.base import Bundle
from skillbank.launch.devices import cpu_count
from skillbank.launch.environment import worker_environment


def bundle(**more: object) -> Bundle:
    return Bundle(**{"job_id": "j", "folder": Path("/f"), "argv": ("x",), **more})


def test_one_node_meets_here_whatever_the_caller_is_part_of() -> None:
    outside = {"WORLD_SIZE": "16", "NODE_RANK": "3", "MASTER_ADDR": "far", "MASTER_PORT": "1", "KEEP": "me"}
    env = worker_environment(bundle(gpus=4), outside)
    assert (env["WORLD_SIZE"], env["NNODES"], env["NODE_RANK"], env["MASTER_ADDR"]) == (
        "1",
        "1",
        "0",
        "127.0.0.1",
    )
    assert (env["NUM_GPU_PER_NODE"], env["NPROC_PER_NODE"]) == ("4", "4")
    assert env["MASTER_PORT"] != "1"
    assert (env["KEEP"], env["SKILLBANK_JOB_ID"], env["PYTHONUNBUFFERED"]) == ("me", "j", "1")


def test_without_gpu_there_is_one_process() -> None:
    env = worker_environment(bundle(gpus=0), {})
    assert (env["NUM_GPU_PER_NODE"], env["NPROC_PER_NODE"]) == ("0", "1")


def test_several_nodes_need_to_know_which_one_this_is() -> None:
    with pytest.raises(LaunchError, match=r"2 nodes .* NODE_RANK, MASTER_PORT do not say") as caught:
        worker_environment(bundle(nodes=2), {"MASTER_ADDR": "far"})
    assert "train.num_nodes=1" in caught.value.hint
    known = {"NODE_RANK": "1", "MASTER_ADDR": "far", "MASTER_PORT": "29500"}
    env = worker_environment(bundle(nodes=2, gpus=8), known)
    assert (env["WORLD_SIZE"], env["NNODES"], env["NPROC_PER_NODE"]) == ("2", "2", "8")
    assert {name: env[name] for name in known} == known


def test_threads_follow_the_number_of_ranks_unless_set() -> None:
    assert worker_environment(bundle(gpus=2), {})["OMP_NUM_THREADS"] == "1"
    assert worker_environment(bundle(gpus=1), {})["OMP_NUM_THREADS"] == str(cpu_count())
    assert worker_environment(bundle(gpus=2), {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    many = {"SKILLBANK_CPU_SLOTS": "1000"}
    assert worker_environment(bundle(), many)["OMP_NUM_THREADS"] == "1"


def test_the_bundle_beats_the_settings_file_and_that_the_caller() -> None:
    env = worker_environment(
        bundle(env={"A": "bundle", "MASTER_PORT": "7"}),
        {"A": "caller", "B": "caller"},
        {"A": "file", "B": "file"},
    )
    assert (env["A"], env["B"], env["MASTER_PORT"]) == ("bundle", "file", "7")


def test_waiting_threads_leave_the_cores_to_others() -> None:
    assert worker_environment(bundle(), {})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert worker_environment(bundle(), {"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"
