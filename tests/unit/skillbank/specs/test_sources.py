"""Specs and overrides as users hand them over."""

import os
import threading
from pathlib import Path

import pytest

from skillbank.errors import InvalidValueError, NotFoundError, SkillBankError, SpecError, UsageError
from skillbank.specs.load import Layer, build_spec, parse_overrides, read_spec


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLBANK_NETWORKS", "plain_network")


def test_overrides() -> None:
    items = ["a.b=1e-4", "c=[0,1]", "d={x: 1}", "e=true", "f=null", "g=007", "h=a=b", "i="]
    assert parse_overrides(items) == {
        "a.b": 1e-4, "c": [0, 1], "d": {"x": 1}, "e": True, "f": None, "g": "007", "h": "a=b", "i": "",
    }  # fmt: skip
    assert parse_overrides(["a=1", "a=2"]) == {"a": 2}
    assert parse_overrides(["a='[0]'", 'b="x y"']) == {"a": "[0]", "b": "x y"}


def test_overrides_are_typed_by_the_spec() -> None:
    items = [
        "results_dir=123",
        "train.checkpoint=null",
        "model.name=1e3",
        "data.folder={a}",
        "train.num_gpus=2",
    ]
    found = parse_overrides(
        [*items, "train.optim.lr=1e-3", "train.precision=16-mixed"], network="plain", action="train"
    )
    assert found == {
        "results_dir": "123", "train.checkpoint": None, "model.name": "1e3", "data.folder": "{a}",
        "train.num_gpus": 2, "train.optim.lr": 1e-3, "train.precision": "16-mixed",
    }  # fmt: skip
    untyped = parse_overrides(["results_dir=123", "train.precision=32"])
    nested = build_spec("plain", "train", [Layer("override", "", untyped)], draft=True).nested()
    assert nested["results_dir"] == "123"
    assert nested["train"]["precision"] == "fp32"
    with pytest.raises(InvalidValueError):
        build_spec("plain", "train", [Layer("file", "", untyped)], draft=True)


@pytest.mark.parametrize(
    ("item", "hint"),
    [
        ("++train.x=1", "train.x=<value>"), ("+train.x=1", "train.x=<value>"), ("~train.x", "train.x=null"),
        ("train.num_epochs", "train.num_epochs=5"), ("=5", "train.num_epochs=5"), ("a[0]=1", "a=[...]"),
    ],
)  # fmt: skip
def test_wrong_overrides(item: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_overrides([item])
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_key_with_a_wrong_sign_is_not_told() -> None:
    for item in ("encryption_key:hunter22", "encryption_key hunter22", "train.encryption_key[0]=hunter22"):
        with pytest.raises(SkillBankError, match=r"encryption_key.*=\.\.\.") as caught:
            parse_overrides([item])
        assert "hunter22" not in f"{caught.value.to_dict()}"


def test_all_wrong_overrides_at_once() -> None:
    with pytest.raises(SkillBankError) as caught:
        parse_overrides(["++a=1", "b", "c=[1"])
    assert len(caught.value.problems) == 3


def test_read_spec(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text('{"train": {"num_gpus": 8, "num_nodes": 2}} // for two nodes\n', encoding="utf-8")
    wanted = {"train": {"num_gpus": 8, "num_nodes": 2}}
    assert read_spec(file) == read_spec(str(file)) == read_spec(f"@{file}") == wanted
    assert read_spec('{"train": {"num_gpus": 8, "num_nodes": 2}}') == wanted
    assert read_spec("train: {num_gpus: 8, num_nodes: 2}") == wanted
    assert read_spec("train:\n  num_gpus: 8\n  num_nodes: 2\n") == wanted
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_spec(file) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty"), (b" \n", "is empty"), (b"# nothing\n", "holds no keys"),
        (b"[1, 2]", "holds a list"),
        (b"just text", "holds the single value 'just text'"), (b"a: 1\n\tb: 2", "line 2, column 1: a tab"),
        (b"a: 1\nb: \xff", "line 2, column 4: byte 0xff is not UTF-8"),
        (b"PK\x03\x04\x00\x00", "line 1, column 3"),
        (b"a: [1", "while parsing a flow sequence"),
        (b"a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is given twice; first in line 1"),
        (b'{"a": 1,\n "a": 2}', "line 2: key 'a' is given twice"), (b"a: b: c", "line 1, column 5"),
    ],
    ids=repr,
)  # fmt: skip
def test_unreadable_files(tmp_path: Path, content: bytes, wanted: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_spec(file)
    assert str(file) in str(caught.value)
    assert wanted in str(caught.value)


def test_sources_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("a: 1")
    with pytest.raises(NotFoundError, match="no spec file") as caught:
        read_spec(f"@{tmp_path}/trian.yaml")
    assert "train.yaml" in caught.value.hint
    with pytest.raises(SpecError, match=f"^{tmp_path} is a folder") as folder:
        read_spec(tmp_path)
    assert folder.value.hint == f"name a file: {tmp_path}/spec.yaml"
    for text in ("", "  ", "null", "@"):
        with pytest.raises(SpecError) as empty:
            read_spec(text)
        assert empty.value.hint
    big = tmp_path / "model.pth"
    with big.open("wb") as file:
        file.truncate(50_000_000)
    for endless in (big, Path("/dev/zero")):
        with pytest.raises(
            SpecError, match=f"^{endless} has more than 10 MB; a spec is a short"
        ) as caught_big:
            read_spec(endless)
        assert "checkpoint" in caught_big.value.hint


def test_pipes_are_read_and_never_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr("skillbank.specs._sources._PIPE_PATIENCE_S", 0.05)
    with pytest.raises(SpecError, match="cannot be read: it is a pipe that nobody writes to"):
        read_spec(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # lets the writer open, as a shell's `<(...)` does
    writer = os.open(pipe, os.O_WRONLY)
    os.write(writer, b"a: 1\n")
    duplicate = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.close(reader)
    closing = threading.Timer(0.02, os.close, [writer])
    closing.start()
    assert read_spec(pipe) == {"a": 1}
    closing.join()
    os.close(duplicate)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(SpecError, match="has more than 10 MB"):
        read_spec("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_by_permission(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("a: 1")
    file.chmod(0)
    with pytest.raises(SpecError, match="cannot be read: Permission denied"):
        read_spec(file)
