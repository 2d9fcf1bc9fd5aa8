"""What ``--explain`` and ``--dry-run`` show of a plan."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from skillbank_runners.cli.output import chosen, emit, visible, write

if TYPE_CHECKING:
    from skillbank.automl.space import Axis
    from skillbank.explain import Row
    from skillbank.plan import Plan

__all__ = ["axis_record", "plan_record", "plan_text", "show_plan", "terminal_width", "value_lines"]

_NARROWEST = 40


def show_plan(plan: Plan, *, explained: bool, output: str | None) -> None:
    """Print the plan on stdout: sections for people, a record for programs."""
    if chosen(output) == "table":
        write(plan_text(plan, explained=explained, width=terminal_width()))
    else:
        emit(plan_record(plan, explained=explained), output, name="network")


def terminal_width() -> int:
    """Columns to fill; 80 where no terminal tells."""
    return max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)


def plan_record(plan: Plan, *, explained: bool = True) -> dict[str, Any]:
    """The plan as a record.

    Args:
        explained: adds the origin of every value.
    """
    from skillbank.explain import explain_spec

    record: dict[str, Any] = {
        "network": plan.spec.network,
        "action": plan.spec.action,
        "route": plan.decision.route,
        "decision": plan.decision.to_dict(),
        "parent_job_id": plan.parent.id if plan.parent else None,
        "base_experiment_id": plan.base_experiment.id if plan.base_experiment else None,
        "results_dir": _results(plan),
        "devices": {
            "gpus": plan.bundle.gpus,
            "gpu_ids": list(plan.bundle.gpu_ids),
            "nodes": plan.bundle.nodes,
        },
        "command": list(plan.bundle.argv),
        "notes": list(plan.notes),
        "deferred": dict(plan.deferred),
        "spec": plan.resolution.nested(),
    }
    if plan.decision.route == "automl":
        record["automl"] = _search(plan)
    if explained:
        record["origins"] = [row.to_dict() for row in explain_spec(plan.spec, plan.deferred)]
    return record


def _results(plan: Plan) -> str:
    return plan.results_dir or str(plan.bundle.folder / "results")


def _search(plan: Plan) -> dict[str, Any]:
    """Settings, objective and space of the search that the plan starts.

    Raises:
        SpecError: a search that could not start.
    """
    from skillbank.automl.search import objective
    from skillbank.automl.settings import read_settings
    from skillbank.automl.space import search_space

    settings = read_settings(plan.request.policy.get("settings", {}))
    nested = plan.spec.nested()
    metric = objective(plan.spec.network, nested, settings)
    return {
        "algorithm": settings.algorithm,
        "trials": settings.trials,
        "concurrent": settings.concurrent,
        "max_hours": settings.max_hours,
        "patience": settings.patience,
        "seed": settings.seed,
        "metric": metric.name,
        "direction": metric.direction,
        "space": [
            axis_record(axis)
            for axis in search_space(plan.spec.network, nested, keys=settings.keys, overrides=settings.ranges)
        ],
    }


def axis_record(axis: Axis) -> dict[str, Any]:
    """A searched key with its first value and its options, or its bounds and scale."""
    from skillbank.automl.space import Choices

    if isinstance(axis.domain, Choices):
        return {"key": axis.key, "first": axis.default, "choices": list(axis.domain.values)}
    return {
        "key": axis.key,
        "first": axis.default,
        "low": axis.domain.low,
        "high": axis.domain.high,
        "scale": "log" if axis.domain.log else "linear",
    }


def plan_text(plan: Plan, *, explained: bool = False, width: int = 80) -> str:
    """The plan for people, in sections: values that are no defaults with origin, `explained` all others too.

    Args:
        width: columns to fit; paths and keys are never broken.
    """
    from skillbank.explain import explain_spec

    rows = explain_spec(plan.spec, plan.deferred)
    named = [row for row in rows if row.origin != "default" or row.deferred]
    others = [row for row in rows if row.origin == "default" and not row.deferred]
    lines = [
        f"{plan.spec.network} {plan.spec.action}",
        *_fact("route", f"{plan.decision.route}: {plan.decision.reason}", width),
        *_fact("parent", plan.parent.id if plan.parent else "", width),
        *_fact("starts from", plan.base_experiment.id if plan.base_experiment else "", width),
        *_fact("devices", _devices(plan), width),
        *_fact("results", _results(plan), width),
    ]
    if plan.decision.route == "automl":
        lines += _section("Search", _search_lines(plan, width))
    files = [
        line
        for item in plan.resolution.expected
        for line in _entry(item.key, item.uri, "optional" if item.optional else "", width)
    ]
    lines += _section("Data files", files)
    lines += _section("Values that are no defaults", value_lines(named, plan.deferred, width))
    if explained:
        lines += _section("Defaults", value_lines(others, plan.deferred, width))
    else:
        lines += ["", f"{len(others)} more values are defaults; --explain lists them"]
    lines += _section("Notes", [line for note in plan.notes for line in _folded(note, width)])
    return "\n".join(visible(line) for line in lines)


def _devices(plan: Plan) -> str:
    bundle = plan.bundle
    nodes = f" on {bundle.nodes} nodes" if bundle.nodes > 1 else ""
    if not bundle.gpus:
        return f"CPU{nodes}"
    ids = ", ".join(str(number) for number in bundle.gpu_ids)
    return f"{bundle.gpus} GPU{'s' if bundle.gpus > 1 else ''} ({ids}){nodes}"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", *lines] if lines else []


def _fact(name: str, text: str, width: int) -> list[str]:
    if not text:
        return []
    first, *more = _wrapped(text, width - 14)
    return [f"  {name:<12}{first}", *(f"{'':14}{line}" for line in more)]


def _search_lines(plan: Plan, width: int) -> list[str]:
    search = _search(plan)
    way = {"max": "highest", "min": "lowest"}.get(search["direction"], search["direction"])
    told = f"{search['algorithm']}, {search['trials']} trials, {search['concurrent']} at once"
    lines = [*_fact("how", told, width), *_fact("objective", f"{way} {search['metric']}", width)]
    for axis in search["space"]:
        domain = (
            "one of " + ", ".join(json.dumps(value) for value in axis["choices"])
            if "choices" in axis
            else f"{axis['low']:g} to {axis['high']:g}, {axis['scale']}"
        )
        lines += _entry(axis["key"], domain, f"first {json.dumps(axis['first'])}", width)
    return lines


def value_lines(rows: Iterable[Row], deferred: Mapping[str, str], width: int) -> list[str]:
    """Key, value and origin of every row, indented; defaults carry no origin."""
    lines: list[str] = []
    for row in rows:
        value = f"later: {deferred[row.key]}" if row.deferred else json.dumps(row.value, ensure_ascii=False)
        origin = "" if row.origin == "default" else row.origin + (f": {row.detail}" if row.detail else "")
        lines += _entry(row.key, value, origin, width)
    return lines


def _entry(key: str, value: str, remark: str, width: int) -> list[str]:
    """Key, value and remark on one line where they fit, else below each other."""
    tail = f"  ({remark})" if remark else ""
    line = f"  {key} = {value}{tail}"
    if len(line) <= width:
        return [line]
    head, *rest = _wrapped(f"{key} = {value}", width - 6)
    lines = [f"  {head}", *(f"      {line}" for line in rest)]
    return lines + [f"      {line}" for line in (_wrapped(f"({remark})", width - 6) if remark else [])]


def _folded(text: str, width: int) -> list[str]:
    first, *more = _wrapped(text, width - 4)
    return [f"  {first}", *(f"    {line}" for line in more)]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
