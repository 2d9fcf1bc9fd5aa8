import json
import math
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from skillbank.errors import StorageError
from skillbank.jobs.status import StatusWriter, read_events

NOON = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "train" / "status.json"


@pytest.fixture
def writer(path: Path) -> StatusWriter:
    return StatusWriter(path, job_id="m-train-1", component="mask2former train", now=lambda: NOON)


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no strict JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_line_has_what_older_readers_know_and_what_is_added(writer: StatusWriter, path: Path) -> None:
    writer.started()
    assert path.read_text() == (
        '{"date": "1/2/2030", "time": "3:4:5", "status": "STARTED", "verbosity": "INFO", '
        '"message": "Starting mask2former train", "ts": "2030-01-02T02:04:05.000000Z", "event": "started", '
        '"job_id": "m-train-1", "rank": 0, "schema_version": 1}\n'
    )


def test_maps_are_there_only_when_something_is_in_them(writer: StatusWriter, path: Path) -> None:
    writer.running(
        "epoch", kpi={"val_loss": 0.5}, graphical={}, epoch=1, max_epoch=5, eta="0:10:00", global_step=7
    )
    writer.running("word", categorical={"IoU": {"sofa": 0.5}}, graphical={"loss": [1, 2]})
    first, second = lines(path)
    assert list(first)[:3] == ["epoch", "max_epoch", "eta"]
    assert first["kpi"] == {"val_loss": 0.5}
    assert first["global_step"] == 7
    assert not {"graphical", "categorical"} & first.keys()
    assert not {"kpi", "global_step", "epoch"} & second.keys()
    assert (second["categorical"], second["graphical"]) == ({"IoU": {"sofa": 0.5}}, {"loss": [1, 2]})


class Scalar:
    """Stands for a tensor of one number; the light part of the bank has no such library."""

    def item(self) -> float:
        return 0.25


def test_values_that_json_does_not_know_become_null(writer: StatusWriter, path: Path) -> None:
    writer.metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": Scalar(), "e": [math.nan, 1]}, epoch=0)
    assert lines(path)[0]["kpi"] == {"a": None, "b": None, "c": None, "d": 0.25, "e": [None, 1]}


def test_a_run_comes_back_as_typed_events(writer: StatusWriter, path: Path) -> None:
    writer.started()
    writer.metrics({"val_loss": 0.5}, epoch=0, max_epoch=2, global_step=10, time_per_epoch="0:00:09")
    writer.success()
    writer.failure("too late")
    started, metrics, success, failure = read_events(path)
    assert (started.status, started.event, started.is_end) == ("STARTED", "started", False)
    assert (metrics.epoch, metrics.max_epoch, metrics.global_step, metrics.rank) == (0, 2, 10, 0)
    assert metrics.kpi == {"val_loss": 0.5}
    assert metrics.fields["time_per_epoch"] == "0:00:09"
    assert (success.message, success.is_end) == ("mask2former train finished successfully", True)
    assert (failure.status, failure.verbosity, failure.is_end) == ("FAILURE", "ERROR", True)
    assert metrics.ts == "2030-01-02T02:04:05.000000Z"


def test_only_rank_zero_writes(path: Path) -> None:
    StatusWriter(path, job_id="j", component="x", rank=1).started()
    assert not path.exists()


def test_foreign_lines_and_a_half_written_one_are_passed_over(writer: StatusWriter, path: Path) -> None:
    writer.started()
    with path.open("a") as file:
        file.write('not json\n[1]\n{"status": "ODD"}\n{"other": 1}\n')
        file.write('{"date": "1/2/2030", "time": "3:4:5", "status": "RUNNING", "verbosity": "INFO"}\n')
        file.write('{"status": "SUCC')
    found = list(read_events(path))
    assert [event.status for event in found] == ["STARTED", "RUNNING"]
    assert (found[1].ts, found[1].fields["date"]) == (None, "1/2/2030")


def test_a_line_after_a_half_written_one_is_not_lost(writer: StatusWriter, path: Path) -> None:
    writer.started()
    with path.open("a") as file:
        file.write('{"status": "RUN')
    writer.success()
    assert [event.status for event in read_events(path)] == ["STARTED", "SUCCESS"]


def test_events_of_one_job_are_told_from_those_of_another(path: Path) -> None:
    for job in ("one", "two"):
        StatusWriter(path, job_id=job, component=job).success()
    assert [event.job_id for event in read_events(path, job_id="two")] == ["two"]


def test_an_absent_file_has_no_events(path: Path) -> None:
    assert list(read_events(path)) == []


def test_following_ends_with_the_run(writer: StatusWriter, path: Path) -> None:
    def append(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    steps = iter(
        [
            writer.started,
            lambda: append('{"status": "RUNNING", "mess'),
            lambda: append('age": "late"}\n'),
            writer.success,
        ]
    )

    def next_step(_: float) -> None:
        next(steps)()

    found = list(read_events(path, follow=True, sleep=next_step))
    assert [event.status for event in found] == ["STARTED", "RUNNING", "SUCCESS"]
    assert found[1].message == "late"


def test_following_ends_with_the_job_and_loses_nothing(writer: StatusWriter, path: Path) -> None:
    writer.started()
    looks: list[str] = []

    def is_over() -> bool:
        looks.append("look")
        if len(looks) == 2:
            writer.running("last word")
        return len(looks) == 2

    found = list(read_events(path, follow=True, is_over=is_over, sleep=lambda _: None))
    assert [event.message for event in found] == ["Starting mask2former train", "last word"]


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_following_notices_a_new_file(writer: StatusWriter, path: Path, how: str) -> None:
    writer.running("a long message, so that what follows is shorter " * 3)
    looks: list[str] = []

    def renew(_: float) -> None:
        looks.append(how)
        path.unlink() if how == "removed" else path.write_text("")
        writer.success("end")

    found = list(read_events(path, follow=True, sleep=renew))
    assert [event.status for event in found] == ["RUNNING", "SUCCESS"]
    assert len(looks) == 1


def test_a_full_disk_is_one_clear_error() -> None:
    with pytest.raises(
        StorageError, match=r"/dev/full: the event cannot be written \(No space left"
    ) as caught:
        StatusWriter(Path("/dev/full"), job_id="j", component="x").started()
    assert caught.value.hint == "df -h /dev"


APPEND = """
import sys
from pathlib import Path
from skillbank.jobs.status import StatusWriter
writer = StatusWriter(Path(sys.argv[1]), job_id=sys.argv[2], component="x")
for index in range(200):
    writer.running("word " * 200, epoch=index)
"""


def test_two_writers_never_mix_their_lines(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), name]) for name in ("a", "b")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(lines(path)) == 400
    assert [event.epoch for event in read_events(path, job_id="a")] == list(range(200))
