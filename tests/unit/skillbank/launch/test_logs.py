from pathlib import Path

import pytest

from skillbank.launch import logs
from skillbank.launch.logs import read_lines


def test_lines_come_without_their_ends(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_bytes(b"one\r\n\ntwo \xff\nthree")
    assert list(read_lines(file)) == ["one", "", "two \N{REPLACEMENT CHARACTER}", "three"]


def test_an_absent_log_has_no_lines(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "none")) == []


@pytest.mark.parametrize("ends_with_newline", [True, False])
@pytest.mark.parametrize("block", [1, 3, 7, 1000])
@pytest.mark.parametrize(("tail", "count"), [(0, 0), (1, 1), (5, 5), (30, 30), (31, 30)])
def test_the_tail_is_the_last_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tail: int,
    count: int,
    block: int,
    ends_with_newline: bool,
) -> None:
    monkeypatch.setattr(logs, "_BLOCK", block)
    lines = [f"line {index}" for index in range(30)]
    file = tmp_path / "log.txt"
    file.write_text("\n".join(lines) + "\n" * ends_with_newline)
    assert list(read_lines(file, tail=tail)) == lines[30 - count :]


def test_what_is_written_while_it_is_followed_comes_too(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    steps = iter(["first\nhal", "f\n", "last"])
    over = False

    def write(_: float) -> None:
        nonlocal over
        with file.open("a") as log:
            log.write(next(steps))
        over = file.read_text().endswith("last")

    assert list(read_lines(file, is_over=lambda: over, sleep=write)) == ["first", "half", "last"]
