"""A table that people read in a log: totals on top, then one row for each class that occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["class_table"]

SHARES = ("PRQ", "RSQ", "RRQ", "PQ", "SQ", "RQ", "AP", "AP50", "IoU", "ACC")
COUNTS = ("TP", "FP", "FN", "instances", "pixels")
TOTAL_LINES = (
    ("PQ", "SQ", "RQ"),
    ("PQ_th", "SQ_th", "RQ_th"),
    ("PQ_st", "SQ_st", "RQ_st"),
    ("AP", "AP50", "AP75"),
    ("APs", "APm", "APl"),
    ("AR1", "AR10", "AR100"),
    ("mIoU", "ACC_all", "mACC", "fwIoU"),
    ("PRQ", "RSQ", "RRQ"),
    ("PRQ_things", "RSQ_things", "RRQ_things"),
    ("PRQ_stuff", "RSQ_stuff", "RRQ_stuff"),
)
WIDTH = 6  # "100.00"


def class_table(
    kpi: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    *,
    images: int,
    percent: float = 100.0,
    totals: Sequence[Sequence[str]] = TOTAL_LINES,
    more_shares: Sequence[str] = (),
) -> str:
    """Text of both parts; all shares in percent.

    Args:
        kpi: totals.
        rows: see `SegmentationMeasures.per_class`; rows in which no share is a number are left out.
        images: how many were counted.
        percent: what turns numbers into percent; 1 when they are.
        totals: names of totals, line by line; those that `kpi` lacks are left out.
        more_shares: names of further shares in the rows.
    """
    shares = (*SHARES, *more_shares)
    shown = [row for row in rows if any(row.get(name) is not None for name in shares)]
    lines = [f"{images} images, {len(shown)} of {len(rows)} classes occur; percent"]
    for names in totals:
        cells = [f"{name:<7} {percent * kpi[name]:{WIDTH}.2f}" for name in names if name in kpi]
        if cells:
            lines.append("  " + "   ".join(cells))
    if not shown:
        return "\n".join(lines)
    columns = [name for name in (*shares, *COUNTS) if any(row.get(name) is not None for row in shown)]
    head = ["class", "", *columns]
    body = [
        [str(row["name"]), _kind(row), *(_cell(row.get(name), percent) for name in columns)] for row in shown
    ]
    widths = [max(len(line[place]) for line in (head, *body)) for place in range(len(head))]
    for line in (head, ["-" * width for width in widths], *body):
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def _kind(row: Mapping[str, Any]) -> str:
    return "thing" if row.get("thing") else "stuff"


def _cell(value: float | int | None, percent: float) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{percent * value:.2f}"
