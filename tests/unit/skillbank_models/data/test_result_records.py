"""The hidden files in which processes note their results."""

import os
from pathlib import Path

from skillbank_models.data import result_records
from skillbank_models.data.result_records import ResultRecords


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    records = ResultRecords(tmp_path, rank=0, world=1)
    records.add({"name": "a"})
    assert names(tmp_path) == [".results-00000.part"]
    del records
    assert names(tmp_path) == []


def test_a_process_does_not_remove_the_file_of_the_one_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.touch()
    result_records._remove(path, os.getpid() + 1)
    assert path.exists()
    result_records._remove(path, os.getpid())
    assert not path.exists()
