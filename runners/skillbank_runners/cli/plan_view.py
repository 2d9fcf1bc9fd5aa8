"""What ``--explain`` and ``--dry-run`` show of a plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skillbank_runners.cli.specs import origin_rows

if TYPE_CHECKING:
    from skillbank.plan import Plan

__all__ = ["plan_record", "plan_text"]


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as a record: spec, origins, what waits for the parent, route, devices, command."""
    return {
        "network": plan.spec.network,
        "action": plan.spec.action,
        "route": plan.decision.route,
        "decision": plan.decision.to_dict(),
        "parent_job_id": plan.parent.id if plan.parent else None,
        "base_experiment_id": plan.base_experiment.id if plan.base_experiment else None,
        "results_dir": plan.results_dir,
        "devices": {"gpus": plan.bundle.gpus, "gpu_ids": list(plan.bundle.gpu_ids), "nodes": plan.bundle.nodes},
        "command": list(plan.bundle.argv),
        "notes": list(plan.notes),
        "deferred": dict(plan.deferred),
        "spec": plan.resolution.nested(),
        "origins": _rows(plan),
    }


def _rows(plan: Plan) -> list[dict[str, Any]]:
    """Origins, with what is still open named as such."""
    rows = origin_rows(plan.spec)
    for row in rows:
        if row["key"] in plan.deferred:
            row.update(value=None, origin="parent", detail=f"later: {plan.deferred[row['key']]}")
    return rows


def plan_text(plan: Plan) -> str:
    """The plan for people: every value that is no default, with its origin."""
    lines = [f"{plan.spec.network} {plan.spec.action}: {plan.decision.route}, {plan.decision.reason}"]
    rows = [row for row in _rows(plan) if row["origin"] != "default"]
    wide = max((len(row["key"]) for row in rows), default=0)
    lines += [
        f"  {row['key']:<{wide}}  {json.dumps(row['value'], ensure_ascii=False)}  ({row['origin']}"
        + (f": {row['detail']})" if row["detail"] else ")")
        for row in rows
    ]
    lines.append(f"  everything else is the default; {len(rows)} values are not")
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)
