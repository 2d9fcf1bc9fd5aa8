"""Which file of a parent job is taken: one rule for every network, action and launcher.

1. Candidates are the parent's registered artifacts; without any, its results folder is searched.
2. Only files the consumer accepts count (`.pth`, `.onnx`, `.engine`).
3. ``best``: best value of the network's main metric, equal values give the earlier epoch; ``latest``: highest
   epoch, then step, then time; ``epoch:N``: that epoch or an error.
4. Pretrained files never compete. An AutoML parent stands for its best trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from skillbank.errors import DataError, NotFoundError, UsageError
from skillbank.jobs.record import Job
from skillbank.metrics import lookup, primary_metric
from skillbank.resolve.candidates import NAME_PATTERNS, Candidate, candidates
from skillbank.resolve.lineage import job_spec
from skillbank.specs import network as find_network

if TYPE_CHECKING:
    from skillbank.jobs.store import JobStore

__all__ = ["BEST_TRIAL", "Choice", "best_trial", "choose_checkpoint", "parse_method"]

# Kind of the artifact that an AutoML search registers: a JSON file whose `job_id`, or `best.job_id`, names
# the job of the winning trial.
BEST_TRIAL = "best_trial"
# Names of the service -> ours.
_SERVICE_METHODS = {"best_model": "best", "latest_model": "latest"}
_TRAINING = frozenset({"train", "distill"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen file and how it came about.

    Attributes:
        path: local path or URI.
        job_id: the job it belongs to: the parent, or the best trial of an AutoML parent.
        rule: what decided, in words.
        notes: what the user should know, such as a missing metric.
    """

    path: str
    job_id: str
    epoch: int | None
    step: int | None
    metric_name: str | None
    metric: float | None
    rule: str
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for `--explain`: job, epoch, metric and rule."""
        parts = [f"job {self.job_id}"]
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch}")
        if self.step is not None:
            parts.append(f"step {self.step}")
        if self.metric is not None:
            parts.append(f"{self.metric_name} {self.metric:g}")
        return f"{', '.join(parts)}: {self.rule}"


def parse_method(text: str) -> tuple[str, int | None]:
    """Read ``best``, ``latest`` or ``epoch:N`` (the service's names too): the method and, for epochs, N.

    Raises:
        UsageError: none of these.
    """
    plain = _SERVICE_METHODS.get(text.strip().lower(), text.strip().lower())
    if plain in ("best", "latest"):
        return plain, None
    kind, _, number = plain.partition(":")
    if kind == "epoch" and number.strip().isdecimal():
        return "epoch", int(number)
    raise UsageError(
        f"checkpoint: {text!r} is not allowed; use best, latest or epoch:N with N counted from 0",
        hint="--checkpoint best", key="checkpoint", value=text, allowed=["best", "latest", "epoch:N"],
    )  # fmt: skip


def best_trial(store: JobStore, job: Job) -> Job | None:
    """The winning trial of an AutoML search; None for a job that is no search.

    Raises:
        NotFoundError: a search that has no best trial (yet).
        DataError: its record cannot be read.
    """
    records = store.artifacts(job.id, BEST_TRIAL)
    if not records:
        if job.request.policy.get("route") == "automl":
            raise NotFoundError(
                f"{job.id} is an AutoML search without a best trial",
                hint=f"skillbank automl show {job.id}", key="parent_job_id", value=job.id,
            )  # fmt: skip
        return None
    path = Path(max(records, key=lambda record: record.created_at).path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        winner = raw.get("job_id") or raw["best"]["job_id"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise DataError(
            f"{path}: the record of the best trial of {job.id} names no job",
            hint=f"skillbank automl show {job.id}", key="parent_job_id", value=job.id,
        ) from err  # fmt: skip
    return store.get(str(winner))


def choose_checkpoint(
    store: JobStore, parent: Job, *, accepts: Sequence[str], method: str = "best"
) -> Choice:
    """Choose a file of a parent job.

    Args:
        accepts: file endings that the consumer can take.
        method: ``best``, ``latest`` or ``epoch:N``.

    Raises:
        UsageError: no such method.
        NotFoundError: nothing usable, or no such epoch; the message lists what there is.
    """
    how, number = parse_method(method)
    winner = best_trial(store, parent)
    source = winner or parent
    any_name = source.action not in _TRAINING or all(ending in (".onnx", ".engine") for ending in accepts)
    found, where = candidates(store, source, accepts, any_name=any_name)
    if not found:
        raise _nothing(store, source, accepts, where)
    # Next to numbered ones, a file named `..._latest` is a copy.
    if any(map(_is_numbered, found)):
        found = [item for item in found if _is_numbered(item) or not item.name.latest]
    if how == "epoch":
        chosen = _of_epoch(found, number, source)
        return _choice(chosen, source, f"epoch {number} as asked for", (), prefix=winner is not None)
    if how == "best" and (by_metric := _by_metric(found, source)) is not None:
        return _with_trial(by_metric, winner)
    notes: tuple[str, ...] = ()
    if how == "best":
        named = [item for item in found if item.name.best]
        if named:
            chosen = max(named, key=_age)
            return _choice(chosen, source, "named best by the training", (), prefix=winner is not None)
        if source.action in _TRAINING and len(found) > 1:
            notes = (f"{source.id} recorded no metric with its checkpoints; the latest one is taken",)
    chosen = max(found, key=_age)
    rule = "the only one" if len(found) == 1 else "highest epoch and step"
    return _choice(chosen, source, rule, notes, prefix=winner is not None)


def _by_metric(found: list[Candidate], source: Job) -> Choice | None:
    """The candidate with the best main metric; None when no candidate has it."""
    metric = primary_metric(find_network(source.network), job_spec(source))
    if metric is None:
        return None
    sign = -1.0 if metric.direction == "max" else 1.0
    scored = [
        (sign * value, item.epoch if item.epoch is not None else math.inf, item.step or 0, item, value)
        for item in found
        if (value := lookup(item.metrics, metric)) is not None and math.isfinite(value)
    ]
    if not scored:
        return None
    _, _, _, best, value = min(scored, key=lambda row: row[:3])
    which = "highest" if metric.direction == "max" else "lowest"
    return Choice(
        path=best.path,
        job_id=source.id,
        epoch=best.epoch,
        step=best.step,
        metric_name=metric.name,
        metric=value,
        rule=f"{which} {metric.name} of {len(scored)}",
    )


def _of_epoch(found: list[Candidate], number: int | None, source: Job) -> Candidate:
    fitting = [item for item in found if item.epoch == number]
    if fitting:
        return max(fitting, key=_age)
    there = sorted({item.epoch for item in found if item.epoch is not None})
    listed = ", ".join(map(str, there)) or "none with a number"
    raise NotFoundError(
        f"job {source.id} has no checkpoint of epoch {number}; it has {listed} (counted from 0)",
        hint=f"--checkpoint epoch:{there[-1]}" if there else "--checkpoint latest",
        key="checkpoint", value=f"epoch:{number}", allowed=[f"epoch:{epoch}" for epoch in there],
    )  # fmt: skip


def _is_numbered(item: Candidate) -> bool:
    return item.epoch is not None or item.step is not None


def _age(item: Candidate) -> tuple[int, int, bool, str]:
    return (
        item.epoch if item.epoch is not None else -1,
        item.step if item.step is not None else -1,
        item.name.latest,
        item.created_at,
    )


def _choice(item: Candidate, source: Job, rule: str, notes: tuple[str, ...], *, prefix: bool) -> Choice:
    choice = Choice(
        path=item.path, job_id=source.id, epoch=item.epoch, step=item.step, metric_name=None, metric=None,
        rule=rule, notes=notes,
    )  # fmt: skip
    return _with_trial(choice, source if prefix else None)


def _with_trial(choice: Choice, winner: Job | None) -> Choice:
    if winner is None:
        return choice
    return replace(choice, rule=f"best trial of the search, {choice.rule}")


def _nothing(store: JobStore, source: Job, accepts: Sequence[str], where: str) -> NotFoundError:
    endings = ", ".join(accepts)
    other = sorted({Path(artifact.path).name for artifact in store.artifacts(source.id)})
    there = f"registered are {', '.join(other[:10])}" if other else "nothing is registered"
    return NotFoundError(
        f"parent job {source.id} ({source.network} {source.action}, {source.state}) has no file ending in "
        f"{endings}: {there}; listed was {where}, names tried are {', '.join(NAME_PATTERNS)}",
        hint=f"skillbank jobs artifacts {source.id}",
        key="parent_job_id", value=source.id, allowed=list(accepts),
    )  # fmt: skip
