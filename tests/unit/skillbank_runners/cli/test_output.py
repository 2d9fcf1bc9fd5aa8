"""Records on stdout in four forms, and what the forms do with awkward values."""

import io
import json
from enum import Enum
from pathlib import Path

import pytest
import yaml

from skillbank.errors import UsageError
from skillbank_runners.cli.output import chosen, emit, paint, plain, to_json


class Terminal(io.StringIO):
    """A stream that says a person reads it."""

    def isatty(self) -> bool:
        return True


class Colour(Enum):
    RED = "red"


ROWS = [{"id": "a-1", "name": "first", "state": "done"}, {"id": "b-2", "name": "second", "state": "error"}]


def test_json_where_no_person_reads(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, None)
    assert json.loads(capsys.readouterr().out) == ROWS


def test_a_table_where_a_person_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    emit(ROWS, None, columns=("id", "state"))
    lines = [line.split() for line in screen.getvalue().splitlines()]
    assert lines == [["id", "state"], ["a-1", "done"], ["b-2", "error"]]
    assert "\033[3" not in screen.getvalue()


def test_every_form_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == ROWS
    emit(ROWS, "id")
    assert capsys.readouterr().out == "a-1\nb-2\n"
    emit(ROWS[0], "id")
    assert capsys.readouterr().out == "a-1\n"
    emit(ROWS[0], "table")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["id", "a-1"],
        ["name", "first"],
        ["state", "done"],
    ]
    emit([], "table")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nothing to list\n")


def test_cells_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"id": "a", "message": "one\x1b[2Jtwo\r\x9b"}], "table")
    out = capsys.readouterr().out
    assert "one\\x1b[2Jtwo\\r\\x9b" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("form", ["JSON", "xml", "train.lr=1"])
def test_unknown_forms_are_refused(form: str) -> None:
    with pytest.raises(UsageError, match="use json, yaml, table, id") as caught:
        chosen(form)
    assert caught.value.hint == (
        "settings are written without a flag: train.lr=1" if "=" in form else "-o json"
    )


def test_id_needs_an_id() -> None:
    with pytest.raises(UsageError, match="prints no 'id'"):
        emit({"valid": True}, "id")


def test_values_that_json_does_not_have() -> None:
    awkward = {
        "a": float("nan"),
        "b": float("inf"),
        "c": Path("x/y"),
        "d": Colour.RED,
        "e": (1, 2),
        3: "three",
    }
    assert plain(awkward) == {"a": None, "b": None, "c": "x/y", "d": "red", "e": [1, 2], "3": "three"}
    assert "NaN" not in to_json(awkward)


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("error: ", "red", Terminal()) == "\033[31merror: \033[0m"
    assert paint("error: ", "red", io.StringIO()) == "error: "
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("error: ", "red", Terminal()) == "error: "


PATH = "/somewhere/" + "deep/" * 20 + "weights.pth"


def shown(data: object, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of a table on a terminal of 80 columns."""
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    emit(data, None)
    return screen.getvalue().splitlines()


def test_nothing_is_folded_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"id": "a-1", "path": PATH, "message": "word " * 100 + "end"}], "table")
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["a-1", PATH]
    assert row.endswith("word end")


def test_a_terminal_folds_the_last_text_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "mask2former-train-0a1b2c", "message": "a long explanation " * 6, "state": "done"}]
    lines = shown(rows, monkeypatch)
    assert len(lines) > 2
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith("mask2former-train-0a1b2c  a long")
    assert set(" ".join(lines).split()) == {
        "id", "message", "state", "mask2former-train-0a1b2c", "a", "long", "explanation", "done",
    }  # fmt: skip


def test_a_table_that_does_not_fit_becomes_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown([{"id": "a-1", "path": PATH, "epoch": None, "message": "word " * 20}], monkeypatch)
    assert lines[:2] == ["a-1", f"  path     {PATH}"]
    assert lines[2].startswith("  message  word word")
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines[2:])


def test_a_record_keeps_paths_whole_and_shows_errors_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"code": "job.failed", "message": "it broke", "hint": "try again"}
    lines = shown({"id": "a-1", "results_dir": PATH, "error": error, "metrics": {"loss": 0.5}}, monkeypatch)
    assert f"results_dir  {PATH}" in lines
    assert [line.split(None, 1) for line in lines[2:3]] == [["error", "it broke"]]
    assert lines[3].strip() == "hint: try again"
    assert lines[4].split() == ["metrics", "loss=0.5"]
