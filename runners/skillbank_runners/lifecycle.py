"""The way of a job: parent, spec, data, device, action, and how it ended.

Nothing heavy is imported before the device is there. However a job ends, it ends with a final state, a last
line in its status file, and an exit code of its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import (
    InterruptedJobError,
    InvalidTransitionError,
    JobFailedError,
    SkillBankError,
)
from skillbank.jobs.files import write_text
from skillbank.jobs.record import Job, JobFolder
from skillbank.jobs.states import State
from skillbank.jobs.status import StatusWriter
from skillbank.jobs.store import JobStore
from skillbank.specs.load import load_yaml, to_yaml
from skillbank.storage.uri import is_remote, join
from skillbank_runners.failures import explain, tells_all
from skillbank_runners.interrupts import Interrupts
from skillbank_runners.redaction import Redactor
from skillbank_runners.talk import talking

if TYPE_CHECKING:
    from skillbank.storage import Storage
    from skillbank_models.protocol import Implementation
    from skillbank_runners.localise import Places
    from skillbank_runners.placement import Placement

__all__ = ["main", "run_job"]

log = logging.getLogger("skillbank_runners.worker")

_UPLOAD_EVERY_S = 30.0


def main(arguments: list[str]) -> int:
    """Run the job of a folder; with ``--rank FILE`` one of its further processes.

    Returns:
        The exit code: 0, or that of the error's class.
    """
    if len(arguments) == 1:
        return run_job(Path(arguments[0]).resolve())
    if len(arguments) == 3 and arguments[1] == "--rank":
        from skillbank_runners.follower import run_rank

        return run_rank(Path(arguments[0]).resolve(), Path(arguments[2]))
    raise SystemExit("usage: python -m skillbank_runners.worker JOB_FOLDER [--rank FILE]")


def run_job(
    folder: Path,
    *,
    store: JobStore | None = None,
    sleep: Callable[[float], None] = time.sleep,
    poll_s: float = 0.5,
) -> int:
    """Run a job to its end and record it.

    Args:
        folder: the job's folder, ``HOME/jobs/ID``.
        store: default the store of that home.
        sleep: passes the time while the parent runs.
    """
    store = store or JobStore(folder.parent.parent)
    key = _read_key(folder)
    redactor, interrupts = Redactor(key=key), Interrupts()
    with talking(redactor), interrupts.installed():
        job = store.get(folder.name)
        if job.state.is_final:
            log.error("job %s is %s already; create a new one", job.id, job.state)
            return InterruptedJobError.exit_code
        course = _Course(store, job, interrupts, redactor, sleep=sleep, poll_s=poll_s)
        error: SkillBankError | None = None
        try:
            course.run()
        except (Exception, KeyboardInterrupt) as err:  # noqa: BLE001 - the edge of the process
            with interrupts.ignored():
                error = course.explained(err)
        with interrupts.ignored():
            return course.conclude(error)


@dataclass(slots=True)
class _Course:
    """One job on its way."""

    store: JobStore
    job: Job
    interrupts: Interrupts
    redactor: Redactor
    sleep: Callable[[float], None]
    poll_s: float
    status: StatusWriter = field(init=False)
    spec: dict[str, Any] = field(default_factory=dict)
    memory_keys: tuple[str, ...] = ()
    places: Places | None = None
    has_failed: bool = False

    def __post_init__(self) -> None:
        self.status = self._status_in(_draft_folder(self.job))

    def run(self) -> None:
        """Everything up to the point where only the outcome has to be recorded."""
        if self.job.state is State.CANCELING:
            raise InterruptedJobError("the job was canceled before it began")
        self._wait_for_parent()
        self._settle_and_act()

    def explained(self, error: BaseException) -> SkillBankError:
        """The error for the record, without secrets; the traceback of anything unforeseen goes to the log."""
        found = explain(error, self.spec, self.job.action, self.memory_keys)
        if not isinstance(error, SkillBankError) and not tells_all(found):
            log.error("unforeseen error", exc_info=error)
        if isinstance(error, KeyboardInterrupt):
            found = self.interrupts.error()
        return found

    def conclude(self, error: SkillBankError | None) -> int:
        """Write the last status line and the final state; returns the exit code."""
        folder = JobFolder(self.job.folder)
        state, message, record = State.DONE, "finished", None
        if error is not None:
            self._fail(error)
            record = self.redactor.clean(error.to_dict())
            state = State.CANCELED if self._is_canceled(error) else State.ERROR
            message = "canceled" if state is State.CANCELED else str(record["message"])
        folder.secret.unlink(missing_ok=True)
        try:
            self.store.transition(self.job.id, state, message, source="worker", error=record)
        except InvalidTransitionError as err:
            log.warning("%s", err.message)
        except SkillBankError as err:
            log.error("the end of job %s as %s cannot be recorded: %s", self.job.id, state, err.message)
        code = 0 if error is None else error.exit_code
        _record_exit(folder.root, code)
        return code

    def _fail(self, error: SkillBankError) -> None:
        """Say that the job failed, in the log and as the last status line; once."""
        if self.has_failed:
            return
        self.has_failed = True
        log.error("%s: %s", error.code, error.message)
        if error.hint:
            log.error("hint: %s", error.hint)
        canceled = self._is_canceled(error)
        try:
            self.status.failure(
                "canceled" if canceled else self.redactor.clean(error.message), error_code=error.code
            )
        except SkillBankError as err:
            # Most often the same cause: what failed the job is told above, and that is enough of errors.
            log.info("%s", err.message)

    def _is_canceled(self, error: SkillBankError) -> bool:
        if not isinstance(error, InterruptedJobError):
            return False
        try:
            return self.store.get(self.job.id).state is State.CANCELING
        except SkillBankError:
            return False  # the store is gone, which is told when the end is recorded

    def _status_in(self, folder: Path, *, node: int = 0) -> StatusWriter:
        """The status channel; of several nodes that share the results only the first writes."""
        component = f"{self.job.network} {self.job.action}"
        return StatusWriter(folder / "status.json", job_id=self.job.id, component=component, rank=node)

    def _say(self, message: str) -> None:
        log.info("%s", message)
        self.status.running(message)

    def _wait_for_parent(self) -> None:
        """Pass the time until the parent has ended.

        Raises:
            JobFailedError: it ended badly.
        """
        if self.job.parent_id is None:
            return
        parent = self.store.get(self.job.parent_id)
        if not parent.state.is_final:
            self._say(f"waiting for parent job {parent.id}, which is {parent.state}")
        while not parent.state.is_final:
            self.sleep(self.poll_s)
            parent = self.store.get(parent.id)
        if parent.state is not State.DONE:
            cause = (parent.error or {}).get("message") or parent.message
            raise JobFailedError(
                f"parent job {parent.id} ended as {parent.state}{f': {cause}' if cause else ''}",
                hint=f"skillbank jobs logs {parent.id}",
                key="parent_job_id",
                value=parent.id,
            )

    def _settle_and_act(self) -> None:
        from skillbank.create import finalize
        from skillbank.launch.devices import gpu_count
        from skillbank.launch.slots import Slots
        from skillbank.skill_info import load_skill_info
        from skillbank.specs import network
        from skillbank.storage import Storage
        from skillbank_runners.localise import fetch_inputs, place_results
        from skillbank_runners.placement import decide

        found = network(self.job.network)
        self.spec = finalize(self.store, self.job).nested()
        info = load_skill_info(found).actions[self.job.action]
        block = self.spec.get(self.job.action)
        wanted = block if isinstance(block, Mapping) else {}
        placement = decide(wanted, self.job.action, gpus=gpu_count(), environ=os.environ)
        for note in placement.notes:
            log.warning("%s", note)
        with ExitStack() as stack:
            storage = stack.enter_context(Storage())
            self.places = places = place_results(self.spec, self.job, info)
            self.status = self._status_in(places.folder, node=placement.node_rank)
            if not self._is_search():  # its trials bring their data and take devices themselves
                self.spec = fetch_inputs(self.spec, info, storage)
                self._continue_remote(places, storage, found.latest_link)
                slots = Slots(self.store.home).acquire(self.job.id, placement.slots, on_wait=self._say)
                stack.enter_context(slots)
            write_text(places.folder / "experiment.yaml", to_yaml(_without_key(self.spec)), mode=0o644)
            self.store.transition(self.job.id, State.RUNNING, "running", source="worker")
            places.sending(stack, storage, excludes=info.upload_excludes, interval_s=_UPLOAD_EVERY_S)
            try:
                self._search(places.folder) if self._is_search() else self._act(placement)
                places.send_files(storage)
            except Exception as err:
                # before the last upload, so that the line is part of it
                self._fail(self.explained(err))
                raise
            self.status.success()

    def _is_search(self) -> bool:
        policy = self.job.request.policy
        return policy.get("route") == "automl" and "trial_of" not in policy

    def _search(self, folder: Path) -> None:
        """Run the trials of a search; asked to stop, it cancels those under way and keeps the best so far."""
        from skillbank.automl.run import run_search

        self.status.started()
        with self.interrupts.deferred():
            try:
                run_search(
                    self.store,
                    self.job,
                    self.spec,
                    folder,
                    status=self.status,
                    stop=lambda: self.interrupts.received is not None,
                )
            finally:
                # A search that was asked to stop is canceled, even if no trial had a value yet.
                self.interrupts.check()

    def _act(self, placement: Placement) -> None:
        """Run the action; everything heavy is imported from here on."""
        from skillbank_runners.execution import execute

        self.status.started()
        job = self.job
        assert self.places is not None
        plan = {
            "job_id": job.id,
            "network": job.network,
            "action": job.action,
            "folder": str(self.places.folder),
            "spec": self.spec,
        }
        execute(
            plan,
            placement,
            folder=job.folder,
            status=self.status,
            interrupts=self.interrupts,
            record=self._record,
            on_lost=self._give_up,
            on_loaded=self._take_note,
        )

    def _record(
        self,
        path: Path,
        kind: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self.store.register_artifact(self.job.id, path, kind=kind, epoch=epoch, step=step, metrics=metrics)

    def _take_note(self, implementation: Implementation) -> None:
        self.memory_keys = implementation.memory_keys

    def _give_up(self, error: SkillBankError) -> int:
        """Record a failure while the main thread hangs."""
        self._fail(error)
        if self.places is not None:
            self.places.send_rest()
        return self.conclude(error)

    def _continue_remote(
        self, places: Places, storage: Storage, latest_link: Callable[[Mapping[str, Any]], str]
    ) -> None:
        """Go on from the newest checkpoint that an earlier run sent to the same remote folder."""
        from skillbank_runners.localise import fetch_latest

        train = self.spec.get("train")
        if self.job.action != "train" or not isinstance(train, dict) or not self.job.request.keep_results_dir:
            return
        if train.get("resume_training_checkpoint_path"):
            return
        for folder, uri in places.trees.items():
            inner = places.folder.relative_to(folder).parts
            path = fetch_latest(join(uri, *inner), latest_link(self.spec), places.folder, storage)
            if path is not None:
                train["resume_training_checkpoint_path"] = str(path)


def _draft_folder(job: Job) -> Path:
    """Where status lines go before the spec is settled: the same place, as far as it can be told."""
    folder = JobFolder(job.folder)
    try:
        draft = load_yaml(folder.spec.read_text(encoding="utf-8"), folder.spec.name)
    except (OSError, SkillBankError):
        draft = {}
    block = draft.get(job.action) if isinstance(draft, Mapping) else None
    own = str(block.get("results_dir") or "") if isinstance(block, Mapping) else ""
    if own and not is_remote(own):
        return Path(own)
    return (folder.results if is_remote(job.results_dir) else Path(job.results_dir)) / job.action


def _without_key(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**spec, "encryption_key": None} if "encryption_key" in spec else dict(spec)


def _read_key(folder: Path) -> str | None:
    try:
        return JobFolder(folder).secret.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _record_exit(folder: Path, code: int) -> None:
    from skillbank.launch.supervisor import record_exit

    try:
        record_exit(folder, code, replace=True)
    except OSError as err:
        log.error("the exit record cannot be written: %s", err)
