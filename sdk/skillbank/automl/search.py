"""The search itself: asks Optuna for values, runs each trial as an ordinary job, and tells the result.

The controller is the only writer of the study, so nothing about trials depends on file locks. A trial
writes what every job writes; its best checkpoint and status events are read back from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.automl.settings import Settings
from skillbank.automl.space import Axis, Choices, Range, search_space
from skillbank.errors import InvalidValueError, JobFailedError, RuntimeMissingError, SkillBankError
from skillbank.jobs.files import write_json
from skillbank.jobs.record import Job
from skillbank.jobs.states import State
from skillbank.jobs.status import read_events
from skillbank.metrics import Direction, find_metric, is_better, lookup, primary_metric
from skillbank.specs import network as find_network
from skillbank.specs.base import Metric

if TYPE_CHECKING:
    import optuna

    from skillbank.jobs.store import JobStore

__all__ = ["BEST_FILE", "Search", "Trial", "objective"]

log = logging.getLogger(__name__)

BEST_FILE = "best_trial.json"


@dataclass(slots=True)
class Trial:
    """One trial of a search; `value` is its best value of the objective."""

    number: int
    values: dict[str, Any]
    job_id: str | None = None
    state: str = "running"
    value: float | None = None
    epoch: int | None = None
    checkpoint: str | None = None
    reason: str = ""
    reported: set[int] = field(default_factory=set)
    handle: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The trial as it stands in the record."""
        return {name: getattr(self, name) for name in _RECORDED}


_RECORDED = ("number", "values", "job_id", "state", "value", "epoch", "checkpoint", "reason")


