"""``skillbank``: the bank itself - skills, specs, data, jobs, generated files, what this machine can do."""

from __future__ import annotations

from collections.abc import Sequence

from skillbank_runners.cli.table import Leaf, Table

__all__ = ["main", "table"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    from skillbank_runners.cli.app import run

    return run("skillbank", table, argv)


def table() -> Table:
    """The commands of ``skillbank``; a new group is a new entry here."""
    return Table(
        summary="Skills, specs, data and jobs of the bank.",
        example="skillbank networks",
        commands={
            "networks": Leaf(target="bank:list_networks"),
            "schema": Leaf(target="experiments:schema"),
            "spec": Table(
                summary="Write, check and understand specs.",
                example="skillbank spec template mask2former train",
                commands={
                    "template": Leaf(target="specs:template"),
                    "validate": Leaf(target="specs:validate"),
                    "explain": Leaf(target="specs:explain"),
                    "keys": Leaf(target="specs:keys"),
                },
            ),
            "overrides": Leaf(target="data:overrides"),
            "policy": Leaf(target="create:policy"),
            "run": Leaf(target="create:run"),
            "automl": Table(
                summary="Search hyper-parameters.",
                example="skillbank automl space mask2former",
                commands={
                    "run": Leaf(target="automl:run"),
                    "show": Leaf(target="automl:show"),
                    "space": Leaf(target="automl:space"),
                    "metrics": Leaf(target="automl:metrics"),
                },
            ),
            "jobs": Table(
                summary="Watch, stop and inspect jobs.",
                example="skillbank jobs list",
                commands={
                    "list": Leaf(target="jobs:list_jobs"),
                    "show": Leaf(target="jobs:show_job"),
                    "status": Leaf(target="jobs:job_status"),
                    "logs": Leaf(target="jobs:job_logs"),
                    "watch": Leaf(target="jobs:watch_job"),
                    "wait": Leaf(target="jobs:wait_job"),
                    "cancel": Leaf(target="jobs:cancel_job"),
                    "artifacts": Leaf(target="jobs:list_artifacts"),
                    "history": Leaf(target="jobs:job_history"),
                    "delete": Leaf(target="jobs:delete_job"),
                },
            ),
            "data": Table(
                summary="Check, fetch, upload and make data.",
                example="skillbank data fetch https://example.org/labels.json",
                commands={
                    "check": Leaf(target="data:check"),
                    "fetch": Leaf(target="data:fetch"),
                    "upload": Leaf(target="data:upload"),
                    "make": Leaf(target="data_make:make"),
                },
            ),
            "weights": Table(
                summary="Weight files of other programs.",
                example="skillbank weights inspect model_final.pkl",
                commands={
                    "inspect": Leaf(target="weights:inspect"),
                    "convert": Leaf(target="weights:convert"),
                },
            ),
            "skills": Table(
                summary="The skills of the bank.",
                example="skillbank skills list",
                commands={
                    "list": Leaf(target="skills:list_skills"),
                    "show": Leaf(target="skills:show_skill"),
                    "path": Leaf(target="skills:skill_path"),
                    "validate": Leaf(target="skills:validate"),
                },
            ),
            "generate": Leaf(target="bank:generate"),
            "doctor": Leaf(target="machine:doctor"),
            "errors": Leaf(target="bank:list_errors"),
            "reference": Leaf(target="bank:reference"),
        },
    )
