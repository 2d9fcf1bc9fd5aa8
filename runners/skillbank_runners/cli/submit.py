"""From options to a job: what `create-job`, `run`, the launcher form and `tao-client` have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import UsageError
from skillbank_runners.cli.job_view import job_record
from skillbank_runners.cli.output import emit, talk

if TYPE_CHECKING:
    from skillbank.jobs.record import Job

__all__ = ["Submission", "announce", "create", "explain", "submit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job as the command line asks for it.

    Attributes:
        settings: ``KEY=VALUE`` words.
        env: ``NAME=VALUE`` words.
        automl_policy: ``off`` for commands that mean plain training unless told otherwise.
    """

    network: str
    action: str
    specs: str | None = None
    settings: Sequence[str] = ()
    kind: str = "experiment"
    name: str | None = None
    description: str = ""
    tags: Sequence[str] = ()
    workspace_id: str | None = None
    experiment_id: str | None = None
    train: Sequence[str] = ()
    eval: str | None = None
    inference: str | None = None
    calibration: str | None = None
    dataset_format: str | None = None
    parent_job_id: str | None = None
    base_experiment_id: str | None = None
    checkpoint: str = "best"
    encryption_key: str | None = None
    env: Sequence[str] = ()
    backend: str = "local"
    platform_id: str | None = None
    automl_policy: str | None = "off"
    automl_settings: str | None = None
    request_text: str | None = None
    idempotency_key: str | None = None
    check_data: bool = False
    keep_results_dir: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `skillbank.create.create_job`.

        Raises:
            UsageError: an option that cannot be read.
        """
        from skillbank.jobs.record import Datasets

        converts = self.action == "dataset_convert"
        datasets = Datasets(
            train=() if converts else tuple(self.train),
            eval=self.eval,
            inference=self.inference,
            calibration=self.calibration,
            convert=self.train[0] if converts and self.train else None,
            format=self.dataset_format,
        )
        return {
            "specs": self.specs,
            "overrides": list(self.settings),
            "datasets": datasets,
            "parent_job_id": self.parent_job_id,
            "base_experiment_id": self.base_experiment_id,
            "checkpoint": self.checkpoint,
            "automl_policy": self.policy(),
            "automl_settings": settings_map(self.automl_settings) or None,
            "request_text": self.request_text,
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "tags": tuple(self.tags),
            "workspace_id": self.workspace_id,
            "experiment_id": self.experiment_id,
            "encryption_key": self.encryption_key,
            "idempotency_key": self.idempotency_key,
            "launcher": self.backend,
            "env": variables(self.env),
            "keep_results_dir": self.keep_results_dir,
            "check_data": self.check_data,
        }

    def policy(self) -> str | None:
        """The AutoML policy; `automl_enabled` in the settings speaks where no policy was given.

        Raises:
            UsageError: settings that are no JSON map.
        """
        enabled = settings_map(self.automl_settings).get("automl_enabled")
        if isinstance(enabled, bool) and self.automl_policy in (None, "off"):
            return "on" if enabled else "off"
        return self.automl_policy


def settings_map(text: str | None) -> dict[str, Any]:
    """The map behind ``--automl-settings``.

    Raises:
        UsageError: neither JSON text nor ``@FILE`` with a map.
    """
    if text is None:
        return {}
    try:
        content = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        found = json.loads(content)
    except (OSError, ValueError) as err:
        raise UsageError(
            f"--automl-settings: cannot be read: {err}",
            hint='--automl-settings \'{"automl_algorithm": "bayesian"}\' or @settings.json',
            key="--automl-settings",
        ) from err
    if not isinstance(found, dict):
        raise UsageError(
            "--automl-settings: not a map",
            hint="--automl-settings '{\"trials\": 8}'",
            key="--automl-settings",
        )
    return found


def variables(words: Sequence[str]) -> dict[str, str]:
    """Variables of a job from ``--env``.

    Raises:
        UsageError: a word that is not ``NAME=VALUE``.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(
                f"--env: {name!r} is not of the form NAME=VALUE", hint="--env OMP_NUM_THREADS=1", key="--env"
            )
        found[name] = value
    return found


def create(asked: Submission) -> Job:
    """Check, record and launch the job.

    Raises:
        SkillBankError: whatever is wrong with spec, data, parents or backend.
    """
    from skillbank.create import create_job

    if asked.platform_id and asked.backend == "local":
        talk(f"note: --platform-id {asked.platform_id} is not used: local jobs run on this machine")
    job = create_job(asked.network, asked.action, **asked.arguments())
    remember(asked)
    if job.is_duplicate:
        talk(f"note: nothing was started; --idempotency-key {asked.idempotency_key} made {job.id} before")
    return job


def remember(asked: Submission) -> None:
    """Note workspace and experiment ids on first use; they need no creation here."""
    from skillbank.jobs.store import JobStore

    with JobStore() as store:
        if asked.workspace_id and store.remember_experiment("workspace", asked.workspace_id):
            talk(f"note: workspace {asked.workspace_id!r} is new here and now remembered")
        if asked.experiment_id and store.remember_experiment(
            "experiment", asked.experiment_id, asked.network
        ):
            talk(f"note: experiment {asked.experiment_id!r} is new here and now remembered")


def announce(job: Job) -> None:
    """Tell people how to go on."""
    if sys.stderr.isatty():
        talk(f"{job.id} is {job.state.value}; follow it with: skillbank jobs watch {job.id}")


def explain(asked: Submission, *, dry_run: bool, explained: bool, output: str | None) -> None:
    """Show the plan: where every value comes from, what waits for the parent, which route is taken.

    With `dry_run` the plan is the output of the command; otherwise it is talk on stderr. `explained` adds
    every value with its origin, defaults too.
    """
    from skillbank.plan import plan_job
    from skillbank_runners.cli.plan_view import plan_text, show_plan, terminal_width

    plan = plan_job(asked.network, asked.action, **asked.arguments())
    if dry_run:
        show_plan(plan, explained=explained, output=output)
    else:
        talk(plan_text(plan, explained=explained, width=terminal_width()))


def submit(asked: Submission, *, dry_run: bool, explained: bool, wait: bool, output: str | None) -> None:
    """The whole command: plan, create, wait, print.

    Raises:
        JobError: with `wait`, when the job did not end well.
    """
    if dry_run or explained:
        explain(asked, dry_run=dry_run, explained=explained, output=output)
    if dry_run:
        return
    job = create(asked)
    if not wait:
        announce(job)
        emit(job_record(job), output)
        return
    from skillbank.jobs.store import JobStore
    from skillbank_runners.cli.follow import raise_unless_done, wait_for

    ended = wait_for(JobStore(), job)
    emit(job_record(ended), output)
    raise_unless_done(ended)
