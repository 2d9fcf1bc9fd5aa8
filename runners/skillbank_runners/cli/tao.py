"""``tao``: the service-style and launcher-style command lines of the product documentation."""

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
    from skillbank_runners.cli.fast import packaged_schema

    text = packaged_schema(words)
    if text is not None:
        from skillbank_runners.cli.pipes import write_through

        return write_through(text)
    from skillbank_runners.cli.app import run

    return run("tao", table, words)


def table() -> Table:
    """The commands of ``tao``."""
    from skillbank_runners.cli.actions import popular_settings
    from skillbank_runners.cli.table import Leaf, Table
    from skillbank_runners.cli.words import Networks

    action = Leaf(target="actions:run_action", extra_help=popular_settings)
    verbs = {
        "list-base-experiments": Leaf(target="experiments:list_base_experiments"),
        "get-job-schema": Leaf(target="experiments:get_job_schema"),
        "get-automl-defaults": Leaf(target="experiments:get_automl_defaults"),
        "get-automl-param-details": Leaf(target="experiments:get_automl_param_details"),
        "create-job": Leaf(target="create:create_job"),
        "list-jobs": Leaf(target="jobs:list_jobs"),
        "get-job": Leaf(target="jobs:show_job"),
        "get-job-status": Leaf(target="jobs:job_status"),
        "get-job-logs": Leaf(target="jobs:job_logs"),
        "wait-job": Leaf(target="jobs:wait_job"),
        "cancel-job": Leaf(target="jobs:cancel_job"),
        "delete-job": Leaf(target="jobs:delete_job"),
        "list-artifacts": Leaf(target="jobs:list_artifacts"),
    }
    return Table(
        summary="Jobs, specs and schemas of one network, or a job run in the foreground.",
        example="tao mask2former list-base-experiments",
        commands={
            "model": Table(
                summary="Run an action of a network in the foreground.",
                example="tao model mask2former train -e spec.yaml results_dir=out",
                more=Networks(
                    summary="Actions of {network}, run in the foreground.",
                    example="tao model {network} train -e spec.yaml results_dir=out",
                    action=action,
                ),
            ),
            "cluster": Table(
                summary="What jobs may be given here.",
                example="tao cluster nodes",
                commands={"nodes": Leaf(target="machine:cluster_nodes")},
            ),
        },
        more=Networks(
            summary="Jobs, specs and schemas of {network}; an action's name runs it in the foreground.",
            example="tao {network} get-job-schema --action train",
            verbs=verbs,
            action=action,
        ),
    )
