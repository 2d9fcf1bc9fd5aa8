"""Evaluation: weights of a checkpoint, numbers to the status channel, a JSON file and a table."""

from __future__ import annotations

import logging

from skillbank_runners.actions.context import Running
from skillbank_runners.data import DataOrder, arrange
from skillbank_runners.progress import measured
from skillbank_runners.trainer import build_trainer

__all__ = ["evaluate"]

log = logging.getLogger(__name__)


def evaluate(job: Running) -> None:
    """Run the test loop of the module on the data module's test loader, and report all numbers it logged."""
    module = job.implementation.build_module(job.spec)
    checkpoint = job.load_model(module)
    data = job.implementation.build_data(job.spec)
    order = DataOrder(seed=job.host.rank.seed, rank=job.rank, world=job.world)
    arrange(data, order)
    extra = job.implementation.callbacks(job.spec) if job.implementation.callbacks else ()
    trainer = build_trainer(job.spec, job, job.host, callbacks=extra)
    job.status.running(f"evaluating {checkpoint}")
    trainer.test(module, datamodule=data, verbose=False)
    job.write_metrics(measured(trainer), checkpoint=str(checkpoint))
    job.register_left_by(module)
