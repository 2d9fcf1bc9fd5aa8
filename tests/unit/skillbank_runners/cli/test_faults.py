"""Every way a command line can end: exit code, text on stderr, JSON where asked for, nothing leaked."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.errors import (
    BackendError,
    InvalidValueError,
    JobFailedError,
    NotFoundError,
    SkillBankError,
    SpecError,
    UsageError,
    collect,
)
from skillbank_runners.cli.app import run
from skillbank_runners.cli.faults import guarded
from skillbank_runners.cli.table import Leaf

KEY = "very-secret-key-9917"


def ending(error: BaseException, *argv: str) -> int:
    def body() -> int:
        raise error

    return guarded(body, argv, "tao")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("u"), 2),
        (SpecError("s"), 3),
        (NotFoundError("n"), 4),
        (BackendError("b"), 5),
        (JobFailedError("j"), 6),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "/some/place"), 5),
        (ZeroDivisionError("division by zero"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_what_the_system_refuses_has_place_and_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(FileExistsError(17, "File exists", "/a/file")) == 5
    assert capsys.readouterr().err == (
        "error: tao: /a/file: file exists\nhint: a file stands where a folder belongs: ls -ld /a\n"
    )
    assert ending(OSError(98, "Address already in use")) == 5
    assert capsys.readouterr().err.startswith("error: tao: Address already in use\nhint: repeat with --debug")


def test_the_message_and_the_hint_are_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    ending(UsageError("a: 'b' is wrong; use c", hint="tao c"))
    assert capsys.readouterr().err == "error: a: 'b' is wrong; use c\nhint: tao c\n"


@pytest.mark.parametrize("flag", [("-o", "json"), ("-ojson",), ("--output=json",), ("--output", "json")])
def test_with_o_json_the_last_line_is_the_error_as_json(
    flag: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    problems: list[SkillBankError] = [
        InvalidValueError("a: 1 is not allowed; use 2", key="a", value=1, allowed=[2], hint="a=2"),
        InvalidValueError("b: 3 is not allowed; use 4", key="b", value=3, allowed=[4]),
    ]
    assert ending(collect(problems, "spec x train"), *flag) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: spec x train has 2 problems:"
    error = json.loads(lines[-1])["error"]
    assert (error["code"], error["exit_code"]) == ("spec.invalid-value", 3)
    assert [problem["key"] for problem in error["problems"]] == ["a", "b"]
    assert error["problems"][0]["allowed"] == [2]


def test_a_bug_is_one_line_and_a_file_without_secrets(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-value-123")
    error = RuntimeError(f"odd {KEY} and aws-secret-value-123\nsecond line")
    assert ending(error, "--encryption-key", KEY, "--name", "n") == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("error: tao: unexpected RuntimeError: odd *** and ***; details are in ")
    log = Path(first.rpartition(" ")[2])
    text = log.read_text()
    assert log.parent == own_home / "store" / "logs"
    assert "Traceback" in text
    assert "--name" in text
    assert KEY not in text
    assert "aws-secret-value-123" not in text


@pytest.mark.parametrize(
    ("streams", "code"),
    [(">&-", 0), (">&- 2>&- <&-", 0), ("2>&-", 0), ("2>/dev/full", 0), ("> /dev/full", 5)],
)
@pytest.mark.parametrize(
    "words", ["tao mask2former get-job-schema --action train", "skillbank networks -o json", "tao --help"]
)
def test_streams_that_are_closed_or_full(words: str, streams: str, code: int) -> None:
    program, _, rest = words.partition(" ")
    module = f"import sys; from skillbank_runners.cli.{program} import main; sys.exit(main())"
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec \"$0\" -c '{module}' {rest} {streams}", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code
    if code:
        assert ended.stderr.startswith("error: standard output: it cannot be written (No space left")
        assert "hint: free some space" in ended.stderr
    else:
        assert ended.stderr == ""


def test_an_error_that_nobody_can_read_keeps_its_exit_code() -> None:
    module = "import sys; from skillbank_runners.cli.tao import main; sys.exit(main())"
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec \"$0\" -c '{module}' mask2former get-job zz 2>/dev/full", sys.executable],
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 4


def test_words_are_utf8_whatever_the_locale(cli: Callable) -> None:
    seen = cli("tao", "mask2former", "get-job", os.fsdecode(b"\xff\xfe"))
    assert seen.code == 2
    assert "is not UTF-8 text" in seen.err
    assert "Traceback" not in seen.err


def test_the_log_file_goes_elsewhere_when_the_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SKILLBANK_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ending(RuntimeError("odd")) == 1
    found = re.search(r"details are in (\S+)", capsys.readouterr().err)
    assert found is not None
    assert Path(found[1]).parent == tmp_path


def test_debug_shows_the_traceback_wherever_the_flag_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKILLBANK_DEBUG", "")  # restored afterwards

    def table() -> Leaf:
        raise ZeroDivisionError

    assert run("tao", table, ["x", "--debug", "y"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tao", "mask2former", "list-jobs", "--limit", "many"), "Invalid value for '--limit'"),
        (("tao", "mask2former", "create-job", "--specs", "{}"), "Missing option '--action'"),
        (("tao", "mask2former", "list-jobs", "surplus"), "surplus"),
        (("skillbank", "schema"), "NETWORK"),
    ],
)
def test_complaints_of_the_option_parser_have_our_form(
    words: tuple[str, ...], says: str, cli: Callable
) -> None:
    program, *rest = words
    seen = cli(program, *rest, "-o", "json")
    assert (seen.code, seen.out) == (2, "")
    first, hint, last = seen.err.splitlines()
    assert first.startswith(f"error: {' '.join(words[:3] if program == 'tao' else words[:2])}: ")
    assert says in first
    assert hint.endswith(" --help")
    assert json.loads(last)["error"]["code"] == "usage"
