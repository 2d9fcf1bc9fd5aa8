"""A bench for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_impl
from toy_bench import Bench

from skillbank.jobs.store import JobStore
from skillbank.launch import cancel_job

FIXTURES = Path(toy_impl.__file__).parent


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose jobs run side by side on the CPU."""
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FIXTURES), *([path] if path else [])]))
    monkeypatch.setenv("SKILLBANK_NETWORKS", "toy_network")
    monkeypatch.setenv("SKILLBANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKILLBANK_MOUNTS_FILE", str(tmp_path / "no-mounts.json"))
    monkeypatch.setenv("SKILLBANK_ACCELERATOR", "cpu")
    monkeypatch.setenv("SKILLBANK_CPU_SLOTS", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = JobStore(tmp_path / "home")
    yield Bench(tmp_path, store, toy_impl.write_points(tmp_path / "points.txt", 40))
    for job in store.list():
        if not job.state.is_final:
            cancel_job(store, job.id, grace_s=1.0)
    store.close()
