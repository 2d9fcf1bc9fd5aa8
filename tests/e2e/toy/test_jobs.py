"""Jobs as users run them: detached workers, chained, killed, canceled."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_bench import Bench, events
from toy_run import LIGHTNING_WARNING, run_toy, weights

from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore
from skillbank.launch import cancel_job
from skillbank.launch.environment import free_port

LINK = "toy_model_latest.pth"

pytestmark = pytest.mark.filterwarnings(LIGHTNING_WARNING)


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_jobs_chained_without_waiting(bench: Bench) -> None:
    train = bench.train()
    evaluate = bench.start("evaluate", parent_job_id=train.id, dataset__test_file=str(bench.points))
    export = bench.start("export", parent_job_id=train.id)
    assert bench.store.get(evaluate.id).state is State.PENDING

    train, evaluate, export = bench.end(train), bench.end(evaluate), bench.end(export)
    assert [job.state for job in (train, evaluate, export)] == [State.DONE] * 3
    assert [bench.exit_code(job) for job in (train, evaluate, export)] == [0, 0, 0]
    folder = Path(train.results_dir) / "train"
    # the listing of the documents: ls <results>/train
    assert sorted(path.name for path in folder.iterdir()) == [
        "experiment.yaml",
        "model_epoch_000.pth",
        "model_epoch_001.pth",
        "status.json",
        LINK,
    ]
    waiting = events(evaluate, "evaluate")[0]["message"]
    assert waiting.startswith(f"waiting for parent job {train.id}")
    metrics = json.loads((Path(evaluate.results_dir) / "evaluate" / "metrics.json").read_text())
    assert metrics["checkpoint"].startswith(str(folder))
    assert [found.kind for found in bench.store.artifacts(evaluate.id)] == ["metrics"]
    assert [found.kind for found in bench.store.artifacts(export.id)] == ["onnx"]


def test_kill_and_the_same_command_end_with_the_same_weights(bench: Bench) -> None:
    """SIGKILL inside the second epoch, checkpoints every three steps; a loader process draws the noise."""
    settings = {
        "train__num_epochs": 3,
        "train__checkpoint_interval_unit": "step",
        "train__checkpoint_interval": 3.0,
        "dataset__num_workers": 1,
    }
    gate = bench.gate(8)
    command = {**settings, "results_dir": str(bench.folder / "broken"), "train__gate": str(gate)}
    whole = bench.train(**settings, results_dir=str(bench.folder / "whole"))
    killed = bench.train(**command)
    bench.at_batch(killed, gate, 8)
    os.kill(bench.worker(killed), signal.SIGKILL)
    killed = bench.end(killed)
    assert killed.state is State.ERROR
    assert "SIGKILL" in killed.message
    bench.open(gate)

    folder = bench.folder / "broken" / "train"
    saved = folder / (folder / LINK).readlink()
    resumed = bench.end(bench.train(**command))
    assert bench.end(whole).state is State.DONE
    assert resumed.state is State.DONE
    assert any(f"resuming from {saved.name}" in line["message"] for line in events(resumed))
    names = sorted(path.name for path in folder.glob("*.pth"))
    assert names == sorted(path.name for path in (bench.folder / "whole" / "train").glob("*.pth"))
    assert len(names) == 6
    for name in names:
        assert_same(folder / name, bench.folder / "whole" / "train" / name)
    # the resumed job knows the checkpoints of the killed one, so that the best of all can be chosen
    assert len(bench.store.artifacts(resumed.id)) == 5


def test_a_terminated_worker_saves_first(bench: Bench) -> None:
    gate = bench.gate(2)
    job = bench.train(train__gate=str(gate))
    bench.at_batch(job, gate, 2)
    os.kill(bench.worker(job), signal.SIGTERM)
    bench.open(gate)
    job = bench.end(job)
    assert job.state is State.ERROR
    assert job.error is not None
    assert job.error["code"] == "job.interrupted"
    assert "stopped by SIGTERM" in job.message
    assert bench.exit_code(job) == 6
    folder = Path(job.results_dir) / "train"
    assert (folder / LINK).readlink().name == "model_epoch_000_step_00002.pth"
    assert [found.kind for found in bench.store.artifacts(job.id)] == ["checkpoint"]
    assert events(job)[-1]["status"] == "FAILURE"


def test_a_canceled_job_saves_and_takes_those_that_wait_for_it_along(bench: Bench) -> None:
    gate = bench.gate()
    job = bench.train(train__gate=str(gate), train__num_epochs=100_000)
    child = bench.start("evaluate", parent_job_id=job.id, dataset__test_file=str(bench.points))
    bench.at_batch(job, gate, 2)
    # what waits is light: the running worker has torch in its memory, the waiting one has not
    loaded = [Path(f"/proc/{bench.worker(each)}/maps").read_text() for each in (job, child)]
    assert ["libtorch" in maps for maps in loaded] == [True, False]
    canceled = cancel_job(bench.store, job.id, grace_s=30.0)
    assert canceled.state is State.CANCELED
    assert bench.exit_code(job) == 6
    last = events(job)[-1]
    assert (last["status"], last["message"]) == ("FAILURE", "canceled")
    assert (Path(job.results_dir) / "train" / LINK).exists()

    child = bench.end(child)
    assert child.state is State.ERROR
    assert child.message.startswith(f"parent job {job.id} ended as canceled")


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_run(bench: Bench) -> None:
    """ddp over gloo: one process is killed, the job says which, the same command goes on bit for bit."""
    gate = bench.gate(8)
    settings = {
        "train__num_gpus": 2,
        "train__num_epochs": 3,
        "dataset__batch_size": 4,
        "train__checkpoint_interval_unit": "step",
        "train__checkpoint_interval": 2.0,
    }
    command = {**settings, "results_dir": str(bench.folder / "broken"), "train__gate": str(gate)}
    whole = bench.train(**settings, results_dir=str(bench.folder / "whole"))
    killed = bench.train(**command)
    bench.at_batch(killed, gate, 8)
    worker = bench.worker(killed)
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    (second,) = [pid for pid in children if b"--rank" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(second), signal.SIGKILL)
    bench.open(gate)
    killed = bench.end(killed)
    assert killed.state is State.ERROR
    assert "process 1 of the job ended with exit code -9" in killed.message
    assert events(killed)[-1]["status"] == "FAILURE"
    shutil.copytree(bench.folder / "broken" / "train", bench.folder / "alone", symlinks=True)

    resumed = bench.end(bench.train(**command))
    assert bench.end(whole).state is State.DONE
    assert resumed.state is State.DONE
    assert any("on 2 CPU processes" in line["message"] for line in events(resumed))
    assert {line["rank"] for line in events(resumed)} == {0}
    assert_same(bench.folder / "broken" / "train" / LINK, bench.folder / "whole" / "train" / LINK)

    # one process goes on where two were: it has the rest of their ten batches left in this epoch
    at = torch.load(bench.folder / "alone" / LINK, weights_only=True)
    done = at["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    assert 0 < done < 5
    outcome = run_toy(
        bench.folder / "alone",
        dataset__train_file=str(bench.points),
        dataset__batch_size=4,
        train__num_epochs=3,
    )
    left = (10 - 2 * done) + 10 * (2 - at["epoch"])
    assert outcome.artifacts[-1].step == at["global_step"] + left
    assert all("val_loss" in found.metrics for found in outcome.artifacts[-(3 - at["epoch"]) :])


@pytest.mark.slow
def test_an_error_of_any_process_is_the_error_of_the_job(bench: Bench) -> None:
    """The point that lies nowhere comes to one of two processes; the other one only sees it leave."""
    import toy_impl

    bad = toy_impl.write_points(bench.folder / "bad.txt", 40, poison=3)
    job = bench.end(
        bench.train(train__num_gpus=2, dataset__train_file=str(bad), dataset__val_file=str(bench.points))
    )
    assert job.state is State.ERROR
    assert "p3" in job.message
    assert "the loss is nan" in job.message


@pytest.mark.slow
def test_a_sharded_run_leaves_an_ordinary_checkpoint(bench: Bench) -> None:
    settings = {"train__num_gpus": 2, "train__distributed_strategy": "ddp_sharded"}
    folder = str(bench.folder / "shared")
    first = bench.end(bench.train(**settings, results_dir=folder, train__num_epochs=1))
    again = bench.end(bench.train(**settings, results_dir=folder))
    assert [job.state for job in (first, again)] == [State.DONE] * 2
    assert any("resuming from model_epoch_000.pth" in line["message"] for line in events(again))
    content = torch.load(Path(folder) / "train" / LINK, weights_only=True)
    assert content["state_dict"]["model.inner.0.weight"].shape == (8, 2)
    assert content["skillbank"]["epoch"] == 1


@pytest.mark.slow
def test_two_nodes_meet_and_the_first_one_writes(bench: Bench) -> None:
    """Two machines are played by two homes; each starts the job with its own NODE_RANK."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    settings = {"train__num_nodes": 2, "results_dir": str(bench.folder / "shared"), "train__seed": -1}
    other = replace(bench, store=JobStore(bench.folder / "other-home"))
    jobs = [
        each.train(**settings, env={**meeting, "NODE_RANK": str(rank)})
        for rank, each in enumerate((bench, other))
    ]
    ended = [each.end(job) for each, job in zip((bench, other), jobs, strict=True)]
    assert [job.state for job in ended] == [State.DONE] * 2
    assert events(jobs[0])[-1]["status"] == "SUCCESS"
    assert not events(jobs[1])
    assert [found.epoch for found in bench.store.artifacts(jobs[0].id)] == [0, 1]
    assert not other.store.artifacts(jobs[1].id)
    other.store.close()
