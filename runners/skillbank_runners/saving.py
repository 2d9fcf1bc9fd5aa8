"""When checkpoints are written: at intervals, at the end, when asked to stop, and beside them the best ones.

A checkpoint of a finished epoch is taken when everything that belongs to the epoch is over (validation,
schedulers, epoch metrics), and says so in Lightning's progress counters. A resumed run then starts its first
epoch like any other.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
import torch.distributed

from skillbank import __version__
from skillbank.metrics import is_better
from skillbank_runners.checkpoints import checkpoint_name, point_to_latest, remove_leftovers
from skillbank_runners.interrupts import Interrupts
from skillbank_runners.progress import Measures
from skillbank_runners.schedule import ValidationSchedule, crosses

__all__ = ["Best", "CheckpointPlan", "Checkpoints", "Register"]

log = logging.getLogger(__name__)

_COUNTS = ("ready", "started", "processed", "completed")


class Register(Protocol):
    """Records a finished file; `ActionContext.register` is one."""

    def __call__(
        self,
        path: Path,
        kind: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Record it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPlan:
    """Which checkpoints a run leaves.

    Attributes:
        interval: number of `unit` between checkpoints; epochs may be fractional, 0 = only at the end.
        link_name: name of the link to the newest one.
        replace_periodic: keep the newest periodic one only, to resume from.
        writes: False for a trial run that leaves nothing to resume from.
    """

    folder: Path
    interval: float
    unit: Literal["epoch", "step"]
    link_name: str
    network: str
    replace_periodic: bool = False
    writes: bool = True


@dataclass(slots=True, kw_only=True)
class Best:
    """The checkpoints with the best value of a metric.

    Attributes:
        metric: picks the value out of the reported numbers; None when it was not measured.
        pattern: file name with `{epoch}`, `{step}` and metric names as fields, without ending.
        kept: file name -> value, best first.
    """

    metric: Callable[[Mapping[str, float]], float | None]
    direction: Literal["max", "min"]
    count: int
    pattern: str
    folder: Path
    kept: dict[str, float] = field(default_factory=dict)

    def would_keep(self, metrics: Mapping[str, float]) -> float | None:
        """The value if it is among the best, else None; ties keep the earlier one."""
        value = self.metric(metrics)
        if value is None or not math.isfinite(value):
            return None
        worst = list(self.kept.values())[-1] if len(self.kept) >= self.count else None
        return value if is_better(value, worst, self.direction) else None

    def name(self, epoch: int, step: int, metrics: Mapping[str, float]) -> str:
        """File name of a best checkpoint."""
        values = {name.replace("/", "_"): value for name, value in metrics.items()}
        text = self.pattern.format_map({**values, "epoch": epoch, "step": step})
        return f"{text.removesuffix('.pth')}.pth"

    def add(self, name: str, value: float) -> list[str]:
        """Take a file in; returns those that are no longer among the best."""
        ranked = sorted(
            {**self.kept, name: value}.items(), key=lambda item: item[1], reverse=self.direction == "max"
        )
        self.kept = dict(ranked[: self.count])
        return [dropped for dropped, _ in ranked[self.count :]]


class Checkpoints(pl.Callback):
    """Writes checkpoints by plan, and one more when the job is asked to stop.

    Args:
        register: records each finished file.
        best: also keep the best ones.
        measures: gives the numbers that go with a file.
        schedule: knows whether a validation follows a batch, so that its numbers are waited for.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        interrupts: Interrupts,
        register: Register,
        *,
        schedule: ValidationSchedule,
        measures: Measures,
        best: Best | None = None,
    ) -> None:
        self.plan = plan
        self.interrupts = interrupts
        self.register = register
        self.schedule = schedule
        self.measures = measures
        self.best = best
        self._finished: int | None = None
        self._inside_epoch = False
        self._waits_for_validation = False
        self._about: dict[str, Any] = {}
        self._last_periodic: Path | None = None
        self._stop = _StopTogether(interrupts)
        self._deferral = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """The best files so far, by name."""
        return {"best": dict(self.best.kept)} if self.best else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best files of the run that is resumed, those that are still there."""
        if self.best:
            kept = state_dict.get("best", {})
            self.best.kept = {
                name: value for name, value in kept.items() if (self.best.folder / name).is_file()
            }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the folder; from here on a signal waits for a place where work can be saved."""
        self._deferral.enter_context(self.interrupts.deferred())
        self._stop.start(trainer)
        if trainer.is_global_zero and self.plan.writes:
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.plan.folder)
            link = self.plan.folder / self.plan.link_name
            self._last_periodic = link.resolve() if link.is_file() else None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the epoch before has left."""
        self._after_epoch(trainer, is_last=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch is done; it is saved once the other hooks have had their turn."""
        self._finished = trainer.current_epoch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last epoch."""
        self._after_epoch(trainer, is_last=True)
        self._stop.finish()
        self._deferral.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Signals count at once again."""
        self._deferral.close()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside an epoch, and stop when asked to."""
        is_last = batch_idx + 1 == trainer.num_training_batches
        if self._stop.agreed(trainer):
            self._save_and_stop(trainer, at_epoch_end=is_last)
        if not is_last and self._is_due(trainer, trainer.current_epoch, batch_idx + 1):
            if self.schedule.is_due(trainer, batch_idx + 1):
                self._waits_for_validation = True
            else:
                self._save_inside(trainer)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop when asked to; the epoch before a validation is kept as if its validation were over."""
        if self.interrupts.received is None or trainer.sanity_checking:
            return
        if trainer.world_size == 1 and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_and_stop(trainer, at_epoch_end=True)
        raise self.interrupts.error()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save inside an epoch, with the numbers of this validation."""
        if self._waits_for_validation:
            self._waits_for_validation = False
            self._save_inside(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what the file is, and leave the progress counters at a clean place."""
        checkpoint["epoch"] = self._about["epoch"]
        checkpoint.setdefault("tao_model", self.plan.network)
        checkpoint["skillbank"] = {"network": self.plan.network, "version": __version__, **self._about}
        # spec and machine paths stay out of files that are passed on
        for name in (
            "hyper_parameters",
            "hparams_name",
            "datamodule_hyper_parameters",
            "datamodule_hparams_name",
        ):
            checkpoint.pop(name, None)
        if not self._inside_epoch:
            _close_epoch(checkpoint["loops"]["fit_loop"])

    def _is_due(self, trainer: pl.Trainer, epoch: int, batches: int) -> bool:
        """Whether an interval is over after so many batches of an epoch."""
        if self.plan.interval <= 0 or not self.plan.writes:
            return False
        per_epoch = int(trainer.num_training_batches)
        if self.plan.unit == "step":
            is_step = batches % trainer.accumulate_grad_batches == 0 or batches == per_epoch
            return is_step and trainer.global_step % int(self.plan.interval) == 0
        return crosses(self.plan.interval, epoch, batches, per_epoch)

    def _after_epoch(self, trainer: pl.Trainer, *, is_last: bool) -> None:
        epoch = self._finished
        if epoch is None:
            return
        is_due = self._is_due(trainer, epoch, int(trainer.num_training_batches))
        step = trainer.global_step if self.plan.unit == "step" else None
        if self.plan.writes:
            name = checkpoint_name(epoch, step)
            self._save(trainer, name, epoch, self.measures.finite(trainer), is_periodic=is_due or is_last)
        self._finished = None

    def _save_inside(self, trainer: pl.Trainer) -> None:
        epoch = trainer.current_epoch
        self._inside_epoch = True
        name = checkpoint_name(epoch, trainer.global_step)
        self._save(trainer, name, epoch, self.measures.finite(trainer), is_periodic=True)
        self._inside_epoch = False

    def _save_and_stop(self, trainer: pl.Trainer, *, at_epoch_end: bool) -> None:
        if self.plan.writes:
            epoch = trainer.current_epoch
            self._inside_epoch = not at_epoch_end
            name = checkpoint_name(epoch, trainer.global_step)
            log.warning("stopping: saving %s first", name)
            # no numbers: those at hand are of an earlier validation, or of one that is not over
            self._save(trainer, name, epoch, {}, is_periodic=True)
        raise self.interrupts.error()

    def _save(
        self, trainer: pl.Trainer, name: str, epoch: int, metrics: dict[str, float], *, is_periodic: bool
    ) -> None:
        """Write one file; a best one that is also periodic shares its content."""
        step = trainer.global_step
        targets = [self.plan.folder / name] if is_periodic else []
        dropped: list[str] = []
        if self.best and (value := self._value_to_keep(trainer, metrics)) is not None:
            best_name = self.best.name(epoch, step, metrics)
            # before the file is written, which lists the best ones itself included
            dropped = self.best.add(best_name, value)
            targets.append(self.best.folder / best_name)
        if not targets:
            return
        self._about = {"epoch": epoch, "step": step, "metrics": metrics}
        trainer.save_checkpoint(targets[0])
        if not trainer.is_global_zero:
            return
        for twin in targets[1:]:
            _share(targets[0], twin)
        for target in targets:
            self.register(target, "checkpoint", epoch=epoch, step=step, metrics=metrics)
        if is_periodic:
            point_to_latest(self.plan.folder / self.plan.link_name, targets[0])
            self._forget_periodic(targets[0])
        for name in dropped:
            assert self.best is not None
            (self.best.folder / name).unlink(missing_ok=True)
        log.info("epoch %d, step %d: saved %s", epoch, step, ", ".join(target.name for target in targets))

    def _value_to_keep(self, trainer: pl.Trainer, metrics: dict[str, float]) -> float | None:
        """What the first process measured, if that is among the best: all processes have to agree."""
        assert self.best is not None
        value = trainer.strategy.broadcast(self.best.would_keep(metrics))
        return None if value is None else float(value)

    def _forget_periodic(self, newest: Path) -> None:
        """Delete the periodic checkpoint before, where only one is wanted."""
        before, self._last_periodic = self._last_periodic, newest
        if self.plan.replace_periodic and before is not None and before != newest:
            before.unlink(missing_ok=True)


