"""When training validates and when it ends, where Lightning's own settings are too coarse."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytorch_lightning as pl

__all__ = ["StepLimit", "ValidationSchedule", "crosses"]

_NEVER = sys.maxsize


class ValidationSchedule(pl.Callback):
    """Validates every so many epochs, also fractions of one, and always at the end.

    Args:
        interval: epochs between validations, above 0.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval

    @property
    def is_inside(self) -> bool:
        """Whether validations may fall inside an epoch."""
        return self.interval != int(self.interval)

    def is_due(self, trainer: pl.Trainer, batches: int) -> bool:
        """Whether a validation follows so many batches of the current epoch, before its end."""
        if not self.is_inside or not trainer.enable_validation:
            return False
        per_epoch = int(trainer.num_training_batches)
        return crosses(self.interval, trainer.current_epoch, batches, per_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the last epoch validated whatever the interval."""
        is_last = trainer.current_epoch == (trainer.max_epochs or 1) - 1
        trainer.check_val_every_n_epoch = 1 if is_last or self.is_inside else int(self.interval)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell Lightning whether this batch is followed by a validation."""
        if self.is_inside:
            at_end = batch_idx + 1 == trainer.num_training_batches
            is_last = at_end and trainer.current_epoch == (trainer.max_epochs or 1) - 1
            trainer.val_check_batch = 1 if is_last or self.is_due(trainer, batch_idx + 1) else _NEVER


class StepLimit(pl.Callback):
    """Ends training after a number of optimiser steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind the last step."""
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


def crosses(interval: float, epoch: int, batches: int, per_epoch: int) -> bool:
    """Whether a multiple of so many epochs is reached with this batch, counted from the start of training.

    Args:
        batches: batches of the epoch that are done, at least 1.
        per_epoch: batches of an epoch.
    """
    done = epoch * per_epoch + batches
    return _multiples(done, interval * per_epoch) > _multiples(done - 1, interval * per_epoch)


def _multiples(done: int, interval: float) -> int:
    # the small number makes up for intervals such as 0.1 that have no exact binary form
    return math.floor(done / interval + 1e-9)
