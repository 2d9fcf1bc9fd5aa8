"""``tao-client``: the older service-style command line of the product documentation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skillbank_runners.cli.table import Table

__all__ = ["main", "table"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    from skillbank_runners.cli.fast import packaged_spec

    text = packaged_spec(words)
    if text is not None:
        from skillbank_runners.cli.pipes import write_through

        return write_through(text)
    from skillbank_runners.cli.app import run

    return run("tao-client", table, words)


def table() -> Table:
    """The commands of ``tao-client``."""
    from skillbank_runners.cli.table import Leaf, Table
    from skillbank_runners.cli.words import Networks

    return Table(
        summary="Specs and jobs of one network, with bare specs and bare job ids on stdout.",
        example="tao-client oneformer get-spec --action train --job_type experiment --id main",
        more=Networks(
            summary="Specs and jobs of {network}.",
            example="tao-client {network} get-spec --action train --job_type experiment --id main",
            verbs={
                "get-spec": Leaf(target="client:get_spec"),
                "experiment-run-action": Leaf(target="client:experiment_run_action"),
                "dataset-run-action": Leaf(target="client:dataset_run_action"),
                "experiment-job-status": Leaf(target="client:job_status"),
                "experiment-job-logs": Leaf(target="client:job_logs"),
                "experiment-job-cancel": Leaf(target="client:job_cancel"),
                "list": Leaf(target="client:list_jobs"),
            },
        ),
    )
