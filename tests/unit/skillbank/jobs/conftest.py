from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skillbank.jobs.record import Request
from skillbank.jobs.store import JobStore


class Clock:
    """A clock that moves on by one second per look."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with JobStore(tmp_path / "home", now=Clock()) as opened:
        yield opened


@pytest.fixture
def train() -> Request:
    return Request(network="mask2former", action="train", specs={"train": {"num_epochs": 2}})