class _StopTogether:
    """Lets all processes stop behind the same batch, whichever of them got the signal.

    The flags of a batch are added up while the next one is computed, so nothing waits for them.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def start(self, trainer: pl.Trainer) -> None:
        """Set up the exchange where there are several processes."""
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether all processes stop here."""
        if self._group is None:
            return self._interrupts.received is not None
        is_agreed = False
        if self._pending is not None:
            work, flags = self._pending
            work.wait()
            is_agreed = bool(flags.item())
        flags = torch.tensor([float(self._interrupts.received is not None)])
        self._pending = torch.distributed.all_reduce(flags, group=self._group, async_op=True), flags
        return is_agreed

    def finish(self) -> None:
        """Leave no exchange open."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None


def _close_epoch(fit_loop: dict[str, Any]) -> None:
    """Make the counters say that the epoch is over and the next one has not begun."""
    epochs = fit_loop["epoch_progress"]
    if epochs["current"]["started"] > epochs["current"]["processed"]:
        # taken behind the last batch, before Lightning itself counted it
        fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        for name in ("current", "total"):
            epochs[name]["processed"] += 1
            batches = fit_loop["epoch_loop.batch_progress"][name]
            batches["completed"] = batches["processed"]
    for name in ("current", "total"):
        epochs[name].update(dict.fromkeys(_COUNTS, epochs[name]["processed"]))
    fit_loop["state_dict"].pop("combined_loader", None)


def _share(source: Path, twin: Path) -> None:
    """The same content under a second name, complete from the start."""
    temporary = twin.with_name(f".{twin.name}.{os.getpid()}.part")
    twin.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(twin)
