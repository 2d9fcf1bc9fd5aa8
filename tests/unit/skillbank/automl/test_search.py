"""The search on a real store: trials are jobs whose checkpoints carry the value of a known function."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from skillbank.automl.search import BEST_FILE, Search
from skillbank.automl.settings import Settings
from skillbank.automl.space import Override
from skillbank.errors import JobFailedError, NotFoundError
from skillbank.jobs.record import Job, Request
from skillbank.jobs.states import State
from skillbank.jobs.status import StatusWriter
from skillbank.jobs.store import JobStore
from skillbank.resolve.checkpoints import choose_checkpoint

SPEC: dict[str, Any] = {"train": {"num_epochs": 9, "optim": {"lr": 1e-5, "weight_decay": 0.05}}}
OPTIMUM = 3e-5


def quality(lr: float) -> float:
    """A smooth function with its maximum 1 at `OPTIMUM`."""
    return 1.0 / (1.0 + math.log10(lr / OPTIMUM) ** 2)


class Bench:
    """A store, a search job, and trials that end at once."""

    def __init__(self, home: Path, *, fails: Mapping[int, str] | None = None) -> None:
        self.store = JobStore(home)
        self.fails = dict(fails or {})
        self.canceled: list[str] = []
        self.job = self.store.create(
            Request(network="mask2former", action="train", policy={"route": "automl"}), name="search"
        )
        self.store.transition(self.job.id, State.RUNNING)

    def launch(self, values: Mapping[str, Any], number: int) -> Job:
        job = self.store.create(
            Request(network="mask2former", action="train", overrides=dict(values)), name=f"{number}"
        )
        self.store.transition(job.id, State.RUNNING)
        if number in self.fails:
            self.store.transition(
                job.id, State.ERROR, self.fails[number], error={"message": self.fails[number]}
            )
            return self.store.get(job.id)
        file = job.folder / "results/train/model_epoch_000.pth"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        self.store.register_artifact(
            job.id, file, kind="checkpoint", epoch=0, metrics={"mIoU": quality(values["train.optim.lr"])}
        )
        self.store.transition(job.id, State.DONE)
        return self.store.get(job.id)

    def search(self, settings: Settings) -> Search:
        return Search(
            self.store, self.job, SPEC, settings, launch=self.launch,
            cancel=lambda job: self.canceled.append(job.id),
            results=Path(self.job.results_dir), sleep=lambda seconds: None,
        )  # fmt: skip


def test_finds_a_better_rate_than_the_default_and_hands_its_checkpoint_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    search = bench.search(Settings(trials=15, keys=("train.optim.lr",), metric="mIoU"))
    best = search.run()
    assert search.trials[0].values == {"train.optim.lr": 1e-5}
    assert len(search.trials) == 15
    assert best.value is not None
    assert best.value > quality(1e-5) + 0.1
    assert best.value == max(trial.value or 0 for trial in search.trials)

    bench.store.register_artifact(bench.job.id, search.write(), kind="best_trial")
    choice = choose_checkpoint(bench.store, bench.job, accepts=[".pth"])
    assert choice.job_id == best.job_id
    assert choice.path == best.checkpoint


def test_same_seed_same_trials(tmp_path: Path) -> None:
    settings = Settings(trials=6, keys=("train.optim.lr", "train.optim.weight_decay"), seed=7, metric="mIoU")
    first, second = (Bench(tmp_path / name).search(settings) for name in ("a", "b"))
    first.run()
    second.run()
    assert [trial.values for trial in first.trials] == [trial.values for trial in second.trials]


def test_a_failed_trial_never_wins_and_is_told_as_failed(tmp_path: Path) -> None:
    search = Bench(tmp_path, fails={1: "out of memory"}).search(
        Settings(trials=4, keys=("train.optim.lr",), metric="val_loss", direction="min")
    )
    # no trial reports val_loss, so none has a value, whichever direction is better
    with pytest.raises(JobFailedError, match="trial 1: out of memory") as caught:
        search.run()
    assert "it reported no val_loss" in str(caught.value)
    record = json.loads((Path(search.job.results_dir) / BEST_FILE).read_text())
    assert record["best"] is None
    assert [trial["state"] for trial in record["all_recs"]] == ["failed"] * 4


def test_patience_and_time(tmp_path: Path) -> None:
    settings = Settings(trials=50, patience=3, keys=("train.optim.lr",), metric="mIoU", ranges={
        "train.optim.lr": Override(low=1e-5, high=1.0001e-5)})  # fmt: skip
    search = Bench(tmp_path / "a").search(settings)
    search.run()
    assert search.best is not None
    assert len(search.trials) == search.best.number + 4

    bench = Bench(tmp_path / "b")
    times = iter(range(0, 1_000_000, 1000))
    timed = Search(
        bench.store, bench.job, SPEC,
        Settings(trials=50, max_hours=1, keys=("train.optim.lr",), metric="mIoU"),
        launch=bench.launch, cancel=lambda job: None, results=tmp_path / "r", clock=lambda: next(times),
    )  # fmt: skip
    timed.run()
    assert 1 <= len(timed.trials) <= 4


def test_unpromising_trials_are_stopped(tmp_path: Path) -> None:
    """Three good trials, then two that are worse at every epoch: those are canceled while they run."""
    bench = Bench(tmp_path)
    store = bench.store
    running: list[tuple[Job, int]] = []

    def launch(values: Mapping[str, Any], number: int) -> Job:
        job = store.create(
            Request(network="mask2former", action="train", overrides=dict(values)), name=f"{number}"
        )
        store.transition(job.id, State.RUNNING)
        status = StatusWriter(
            Path(job.results_dir) / "train/status.json", job_id=job.id, component="mask2former"
        )
        for epoch in range(9):
            status.metrics({"mIoU": 0.5 + number / 10 if number < 3 else 0.001}, epoch=epoch, max_epoch=9)
        running.append((job, number))
        return store.get(job.id)

    def finish(seconds: float) -> None:
        assert running, "a trial was neither stopped nor finished"
        job, number = running.pop()
        file = Path(job.results_dir) / "train/model_epoch_008.pth"
        file.write_bytes(b"weights")
        store.register_artifact(job.id, file, kind="checkpoint", epoch=8, metrics={"mIoU": 0.5 + number / 10})
        store.transition(job.id, State.DONE)

    def cancel(job: Job) -> None:
        bench.canceled.append(job.id)
        running.clear()
        store.transition(job.id, State.CANCELING)
        store.transition(job.id, State.CANCELED)

    search = Search(
        store, bench.job, SPEC, Settings(algorithm="asha", trials=5, keys=("train.optim.lr",), metric="mIoU"),
        launch=launch, cancel=cancel, results=Path(bench.job.results_dir), sleep=finish,
    )  # fmt: skip
    search.run()
    assert [trial.state for trial in search.trials] == ["done", "done", "done", "pruned", "pruned"]
    assert bench.canceled == [trial.job_id for trial in search.trials[3:]]
    assert search.best is not None
    assert search.best.number == 2


def test_unknown_metric_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="mask2former reports no metric 'mIuO'") as caught:
        Bench(tmp_path).search(Settings(metric="mIuO"))
    assert "mIoU" in caught.value.hint


def test_a_search_that_fails_leaves_no_trial_running(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    started: list[Job] = []

    def launch(values: Mapping[str, Any], number: int) -> Job:
        if number:
            raise ZeroDivisionError
        started.append(bench.store.create(Request(network="mask2former", action="train")))
        return started[0]

    search = Search(
        bench.store, bench.job, SPEC, Settings(trials=3, concurrent=2, keys=("train.optim.lr",)),
        launch=launch,
        cancel=lambda job: bench.canceled.append(job.id), results=Path(bench.job.results_dir),
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        search.run()
    assert bench.canceled == [started[0].id]
    record = json.loads((Path(bench.job.results_dir) / BEST_FILE).read_text())
    assert [trial["state"] for trial in record["all_recs"]] == ["canceled", "canceled"]
