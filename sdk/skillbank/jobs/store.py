"""The store of jobs: a job is recorded before it starts, and its history is only ever appended to."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from skillbank import bank
from skillbank.errors import InvalidTransitionError, JobError, NotFoundError, StorageError, UsageError
from skillbank.jobs import artifacts, creation, history, lookup, record_file, rows
from skillbank.jobs.database import Database
from skillbank.jobs.processes import ProcessId, this_process
from skillbank.jobs.reconcile import judge
from skillbank.jobs.record import Artifact, Job, JobFolder, Request, Transition, timestamp
from skillbank.jobs.redact import digest, scrub, secret_values, without_secrets
from skillbank.jobs.states import State

__all__ = ["JobStore", "Source"]

log = logging.getLogger(__name__)

Source = Literal["sdk", "worker", "launcher", "reconcile"]

# `list` is a method of the store, so its class body cannot use the name as a type.
_Ids: TypeAlias = list[str]
_Jobs: TypeAlias = list[Job]
_Transitions: TypeAlias = list[Transition]
_Artifacts: TypeAlias = list[Artifact]


class JobStore:
    """Jobs, their history, artifacts and experiments in ``HOME/store.db``, their folders in ``HOME/jobs``.

    Safe to share: several processes and threads may use one home at once, each gets its own connection.

    Args:
        home: folder of the store, created with mode 0700 on first use; default `skillbank.bank.home()`.
        now: the clock for time stamps.
        busy_timeout_s: how long to wait while another process writes.

    Every method raises `StorageError` when the store cannot be read or written, with the way out.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        busy_timeout_s: float = 15.0,
    ) -> None:
        self.home = Path(home) if home is not None else bank.home()
        self._now = now
        self._database = Database(self.home / "store.db", busy_timeout_s=busy_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def folders(self) -> Path:
        """The folder that holds one folder per job."""
        return self.home / "jobs"

    def close(self) -> None:
        """Close the connection of this thread; using the store again opens a new one."""
        self._database.close()

    def create(
        self,
        request: Request,
        *,
        name: str = "",
        kind: str = "experiment",
        description: str = "",
        tags: Sequence[str] = (),
        workspace_id: str | None = None,
        experiment_id: str | None = None,
        parent_id: str | None = None,
        base_experiment_id: str | None = None,
        launcher: str = "local",
        idempotency_key: str | None = None,
        results_dir: str | None = None,
        encryption_key: str | None = None,
    ) -> Job:
        """Record a new job in state `pending`: row, folder and ``job.json`` are there then, or nothing is.

        Args:
            name: shown to people; the job's id when empty.
            idempotency_key: the same key with the same request gives the earlier job, marked `is_duplicate`.
            results_dir: folder or URI; default ``results`` in the job's folder.
            encryption_key: kept in a file of mode 0600 only, removed when the job ends. A key inside the
                request is treated the same way and leaves the request.

        Raises:
            ConflictError: the idempotency key was used for another request.
            NotFoundError: no job has the id `parent_id`.
        """
        clean, key_in_request = without_secrets(request)
        key = encryption_key or key_in_request
        origin = {"kind": kind, "parent_id": parent_id, "base_experiment_id": base_experiment_id}
        text = rows.dump(asdict(clean), "request")
        values: dict[str, Any] = {
            **origin,
            "network": request.network,
            "action": request.action,
            "name": name,
            "description": description,
            "tags": rows.dump(list(tags), "tags"),
            "request_digest": rows.request_digest(
                {**origin, "request": asdict(clean), "results_dir": results_dir}
            ),
            "results_dir": results_dir,
            "workspace_id": workspace_id,
            "experiment_id": experiment_id,
            "launcher": launcher,
            "idempotency_key": idempotency_key or None,
            "creator": rows.dump(this_process().to_dict(), "creator"),
            "encryption_key_digest": digest(key) if key else None,
            "versions": rows.dump(record_file.versions(), "versions"),
        }
        try:
            with self._database.write() as connection:
                earlier = creation.earlier(connection, self.folders, values)
                if earlier is not None:
                    return earlier
                if parent_id is not None:
                    lookup.one(connection, self.folders, parent_id)
                values["id"] = creation.new_id(connection, self.folders, request.network, request.action)
                return creation.insert(
                    connection, self.folders, values, text, created_at=self._time(), encryption_key=key
                )
        except StorageError:
            # The last step, writing the row for good, may fail too.
            if "id" in values:
                creation.discard(self.folders / values["id"])
            raise

    def get(self, job_id: str) -> Job:
        """One job, after `reconcile` when it is not final.

        Raises:
            NotFoundError: no such job; names the nearest ids.
        """
        job = self._read(job_id)
        return self._read(job_id) if self._settle(job) else job

    def list(
        self,
        *,
        network: str | None = None,
        action: str | None = None,
        state: State | str | None = None,
        parent_id: str | None = None,
        limit: int | None = None,
    ) -> _Jobs:
        """Jobs, newest first, at most `limit`; those that are not final are reconciled before.

        Raises:
            InvalidValueError: there is no such state.
        """
        wanted = {
            "network": network,
            "action": action,
            "state": state and State.of(state),
            "parent_id": parent_id,
        }
        self._settle_all()
        given = {column: str(value) for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = :{column}" for column in given) or "1"
        order = f"{where} ORDER BY seq DESC LIMIT :limit"
        with self._database.read() as connection:
            return lookup.select(
                connection,
                self.folders,
                self._load_request,
                order,
                limit=-1 if limit is None else min(max(limit, 0), sys.maxsize),
                **given,
            )

    def transition(
        self,
        job_id: str,
        state: State | str,
        message: str = "",
        *,
        source: Source = "sdk",
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        """Move a job to a state; False when it is in that state already, and nothing is recorded then.

        Args:
            error: `SkillBankError.to_dict()` of a job that failed.

        Raises:
            InvalidValueError: there is no such state.
            InvalidTransitionError: the state may not follow the present one; nothing follows a final one.
            NotFoundError: no such job.
        """
        return self._advance(job_id, (State.of(state),), message, source, error)

    def set_backend(self, job_id: str, ref: Mapping[str, Any]) -> None:
        """Note the launcher's own reference to the job."""
        text = rows.dump(dict(ref), "backend reference")
        with self._database.write() as connection:
            lookup.one(connection, self.folders, job_id)
            connection.execute(
                "UPDATE jobs SET backend_ref = ?, updated_at = ? WHERE id = ?", (text, self._time(), job_id)
            )
            record_file.renew(connection, job_id, self.folders / job_id)

    def history(self, job_id: str) -> _Transitions:
        """All transitions of a job, oldest first."""
        with self._database.read() as connection:
            return history.of_job(connection, self.folders, job_id)

    def register_artifact(
        self,
        job_id: str,
        path: str | Path,
        *,
        kind: str,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Artifact:
        """Note a file, or a folder of files, that others may use; the same path again replaces the entry.

        Raises:
            NotFoundError: no such job, or the file does not exist.
            InvalidValueError: unknown kind.
        """
        self._read(job_id)
        artifact = artifacts.measure(
            job_id, Path(path), kind=kind, created_at=self._time(), epoch=epoch, step=step, metrics=metrics
        )
        with self._database.write() as connection:
            lookup.one(connection, self.folders, job_id)
            artifacts.save(connection, artifact)
        return artifact

    def artifacts(self, job_id: str, kind: str | None = None) -> _Artifacts:
        """Artifacts of a job in the order in which they were first noted, optionally of one kind."""
        with self._database.read() as connection:
            lookup.one(connection, self.folders, job_id)
            return artifacts.of_job(connection, job_id, kind)

    def reconcile(self, job_id: str | None = None) -> _Jobs:
        """Settle jobs whose worker is gone, from its exit record or as `error`; the jobs that changed."""
        if job_id is None:
            changed = self._settle_all()
        else:
            job = self._read(job_id)
            changed = [job.id] if self._settle(job) else []
        return [self._read(changed_id) for changed_id in changed]

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        poll_s: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Job:
        """Wait for a final state; after the timeout the job is given back as it is, so look at its state."""
        deadline = None if timeout_s is None else clock() + timeout_s
        while True:
            job = self.get(job_id)
            if job.state.is_final or (deadline is not None and clock() >= deadline):
                return job
            sleep(poll_s)

    def delete(self, job_id: str) -> None:
        """Remove a job in a final state: its row, history, artifact entries and folder.

        Raises:
            JobError: the job, or one that waits for it, is not final.
        """
        job = self.get(job_id)
        if not job.state.is_final:
            raise JobError(
                f"job {job_id}: it is {job.state}; allowed are done, error and canceled",
                hint="cancel it first",
                key="job_id",
                value=job_id,
            )
        self._settle_all()
        with self._database.write() as connection:
            lookup.refuse_waited_for(connection, job_id)
            connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        shutil.rmtree(job.folder, ignore_errors=True)

    def remember_experiment(
        self,
        kind: Literal["workspace", "experiment"],
        id: str,  # noqa: A002
        network: str | None = None,
    ) -> bool:
        """Note a workspace or experiment id that a command named; True when it is new.

        Raises:
            UsageError: the id is empty.
        """
        if not id.strip():
            raise UsageError(
                f"{kind} id: it is empty", hint=f"is the shell variable set that holds the {kind} id?"
            )
        with self._database.write() as connection:
            added = connection.execute(
                "INSERT OR IGNORE INTO experiments (kind, id, network, created_at) VALUES (?, ?, ?, ?)",
                (kind, id, network, self._time()),
            )
            return added.rowcount == 1

    def get_experiment(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        """`kind`, `id`, `network` and `created_at` of a remembered id; an experiment before a workspace."""
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT kind, id, network, created_at FROM experiments WHERE id = ? ORDER BY kind LIMIT 1",
                (id,),
            ).fetchone()
        return None if row is None else dict(zip(("kind", "id", "network", "created_at"), row, strict=True))

    def _time(self) -> str:
        return timestamp(self._now())

    def _read(self, job_id: str) -> Job:
        with self._database.read() as connection:
            return lookup.one(connection, self.folders, job_id)

    def _load_request(self, job_id: str) -> str:
        with self._database.read() as connection:
            return lookup.request(connection, job_id)

    def _advance(
        self,
        job_id: str,
        states: Sequence[State],
        message: str,
        source: Source,
        error: Mapping[str, Any] | None,
    ) -> bool:
        secret = JobFolder(self.folders / job_id).secret
        try:
            key = secret.read_text(encoding="utf-8")
        except OSError:  # never given, or another writer ended the job and removed it
            key = None
        hidden = secret_values(os.environ, key)
        with self._database.write() as connection:
            changed = history.advance(
                connection,
                lookup.one(connection, self.folders, job_id),
                states,
                ts=self._time(),
                message=scrub(message, hidden),
                source=source,
                error=scrub(error, hidden),
            )
        if states[-1].is_final:
            secret.unlink(missing_ok=True)
        return changed

    def _settle(self, job: Job) -> bool:
        """Bring the record of a job whose worker is gone up to date; True when it changed."""

        def creator() -> ProcessId | None:
            with self._database.read() as connection:
                return lookup.creator(connection, job.id)

        verdict = judge(job, creator)
        if verdict is None:
            return False
        try:
            return self._advance(job.id, verdict.states, verdict.message, "reconcile", verdict.error)
        except (InvalidTransitionError, NotFoundError):
            # The worker, or another reader, was faster.
            return True

    def _settle_all(self) -> _Ids:
        with self._database.read() as connection:
            jobs = lookup.unsettled(connection, self.folders, self._load_request)
        return [job.id for job in jobs if self._settle(job)]
