"""What jobs do, written once for all networks; an implementation adds actions and may replace single ones."""

from __future__ import annotations

import logging
from collections.abc import Callable

from skillbank.errors import RuntimeMissingError
from skillbank_runners import randomness
from skillbank_runners.actions.context import Running
from skillbank_runners.actions.evaluate import evaluate
from skillbank_runners.actions.inference import inference
from skillbank_runners.actions.outputs import register_outputs
from skillbank_runners.actions.train import train
from skillbank_runners.trainer import prepare_process

__all__ = ["SHARED", "Running", "run_action"]

log = logging.getLogger(__name__)

SHARED: dict[str, Callable[[Running], None]] = {"train": train, "evaluate": evaluate, "inference": inference}


def run_action(job: Running) -> None:
    """Run an action on this process: the network's own form of it, else the shared one.

    Raises:
        RuntimeMissingError: neither exists.
    """
    own, shared = job.implementation.actions.get(job.action), SHARED.get(job.action)
    if own is None and shared is None:
        have = sorted({*SHARED, *job.implementation.actions})
        raise RuntimeMissingError(
            f"{job.network} cannot {job.action} here: its implementation offers {', '.join(have)}",
            hint="pip install --upgrade 'skillbank[runtime]'",
            key="action",
            value=job.action,
            allowed=have,
        )
    prepare_process(job.spec, job.host)
    randomness.seed_everything(job.host.rank.seed)
    if shared is not None:
        job.shared = lambda: shared(job)
    if own is not None:
        own(job.spec, job)
    else:
        job.run_shared()
    register_outputs(job)
