from pathlib import Path

import pytest

from skillbank.encryption_key import KEY_VARIABLE, EncryptionKey, read_key
from skillbank.errors import NotFoundError


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_a_key_does_not_show_itself() -> None:
    key = EncryptionKey("secret")

    assert "secret" not in f"{key} {key!r} {[key]}"
    assert key.reveal() == "secret"


@pytest.mark.parametrize(
    ("given", "in_spec", "variable", "expected"),
    [
        ("a", "b", "c", "a"),
        (None, "b", "c", "b"),
        (None, None, "c", "c"),
        (None, "", "", None),
        (None, None, None, None),
    ],
)
def test_the_strongest_source_counts(
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    in_spec: str | None,
    variable: str | None,
    expected: str | None,
) -> None:
    if variable is not None:
        monkeypatch.setenv(KEY_VARIABLE, variable)

    found = read_key(given, in_spec)

    assert (found.reveal() if found else None) == expected


def test_a_file_holds_the_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" secret\n")

    found = read_key(f"@{tmp_path}/key")

    assert found is not None
    assert found.reveal() == "secret"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read") as caught:
        read_key(f"@{tmp_path}/gone")

    assert KEY_VARIABLE in caught.value.hint


def test_an_empty_file_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" \n")
    with pytest.raises(NotFoundError, match="is empty"):
        read_key(f"@{tmp_path / 'key'}")
