"""Inference: the module writes its results into the action's folder, batch by batch."""

from __future__ import annotations

import logging
import warnings

from skillbank_runners.actions.context import Running
from skillbank_runners.data import DataOrder, arrange
from skillbank_runners.trainer import build_trainer

__all__ = ["inference"]

log = logging.getLogger(__name__)


def inference(job: Running) -> None:
    """Run the predict loop of the module on the predict loader; nothing is gathered in memory."""
    module = job.implementation.build_module(job.spec)
    checkpoint = job.load_model(module)
    data = job.implementation.build_data(job.spec)
    arrange(data, DataOrder(seed=job.host.rank.seed, rank=job.rank, world=job.world))
    extra = job.implementation.callbacks(job.spec) if job.implementation.callbacks else ()
    trainer = build_trainer(job.spec, job, job.host, callbacks=extra)
    job.status.running(f"running {checkpoint}")
    with warnings.catch_warnings():
        # a module that writes its results has nothing to return
        warnings.filterwarnings("ignore", message="predict returned None")
        trainer.predict(module, datamodule=data, return_predictions=False)
    job.register_left_by(module)
