from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skillbank.jobs.record import Job, Request
from skillbank.jobs.store import JobStore
from skillbank.launch import logs
from skillbank.launch.base import Bundle

MakeBundle = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the user, and short pauses between two looks at a log."""
    monkeypatch.setattr(logs, "_POLL_S", 0.01)
    monkeypatch.setenv("SKILLBANK_MOUNTS_FILE", str(tmp_path / "no-mounts.json"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with JobStore(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def job(store: JobStore) -> Job:
    return store.create(Request(network="mask2former", action="train"))


@pytest.fixture
def shell(job: Job) -> MakeBundle:
    """A bundle whose worker is a shell with the given script."""

    def make(script: str, **more: object) -> Bundle:
        values = {"job_id": job.id, "folder": job.folder, "argv": ("/bin/sh", "-c", script), **more}
        return Bundle(**values)

    return make