class Search:
    """A running search.

    Args:
        store: where the search's own job and its trials are recorded.
        job: the search's job; its request holds spec, overrides and datasets, which all trials keep.
        nested: complete spec of the first trial.
        settings: how to search.
        launch: starts a trial; called with the sampled values and the trial number, returns its job.
        cancel: stops the job of a trial that is not worth finishing.
        results: folder for the record of the search.
        clock, sleep: time source and waiting, replaceable in tests.

    Raises:
        SpecError: no objective, or a space that cannot be searched.
        RuntimeMissingError: Optuna is not installed.
    """

    def __init__(
        self,
        store: JobStore,
        job: Job,
        nested: Mapping[str, Any],
        settings: Settings,
        *,
        launch: Callable[[Mapping[str, Any], int], Job],
        cancel: Callable[[Job], None],
        results: Path,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        poll_s: float = 1.0,
    ) -> None:
        self.store = store
        self.job = job
        self.settings = settings
        self.metric = objective(job.network, nested, settings)
        self.space = search_space(job.network, nested, keys=settings.keys, overrides=settings.ranges)
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self._launch = launch
        self._cancel = cancel
        self._results = results
        self._clock = clock
        self._sleep = sleep
        self._poll_s = poll_s
        self._epochs = int(nested.get("train", {}).get("num_epochs", 1))
        self._study = _study(settings, self.metric.direction, self._epochs, results)
        self._study.enqueue_trial({axis.key: axis.default for axis in self.space if _inside(axis)})

    def run(
        self, *, on_change: Callable[[Search], None] | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Trial:
        """Run trials until a budget is used up; returns the best one.

        Args:
            on_change: called after every finished trial.
            stop: asked between polls; True cancels the trials under way and ends the search.

        Raises:
            JobFailedError: no trial ended with a value; the reasons are listed.
        """
        try:
            self._run_trials(on_change or (lambda search: None), stop)
        finally:
            # Also when the search fails: nobody else would end its trials.
            for trial in self._under_way():
                if trial.job_id is not None:
                    self._take_checkpoints(trial)
                self._end(trial, "canceled", "the search was stopped")
                if trial.job_id is not None:
                    self._cancel(self.store.get(trial.job_id))
            self.write()
        if self.best is None:
            reasons = (
                "; ".join(f"trial {trial.number}: {trial.reason}" for trial in self.trials)
                or "no trial was run"
            )
            raise JobFailedError(
                f"no trial of {self.job.id} ended with a value of {self.metric.name}: {reasons}",
                hint="run the spec once with policy off and read its log",
            )
        return self.best

    def _under_way(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "running"]

    def _run_trials(self, on_change: Callable[[Search], None], stop: Callable[[], bool]) -> None:
        started = self._clock()
        while not stop():
            under_way = self._under_way()
            while len(under_way) < self.settings.concurrent and self._may_start(started):
                under_way.append(self._start())
            if not under_way:
                break
            for trial in under_way:
                self._look_at(trial)
                if trial.state != "running":
                    on_change(self)
            self.write()
            if all(trial.state == "running" for trial in under_way):
                self._sleep(self._poll_s)

    def write(self) -> Path:
        """Write the record of the search; readers never see half of it."""
        record = {
            "experiment_id": self.job.id,
            "metric_name": self.metric.name,
            "direction": self.metric.direction,
            "best": self.best.to_dict() if self.best else None,
            "all_recs": [trial.to_dict() for trial in self.trials],
            "space": [axis.key for axis in self.space],
        }
        path = self._results / BEST_FILE
        write_json(path, record, mode=0o644)
        return path

    def _may_start(self, started: float) -> bool:
        if len(self.trials) >= self.settings.trials:
            return False
        if self.settings.max_hours is not None and self._clock() - started > self.settings.max_hours * 3600:
            return False
        if self.settings.patience is None or self.best is None:
            return True
        finished = [trial for trial in self.trials if trial.state != "running"]
        since = sum(1 for trial in finished if trial.number > self.best.number)
        return since < self.settings.patience

    def _start(self) -> Trial:
        handle = self._study.ask()
        trial = Trial(number=len(self.trials), values=_draw(handle, self.space), handle=handle)
        self.trials.append(trial)
        try:
            trial.job_id = self._launch(trial.values, trial.number).id
        except SkillBankError as err:
            if trial.number == 0:
                raise
            self._end(trial, "failed", err.message)
        return trial

    def _look_at(self, trial: Trial) -> None:
        """Read what the trial's job has reported; tell the study when it is over or not worth finishing."""
        if trial.job_id is None or trial.state != "running":
            return
        job = self.store.get(trial.job_id)
        self._take_checkpoints(trial)
        if job.state is State.DONE:
            ended = trial.value is not None
            self._end(
                trial, "done" if ended else "failed", "" if ended else f"it reported no {self.metric.name}"
            )
        elif job.state.is_final:
            self._end(trial, "failed", (job.error or {}).get("message") or job.message or str(job.state))
        elif self._not_worth_it(trial, job):
            self._cancel(job)
            self._end(trial, "pruned", "stopped early: others were better at this epoch")

    def _take_checkpoints(self, trial: Trial) -> None:
        assert trial.job_id is not None
        for artifact in self.store.artifacts(trial.job_id, "checkpoint"):
            value = lookup(artifact.metrics, self.metric)
            if value is not None and is_better(value, trial.value, self.metric.direction):
                trial.value, trial.epoch, trial.checkpoint = value, artifact.epoch, artifact.path

    def _not_worth_it(self, trial: Trial, job: Job) -> bool:
        status = Path(job.results_dir) / "train" / "status.json"
        if not status.is_file():
            return False
        for event in read_events(status):
            value = lookup(event.kpi, self.metric)
            if value is None or event.epoch is None or event.epoch in trial.reported:
                continue
            trial.reported.add(event.epoch)
            trial.handle.report(value, event.epoch)
        return bool(trial.reported) and bool(trial.handle.should_prune())

    def _end(self, trial: Trial, state: str, reason: str) -> None:
        from optuna.trial import TrialState

        trial.state, trial.reason = state, reason
        if state == "done":
            self._study.tell(trial.handle, trial.value)
        else:
            # A trial without a value must not rank: crashed trials are told as failed, never as a number.
            self._study.tell(trial.handle, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
        if trial.value is not None and is_better(
            trial.value, self.best.value if self.best else None, self.metric.direction
        ):
            self.best = trial
        log.info("trial %d %s: %s = %s %s", trial.number, state, self.metric.name, trial.value, reason)


def objective(network_name: str, nested: Mapping[str, Any], settings: Settings) -> Metric:
    """The metric that a search of this spec is after.

    Raises:
        NotFoundError: the network reports no such metric.
        InvalidValueError: the network has no main metric for this spec.
    """
    network = find_network(network_name)
    if settings.metric is None:
        found = primary_metric(network, nested)
        if found is None:
            raise InvalidValueError(
                f"{network_name} names no main metric for this spec; choose one",
                hint="--metric NAME --direction max",
                key="metric",
            )
        return found
    if settings.direction is None:
        return find_metric(network, settings.metric)
    return Metric(
        name=settings.metric, direction=settings.direction, description="objective given by the user"
    )


def _inside(axis: Axis) -> bool:
    """Whether the default can be drawn; a default outside the user's own bounds is left to the sampler."""
    if isinstance(axis.domain, Choices):
        return axis.default in axis.domain.values
    return bool(axis.domain.low <= axis.default <= axis.domain.high)


def _draw(handle: optuna.Trial, space: list[Axis]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for axis in space:
        domain = axis.domain
        if isinstance(domain, Choices):
            # Optuna takes plain scalars only, so options are drawn by position when one is a list.
            plain = all(isinstance(value, str | int | float | bool | None) for value in domain.values)
            picked = handle.suggest_categorical(
                axis.key, domain.values if plain else tuple(range(len(domain.values)))
            )
            values[axis.key] = picked if plain else domain.values[int(str(picked))]
        elif domain.integer:
            values[axis.key] = _draw_integer(handle, axis.key, domain)
        else:
            values[axis.key] = handle.suggest_float(axis.key, domain.low, domain.high, log=domain.log)
    return values


def _draw_integer(handle: optuna.Trial, key: str, domain: Range) -> int:
    if domain.log:
        return handle.suggest_int(key, int(domain.low), int(domain.high), log=True)
    return handle.suggest_int(key, int(domain.low), int(domain.high), step=domain.step or 1)


def _study(settings: Settings, direction: Direction, epochs: int, results: Path) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as err:
        raise RuntimeMissingError(
            "a search needs Optuna, which is not installed",
            hint="pip install -c constraints.txt 'skillbank[automl]'",
        ) from err
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = optuna.samplers
    sampler: optuna.samplers.BaseSampler
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if settings.algorithm in ("random", "hyperband"):
        sampler = samplers.RandomSampler(seed=settings.seed)
    else:
        # liar: points under way count as bad, so that concurrent trials spread out
        sampler = samplers.TPESampler(
            seed=settings.seed,
            n_startup_trials=min(10, max(2, settings.trials // 3)),
            constant_liar=settings.algorithm == "bfbo",
        )
    if settings.algorithm in ("hyperband", "bohb"):
        pruner = optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=max(epochs, 2), reduction_factor=settings.reduction_factor
        )
    elif settings.algorithm == "asha":
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=settings.reduction_factor
        )
    results.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(results / "study.log"))),
        study_name="search",
        load_if_exists=True,
        direction="maximize" if direction == "max" else "minimize",
        sampler=sampler,
        pruner=pruner,
    )
