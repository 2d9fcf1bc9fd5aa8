import stat
from pathlib import Path

import pytest

from skillbank.errors import NotFoundError, StorageError
from skillbank.jobs import files
from skillbank.jobs.files import read_json, require_folder, write_json, write_text


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_json(file, {"a": "ü"})
    write_json(file, {"a": 2})
    assert read_json(file) == {"a": 2}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match=r"record\.json: .* \(No space left on device\)") as caught:
        write_text(file, "new")
    assert caught.value.hint == f"df -h {tmp_path}"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ud800".encode("utf-8", "surrogatepass")])
def test_what_is_no_json_object_reads_as_nothing(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_json(file) is None
    assert read_json(tmp_path / "none.json") is None


def test_a_removed_job_folder_is_named(tmp_path: Path) -> None:
    require_folder(tmp_path, "j")
    with pytest.raises(NotFoundError, match=f"job j: its folder {tmp_path}/gone is gone"):
        require_folder(tmp_path / "gone", "j")
