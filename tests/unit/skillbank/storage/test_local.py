from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage import Storage
from skillbank.storage.disk import human, replacing

Fill = Callable[[dict[str, bytes]], None]
MakeStorage = Callable[..., Storage]


def test_local_paths_are_returned_as_they_are(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data set").mkdir()
    (tmp_path / "data set" / "x.json").write_text("{}")
    assert storage.fetch("data set/x.json") == Path("data set/x.json")
    assert storage.fetch_tree("data set") == Path("data set")
    assert storage.fetch_any("data set") == Path("data set")
    assert storage.fetch((tmp_path / "data set" / "x.json").as_uri()) == tmp_path / "data set" / "x.json"
    assert not storage.cache.root.exists()


def test_missing_ones_name_the_nearest(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "annotations.json").touch()
    for method in ("fetch", "fetch_tree", "fetch_any", "list"):
        with pytest.raises(NotFoundError, match=r"anotations.json: no such file or folder") as caught:
            getattr(storage, method)(str(tmp_path / "anotations.json"))
        assert caught.value.hint == f"did you mean {tmp_path / 'annotations.json'}?"
    with pytest.raises(NotFoundError) as caught:
        storage.fetch(str(tmp_path / "no" / "such" / "x"))
    assert str(tmp_path) in caught.value.hint
    assert storage.stat(str(tmp_path / "annotations.json" / "below")) is None


def test_stat_and_list(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "b").write_text("22")
    (tmp_path / "d" / "sub" / "a").write_text("1")
    file = storage.stat(f"{tmp_path}/d/b")
    folder = storage.stat(f"file://{tmp_path}/d")
    assert file is not None
    assert folder is not None
    assert (file.size, file.is_folder, folder.is_folder) == (2, False, True)
    found = storage.list(f"{tmp_path}/d/")
    assert [(entry.uri, entry.size) for entry in found] == [
        (f"{tmp_path}/d/b", 2),
        (f"{tmp_path}/d/sub/a", 1),
    ]
    assert [entry.uri for entry in storage.list(f"{tmp_path}/d/b")] == [f"{tmp_path}/d/b"]
    with pytest.raises(StorageError, match="is a file, not a folder"):
        storage.fetch_tree(f"{tmp_path}/d/b")


def test_put_and_put_tree(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "train").mkdir(parents=True)
    (source / "train" / "a.pth").write_text("weights")
    (source / "train" / "m_latest.pth").symlink_to("a.pth")
    (source / "skip.tmp").write_text("x")
    target = tmp_path / "new" / "target"
    assert storage.put_tree(source, f"file://{target}", excludes=["*.tmp"]) == 2
    assert sorted(p.name for p in target.rglob("*")) == ["a.pth", "m_latest.pth", "train"]
    assert (target / "train" / "m_latest.pth").readlink() == Path("a.pth")
    assert storage.put_tree(source, str(target), excludes=["*.tmp"]) == 2
    storage.put(source / "skip.tmp", str(target))
    assert (target / "skip.tmp").read_text() == "x"
    storage.put(target / "skip.tmp", str(target))
    assert (target / "skip.tmp").read_text() == "x"
    with pytest.raises(NotFoundError, match="no such file"):
        storage.put_tree(tmp_path / "nothing", str(target))


def test_pointer_files_on_disk_are_followed(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("weights")
    (tmp_path / "m_latest.pth").write_text("skillbank-link: a.pth\n")
    assert storage.fetch(str(tmp_path / "m_latest.pth")).resolve() == tmp_path / "a.pth"
    for target, same in (("/etc/passwd", True), ("gone.pth", False)):
        (tmp_path / "x_latest.pth").write_text(f"skillbank-link: {target}\n")
        if same:
            assert storage.fetch(str(tmp_path / "x_latest.pth")) == tmp_path / "x_latest.pth"
        else:
            with pytest.raises(NotFoundError, match=r"gone.pth"):
                storage.fetch(str(tmp_path / "x_latest.pth"))


def test_nothing_half_written_gets_a_name(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.bin", "old")]


def test_sizes_for_people() -> None:
    assert [human(n) for n in (0, 999, 1000, 2_500_000, 3 * 10**9, 4 * 10**12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "2.5 MB", "3.0 GB", "4.0 TB",
    ]  # fmt: skip


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(argv, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def no_files(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file()]


def test_a_disk_too_small_is_told_before_the_download(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server, tiny_disk: Path
) -> None:
    fill({"d/a": b"x" * 700_000, "d/b": b"y" * 700_000})
    with pytest.raises(
        StorageError, match=r"the disk is full: 1400000 bytes \(1.4 MB\) are needed, \d+ bytes"
    ) as caught:
        make_storage(cache_dir=tiny_disk / "cache").fetch_tree(f"s3://{bucket}/d")
    assert "SKILLBANK_HOME" in caught.value.hint
    assert server.gets() == []
    assert no_files(tiny_disk)


@pytest.mark.parametrize("part_bytes", [100_000, 1 << 20])
def test_a_disk_that_fills_up_meanwhile(
    make_storage: MakeStorage,
    fill: Fill,
    bucket: str,
    tiny_disk: Path,
    part_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill({"d/a": b"x" * 700_000, "d/b": b"y" * 700_000, "d/c": b"z"})
    monkeypatch.setattr("skillbank.storage.download.require_room", lambda *_: None)
    with pytest.raises(
        StorageError, match=r"the disk is full: (700000|1) bytes .* are needed, \d+ bytes .* are free"
    ):
        make_storage(cache_dir=tiny_disk / "cache", part_bytes=part_bytes).fetch_tree(f"s3://{bucket}/d")
    left = [path.stat().st_size for path in tiny_disk.rglob("*") if path.is_file()]
    assert all(path.suffix not in (".part", ".done") for path in tiny_disk.rglob("*"))
    assert sum(left) in (0, 1, 700_000, 700_001)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_system_says_that_the_disk_is_full(
    storage: Storage, fill: Fill, bucket: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fill({"a.bin": b"x" * 5000})

    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", refuse)
        with pytest.raises(StorageError, match=r"the disk is full: 5000 bytes .* are needed"):
            storage.fetch(f"s3://{bucket}/a.bin")
    assert no_files(storage.cache.root)
    assert storage.fetch(f"s3://{bucket}/a.bin").stat().st_size == 5000


def test_put_on_a_full_disk_leaves_nothing(storage: Storage, tmp_path: Path, tiny_disk: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 2_000_000)
    with pytest.raises(StorageError, match="the disk is full: 2000000 bytes"):
        storage.put(tmp_path / "big", str(tiny_disk / "big"))
    assert no_files(tiny_disk)


def test_a_disk_that_refuses(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="below: a file is where a folder is needed") as caught:
        storage.put(tmp_path / "file", str(tmp_path / "file" / "below"))
    assert caught.value.hint
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        Storage(tmp_path / "file" / "cache").cache.prepare()


@pytest.mark.parametrize("kind", ["device", "pipe", "link to a pipe"])
def test_devices_and_pipes_are_refused_without_reading(storage: Storage, tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "pipe"
    if kind != "device":
        os.mkfifo(path)
    if kind == "link to a pipe":
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "pipe")
    calls: list[Callable[[], object]] = [
        lambda: storage.fetch(str(path)),
        lambda: storage.fetch_any(path.as_uri()),
        lambda: storage.fetch_tree(str(path)),
        lambda: storage.list(str(path)),
        lambda: storage.put(path, str(tmp_path / "copy")),
    ]
    for call in calls:
        with pytest.raises(
            StorageError, match=rf"^{path}: is a device, a pipe or a socket; allowed: "
        ) as caught:
            call()
        assert caught.value.hint
    assert not (tmp_path / "copy").exists()
