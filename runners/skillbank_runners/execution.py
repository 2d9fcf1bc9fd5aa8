"""The heavy part of a job, on the worker and its further processes: the implementation is imported here."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import RuntimeMissingError, SkillBankError
from skillbank.jobs.status import StatusWriter
from skillbank.skill_info import load_skill_info
from skillbank.specs import network, spec_class
from skillbank_runners.interrupts import Interrupts
from skillbank_runners.placement import Placement
from skillbank_runners.ranks import Rank, RankFailure, Ranks

if TYPE_CHECKING:
    from skillbank_models.protocol import Implementation
    from skillbank_runners.saving import Register

__all__ = ["execute", "load_implementation", "run_here"]

log = logging.getLogger(__name__)

# A process often sees the broken connection to a failed one before that one has said why it failed.
_REASON_AFTER_S = 5.0


def load_implementation(name: str) -> Implementation:
    """The implementation of a network; imports torch.

    Raises:
        RuntimeMissingError: it is not there, or something it needs is not.
    """
    found = network(name)
    try:
        implementation: Implementation = importlib.import_module(found.impl).NETWORK
    except (ImportError, AttributeError) as err:
        raise RuntimeMissingError(
            f"{name}: its implementation {found.impl} cannot be used ({err})",
            hint="pip install -c constraints.txt 'skillbank[runtime]'",
            key=found.impl,
        ) from err
    return implementation


def execute(
    plan: Mapping[str, Any],
    placement: Placement,
    *,
    folder: Path,
    status: StatusWriter,
    interrupts: Interrupts,
    record: Register,
    on_lost: Callable[[SkillBankError], int],
    on_loaded: Callable[[Implementation], None],
) -> None:
    """Run the action of a job, on as many processes as its devices ask for.

    Args:
        plan: see `run_here`.
        placement: devices of the job.
        folder: the job's folder.
        status: the job's status channel.
        interrupts: how the job is asked to stop.
        record: registers an artifact.
        on_lost: records a failure and returns the exit code; called in another thread, when a process is gone
            and the worker hangs in an exchange with it.
        on_loaded: given the implementation once it is imported.

    Raises:
        SkillBankError: what ended it, also when that was another process.
    """

    def lost(failure: RankFailure) -> None:
        error = failure.to_error()
        log.error("%s; this process does not answer either, so the job ends here", error.message)
        os._exit(on_lost(error))

    ranks = Ranks(
        folder, {**plan, "placement": asdict(placement)}, _first_rank(plan["spec"], placement), lost
    )
    with ranks.running():
        try:
            run_here(
                plan,
                placement,
                ranks.first,
                status=status,
                interrupts=interrupts,
                record=record,
                on_loaded=on_loaded,
            )
        except SkillBankError:
            raise
        except Exception as err:
            failure = ranks.failure(patience_s=_REASON_AFTER_S if placement.processes > 1 else 0.0)
            if failure is None:
                raise
            raise failure.to_error() from err


def run_here(
    plan: Mapping[str, Any],
    placement: Placement,
    rank: Rank,
    *,
    status: StatusWriter,
    interrupts: Interrupts,
    record: Register,
    on_loaded: Callable[[Implementation], None] | None = None,
) -> None:
    """Run the action on this process.

    Args:
        plan: ``job_id``, ``network``, ``action``, ``folder`` of the action, and the nested ``spec``.
    """
    implementation = load_implementation(plan["network"])
    if on_loaded is not None:
        on_loaded(implementation)
    from skillbank_runners.actions import Running, run_action
    from skillbank_runners.trainer import Host

    found, action = network(plan["network"]), plan["action"]
    run_action(
        Running(
            network_facts=found,
            implementation=implementation,
            info=load_skill_info(found).actions[action],
            spec=spec_class(found.name, action).model_validate(plan["spec"]),
            nested=plan["spec"],
            action=action,
            job_id=plan["job_id"],
            folder=Path(plan["folder"]),
            host=Host(placement=placement, rank=rank),
            status=status,
            interrupts=interrupts,
            record=record,
        )
    )


def _first_rank(spec: Mapping[str, Any], placement: Placement) -> Rank:
    """The worker's own place, and the seed of the run."""
    train = spec.get("train")
    seed = train.get("seed") if isinstance(train, Mapping) else None
    rank = Rank(per_node=placement.processes, node=placement.node_rank, nodes=placement.nodes)
    if placement.nodes > 1:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        rank = replace(rank, address=address, port=port)
    if not isinstance(seed, int) or seed < 0:
        from skillbank_runners import randomness

        # all nodes have to draw the same
        together = placement.nodes > 1
        seed = randomness.derive(rank.port, rank.address) if together else randomness.draw_seed()
    return replace(rank, seed=seed)
