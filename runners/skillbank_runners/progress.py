"""What a run measures, and what is said of it while it goes on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch

from skillbank_models.protocol import KpiWriter

__all__ = ["Measures", "Progress", "measured"]

log = logging.getLogger(__name__)


def measured(trainer: pl.Trainer) -> dict[str, float]:
    """All single numbers that were logged, by name.

    A number that is logged per step and per epoch comes under three names; the plain one is kept.
    """
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
    forked = {f"{name}{ending}" for name in values for ending in ("_step", "_epoch")}
    return {name: values[name] for name in sorted(values.keys() - forked)}


class Measures(pl.Callback):
    """Tells numbers of the weights as they are from those of an earlier validation."""

    def __init__(self) -> None:
        self._of_validation: set[str] = set()
        self._before: dict[str, torch.Tensor] = {}
        self._is_validated = False

    def now(self, trainer: pl.Trainer) -> dict[str, float]:
        """The numbers that hold now; those of a validation only until the weights change."""
        values = measured(trainer)
        if self._is_validated:
            return values
        return {name: value for name, value in values.items() if name not in self._of_validation}

    def finite(self, trainer: pl.Trainer) -> dict[str, float]:
        """`now` without what is not a number or infinite."""
        return {name: value for name, value in self.now(trainer).items() if math.isfinite(value)}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The weights are about to change."""
        self._is_validated = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is there already."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what validation has added or measured anew."""
        found = trainer.callback_metrics
        self._of_validation |= {name for name in found if found[name] is not self._before.get(name)}
        self._is_validated = True


class Progress(pl.Callback):
    """Writes an event per epoch and per validation inside one, and a sign of life in long epochs.

    Args:
        status: the job's status channel.
        measures: gives the numbers.
        every_s: shortest time between two signs of life.
        verbose: log the learning rate of every parameter group.
        clock: gives seconds.
    """

    def __init__(
        self,
        status: KpiWriter,
        measures: Measures,
        *,
        every_s: float = 10.0,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._measures = measures
        self._every_s = every_s
        self._verbose = verbose
        self._clock = clock
        self._epoch_began = self._said = clock()
        self._batches = 0
        self._finished: int | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch before, when all its hooks had their turn, and start the watch."""
        self._report_epoch(trainer)
        self._epoch_began = self._said = self._clock()
        self._batches = 0
        if self._verbose:
            for number, group in enumerate(group for opt in trainer.optimizers for group in opt.param_groups):
                name = group.get("name", f"group {number}")
                log.info("epoch %d: learning rate of %s is %g", trainer.current_epoch + 1, name, group["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far a long epoch is."""
        now = self._clock()
        self._batches += 1
        if now - self._said < self._every_s:
            return
        self._said = now
        batches = int(trainer.num_training_batches)
        left = batches - batch_idx - 1 + batches * (_last_epoch(trainer) - trainer.current_epoch)
        self._say(
            trainer,
            f"epoch {trainer.current_epoch + 1}: {batch_idx + 1} of {batches} batches",
            cur_iter=batch_idx + 1,
            eta=_clock_text((now - self._epoch_began) / self._batches * left),
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report a validation inside an epoch; that at its end is part of the epoch's event."""
        batches = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.state.fn == "fit" and not batches.is_last_batch:
            done = int(batches.current.ready)
            message = f"epoch {trainer.current_epoch + 1}: validation after {done} batches"
            self._say(trainer, message, cur_iter=done)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch is done."""
        self._finished = trainer.current_epoch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the last epoch."""
        self._report_epoch(trainer)

    def _report_epoch(self, trainer: pl.Trainer) -> None:
        epoch, self._finished = self._finished, None
        if epoch is None:
            return
        took = self._clock() - self._epoch_began
        last = _last_epoch(trainer)
        kpi = self._say(
            trainer,
            f"epoch {epoch + 1} of {last + 1} done",
            epoch=epoch,
            time_per_epoch=_clock_text(took),
            eta=_clock_text(took * (last - epoch)),
        )
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in kpi.items())
        log.info("epoch %d of %d in %s: %s", epoch + 1, last + 1, _clock_text(took), numbers)

    def _say(self, trainer: pl.Trainer, message: str, **fields: Any) -> dict[str, float]:
        kpi = self._measures.now(trainer)
        general = {
            "epoch": trainer.current_epoch,
            "max_epoch": _last_epoch(trainer),
            "global_step": trainer.global_step,
        }
        self._status.metrics(kpi, message=message, **{**general, **fields})
        return kpi


def _last_epoch(trainer: pl.Trainer) -> int:
    return (trainer.max_epochs or 1) - 1


def _clock_text(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
