"""A further process of a job: it gets the settled spec from the worker, and says why when it fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from skillbank.errors import SkillBankError
from skillbank.jobs.files import write_json
from skillbank.jobs.status import StatusWriter
from skillbank_runners.execution import run_here
from skillbank_runners.failures import explain, tells_all
from skillbank_runners.interrupts import Interrupts
from skillbank_runners.placement import Placement
from skillbank_runners.ranks import fail_file, read_rank, watch_parent
from skillbank_runners.redaction import Redactor
from skillbank_runners.talk import talking

__all__ = ["run_rank"]

log = logging.getLogger("skillbank_runners.worker")


def run_rank(folder: Path, file: Path) -> int:
    """Run one process of a job; its exit code is that of the error it ended with.

    Args:
        folder: the job's folder.
        file: what the worker left for this process.
    """
    rank, plan = read_rank(file)
    redactor, interrupts = Redactor(), Interrupts()
    placement = plan.pop("placement")
    for name in ("ids", "notes"):
        placement[name] = tuple(placement[name])
    status = StatusWriter(
        Path(plan["folder"]) / "status.json", job_id=plan["job_id"], component="", rank=rank.number
    )
    memory_keys: list[str] = []
    with talking(redactor, process=rank.number), interrupts.installed():
        watch_parent(plan.pop("parent"))
        try:
            run_here(
                plan,
                Placement(**placement),
                rank,
                status=status,
                interrupts=interrupts,
                record=_record_nothing,
                on_loaded=lambda found: memory_keys.extend(found.memory_keys),
            )
        except (Exception, KeyboardInterrupt) as err:
            error = explain(err, plan["spec"], plan["action"], memory_keys)
            if not isinstance(err, SkillBankError) and not tells_all(error):
                log.error("process %d failed", rank.number, exc_info=err)
            write_json(fail_file(folder, rank.number), redactor.clean(error.to_dict()))
            return error.exit_code
    return 0


def _record_nothing(
    path: Path,
    kind: str,
    *,
    epoch: int | None = None,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """The first process records."""
    raise AssertionError(f"process 0 registers artifacts, not this one: {path}")
