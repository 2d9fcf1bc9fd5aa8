"""What ``--explain`` and ``--dry-run`` show of a plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillbank.plan import Plan

__all__ = ["plan_record", "plan_text"]


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as a record: spec, origins, what waits for the parent, route, devices, command."""
    from skillbank.explain import explain_spec

    return {
        "network": plan.spec.network,
        "action": plan.spec.action,
        "route": plan.decision.route,
        "decision": plan.decision.to_dict(),
        "parent_job_id": plan.parent.id if plan.parent else None,
        "base_experiment_id": plan.base_experiment.id if plan.base_experiment else None,
        "results_dir": plan.results_dir,
        "devices": {
            "gpus": plan.bundle.gpus,
            "gpu_ids": list(plan.bundle.gpu_ids),
            "nodes": plan.bundle.nodes,
        },
        "command": list(plan.bundle.argv),
        "notes": list(plan.notes),
        "deferred": dict(plan.deferred),
        "spec": plan.resolution.nested(),
        "origins": [row.to_dict() for row in explain_spec(plan.spec, plan.deferred)],
    }


def plan_text(plan: Plan) -> str:
    """The plan for people: every value that is no default, with its origin."""
    from skillbank.explain import explain_spec

    lines = [f"{plan.spec.network} {plan.spec.action}: {plan.decision.route}, {plan.decision.reason}"]
    rows = [row for row in explain_spec(plan.spec, plan.deferred) if row.origin != "default" or row.deferred]
    wide = max((len(row.key) for row in rows), default=0)
    for row in rows:
        value = (
            f"later: {plan.deferred[row.key]}" if row.deferred else json.dumps(row.value, ensure_ascii=False)
        )
        lines.append(f"  {row.key:<{wide}}  {value}  ({row.origin}{': ' if row.detail else ''}{row.detail})")
    lines.append(f"  {len(rows)} values are listed; all others are defaults")
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)
