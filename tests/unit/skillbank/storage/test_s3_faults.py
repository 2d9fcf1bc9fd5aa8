from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_server import CREDENTIALS, Fault, S3Server

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage import Storage

Fill = Callable[[dict[str, bytes]], None]
MakeStorage = Callable[..., Storage]


def left_over(folder: Path) -> list[str]:
    """Files that are not finished."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".part", ".done", ".tmp")
    ]


def test_a_dropped_connection_is_continued(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    body = os.urandom(3_000_000)
    fill({"x.bin": body})
    server.faults.append(Fault("drop", path=f"/{bucket}/x.bin", at=2_500_000))
    assert storage.fetch(f"s3://{bucket}/x.bin").read_bytes() == body
    first, second = [seen.range for seen in server.seen if seen.method == "GET"]
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 2_500_000


def test_a_dropped_range_is_continued(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server
) -> None:
    body = os.urandom(1_000_000)
    fill({"x.bin": body})
    server.faults.append(Fault("drop", path=f"/{bucket}/x.bin", at=100_000, skip=1))
    assert make_storage(part_bytes=400_000).fetch(f"s3://{bucket}/x.bin").read_bytes() == body
    assert len(server.gets()) == 4


def test_progress_survives_a_drop(storage: Storage, fill: Fill, bucket: str, server: S3Server) -> None:
    fill({"x.bin": os.urandom(3_000_000)})
    server.faults.append(Fault("drop", path=f"/{bucket}/x.bin", at=1_500_000))
    calls: list[tuple[int, int, int]] = []
    storage.fetch(f"s3://{bucket}/x.bin", progress=lambda *now: calls.append(now))
    assert calls[-1] == (3_000_000, 3_000_000, 1)


def test_what_arrived_before_the_end_is_used_by_the_next_call(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server
) -> None:
    body = os.urandom(3_000_000)
    fill({"x.bin": body})
    server.faults.append(Fault("drop", path=f"/{bucket}/x.bin", at=2_500_000))
    server.faults.append(Fault("drop", path=f"/{bucket}/x.bin", at=0, times=3))
    with pytest.raises(StorageError, match=f"s3://{bucket}/x.bin") as caught:
        make_storage().fetch(f"s3://{bucket}/x.bin")
    assert caught.value.hint
    server.faults.clear()
    server.seen.clear()
    assert make_storage().fetch(f"s3://{bucket}/x.bin").read_bytes() == body
    (again,) = [seen.range for seen in server.seen if seen.method == "GET"]
    assert int(again.removeprefix("bytes=").removesuffix("-")) > 0


def test_ranges_that_arrived_are_not_read_again(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server
) -> None:
    body = os.urandom(1_000_000)
    fill({"x.bin": body})
    storage = make_storage(part_bytes=250_000, workers=1)
    server.faults.append(Fault("drop", path=f"/{bucket}/x.bin", skip=2, times=9))
    with pytest.raises(StorageError):
        storage.fetch(f"s3://{bucket}/x.bin")
    server.faults.clear()
    server.seen.clear()
    calls: list[tuple[int, int, int]] = []
    path = storage.fetch(f"s3://{bucket}/x.bin", progress=lambda *now: calls.append(now))
    assert path.read_bytes() == body
    assert sorted(seen.range for seen in server.seen if seen.method == "GET") == [
        "bytes=500000-749999",
        "bytes=750000-999999",
    ]
    assert calls[-1] == (1_000_000, 1_000_000, 1)
    assert left_over(storage.cache.root) == []


@pytest.mark.usefixtures("no_backoff")
def test_slow_down_is_obeyed(storage: Storage, fill: Fill, bucket: str, server: S3Server) -> None:
    fill({"x.bin": b"1"})
    server.faults.append(Fault("status", path=f"/{bucket}/x.bin", status=503, code="SlowDown", times=2))
    assert storage.fetch(f"s3://{bucket}/x.bin").read_bytes() == b"1"
    assert len(server.gets()) == 3


@pytest.mark.usefixtures("no_backoff")
def test_slow_down_without_end(storage: Storage, fill: Fill, bucket: str, server: S3Server) -> None:
    fill({"x.bin": b"1"})
    server.faults.append(Fault("status", path=f"/{bucket}/x.bin", status=503, code="SlowDown", times=99))
    with pytest.raises(StorageError, match=r"SlowDown \(HTTP 503\) after several tries"):
        storage.fetch(f"s3://{bucket}/x.bin")
    assert len(server.gets()) == 3


def test_corrupted_bytes_are_read_again(
    storage: Storage, fill: Fill, bucket: str, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    body = os.urandom(100_000)
    fill({"x.bin": body})
    server.faults.append(Fault("corrupt", path=f"/{bucket}/x.bin", at=77))
    assert storage.fetch(f"s3://{bucket}/x.bin").read_bytes() == body
    assert len(server.gets()) == 2


@pytest.mark.parametrize("ranges", [False, True])
def test_bytes_that_stay_wrong_are_an_error(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server, client: Any, ranges: bool
) -> None:
    storage = make_storage(part_bytes=1000 if ranges else 1 << 20)
    client.put_object(Bucket=bucket, Key="x.bin", Body=os.urandom(5000), ChecksumAlgorithm="SHA1")
    server.faults.append(Fault("corrupt", path=f"/{bucket}/x.bin", at=7, times=999))
    with pytest.raises(StorageError, match=f"s3://{bucket}/x.bin") as caught:
        storage.fetch(f"s3://{bucket}/x.bin")
    assert ("its MD5 is" if ranges else "does not have the checksum") in caught.value.message
    assert "upload it again" in caught.value.hint
    assert not (storage.cache.root / "named").exists()
    server.faults.clear()
    assert storage.fetch(f"s3://{bucket}/x.bin").stat().st_size == 5000


def test_our_uploads_are_checked_by_sha256(
    storage: Storage, fill: Fill, bucket: str, client: Any, server: S3Server
) -> None:
    wrong = hashlib.sha256(b"other").hexdigest()
    client.put_object(Bucket=bucket, Key="x", Body=b"this", Metadata={"sha256": wrong})
    with pytest.raises(StorageError, match=f"its SHA256 is .*, the store says {wrong}, twice"):
        storage.fetch(f"s3://{bucket}/x")


def test_etags_that_are_no_md5_can_be_left_unchecked(
    make_storage: MakeStorage, bucket: str, client: Any, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skillbank.storage.entry import Entry
    from skillbank.storage.s3 import _digests

    entry = Entry(f"s3://{bucket}/x", 1, "0" * 32)
    assert _digests(entry, {}) == {"md5": "0" * 32}
    assert _digests(entry, {"ServerSideEncryption": "aws:kms"}) == {}
    assert _digests(Entry(f"s3://{bucket}/x", 1, "0" * 32 + "-2"), {}) == {}
    monkeypatch.setenv("SKILLBANK_ETAG_CHECK", "0")
    assert _digests(entry, {}) == {}


def test_an_object_that_changes_meanwhile_is_not_mixed(
    make_storage: MakeStorage, fill: Fill, bucket: str, client: Any
) -> None:
    fill({"x.bin": b"a" * 5000})
    storage = make_storage(part_bytes=1000, workers=1)
    changed = []

    def change(*_: int) -> None:
        if not changed:
            changed.append(client.put_object(Bucket=bucket, Key="x.bin", Body=b"b" * 5000))

    with pytest.raises(StorageError, match="changed while it was being read"):
        storage.fetch(f"s3://{bucket}/x.bin", progress=change)
    assert storage.fetch(f"s3://{bucket}/x.bin").read_bytes() == b"b" * 5000


@pytest.mark.parametrize(
    ("status", "code", "says", "hint"),
    [
        (403, "AccessDenied", "denies access", "get-caller-identity"),
        (403, "InvalidAccessKeyId", "does not know this access key", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "secret key does not belong", "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "token has expired", "export"),
        (403, "RequestTimeTooSkewed", "clock of this machine", ""),
        (301, "PermanentRedirect", "another region", "AWS_DEFAULT_REGION"),
        (507, "XMinioStorageFull", "is full", "free"),
        (418, "Teapot", r"answers Teapot \(HTTP 418\)", "check the URI"),
    ],
)
def test_refusals_are_one_clear_error(
    storage: Storage, fill: Fill, bucket: str, server: S3Server, status: int, code: str, says: str, hint: str
) -> None:
    fill({"d/x.bin": b"1"})
    server.faults.append(Fault("status", path=f"/{bucket}/d/x.bin", status=status, code=code, times=99))
    with pytest.raises(StorageError, match=says) as caught:
        storage.fetch_tree(f"s3://{bucket}/d")
    assert f"s3://{bucket}/d/x.bin" in caught.value.message
    assert hint in caught.value.hint
    said = "".join(traceback.format_exception(caught.value))
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in said
    assert CREDENTIALS["AWS_ACCESS_KEY_ID"] not in said


def test_denied_head_is_told_from_missing(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    server.faults.append(Fault("status", path=".*", method="HEAD", status=403, times=1))
    with pytest.raises(StorageError, match="denies access"):
        storage.exists(f"s3://{bucket}/x")


def test_an_object_that_vanished_after_the_listing(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    fill({"d/a": b"1", "d/b": b"2"})
    server.faults.append(Fault("status", path=f"/{bucket}/d/b", status=404, code="NoSuchKey"))
    with pytest.raises(NotFoundError, match=f"s3://{bucket}/d/b"):
        storage.fetch_tree(f"s3://{bucket}/d")
    assert not (storage.cache.root / "trees").exists()


@pytest.mark.usefixtures("no_backoff")
def test_a_server_killed_half_way(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from s3_server import client_for

    server = S3Server().start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    client = client_for(server.url)
    client.create_bucket(Bucket="short-lived")
    for i in range(12):
        client.put_object(Bucket="short-lived", Key=f"d/{i}", Body=b"x" * 1000)
    server.faults.append(Fault("kill", skip=8))
    storage = make_storage()
    try:
        with pytest.raises(StorageError, match=r"s3://short-lived/d/\d+: .*(cannot be reached|broke|ended)"):
            storage.fetch_tree("s3://short-lived/d")
    finally:
        server.stop()
        client.close()
    assert not (storage.cache.root / "trees").exists()
    copies = [path for path in (storage.cache.root / "objects").rglob("*") if path.is_file()]
    assert all(path.stat().st_size == 1000 for path in copies if path.suffix != ".part")


@pytest.mark.usefixtures("no_backoff")
def test_nobody_at_the_endpoint(make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            make_storage().fetch("s3://bucket/x")
    assert "AWS_ENDPOINT_URL" in caught.value.hint


@pytest.mark.usefixtures("no_backoff")
def test_a_server_that_says_nothing(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server
) -> None:
    fill({"x": b"1"})
    server.latency_s = 0.5
    from skillbank.storage.retry import Retry

    with pytest.raises(StorageError, match="did not answer in time"):
        make_storage(timeout_s=0.1, retry=Retry(attempts=1)).fetch(f"s3://{bucket}/x")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": None}, "only one half is set"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "ACCESS_KEY": "k"}, "SECRET_KEY is not"),
        ({"AWS_PROFILE": "nobody"}, "the profile in AWS_PROFILE"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "AWS_MAX_ATTEMPTS"),
        ({"AWS_ENDPOINT_URL": "no-scheme"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_settings_that_cannot_be_used(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], says: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=says) as caught:
        make_storage().fetch("s3://bucket/x")
    assert caught.value.hint


def test_no_secret_in_debug_logs(
    make_storage: MakeStorage,
    fill: Fill,
    bucket: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill({"x": b"1"})
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-5ecret")
    for name in ("botocore", "boto3", "urllib3", "s3transfer"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    with caplog.at_level(logging.DEBUG):
        make_storage().fetch(f"s3://{bucket}/x")
    assert "5ecret" not in caplog.text
    assert "do-not-print" not in caplog.text
    assert "Signature" not in caplog.text


def test_two_processes_fetch_each_object_once(
    storage: Storage, fill: Fill, bucket: str, server: S3Server, tmp_path: Path
) -> None:
    objects = {f"d/{i}": os.urandom(2000) for i in range(30)}
    fill(objects)
    server.latency_s = 0.02
    program = (
        "import sys; from pathlib import Path; from skillbank.storage import Storage\n"
        "print(Storage(Path(sys.argv[1]), workers=4).fetch_tree(sys.argv[2]))"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "cache"), f"s3://{bucket}/d"]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [Path(process.communicate(timeout=60)[0].strip()) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert folders[0] == folders[1]
    assert {f"d/{p.name}": p.read_bytes() for p in folders[0].iterdir()} == objects
    assert len(server.gets()) == len(set(server.gets())) == 30
    assert left_over(tmp_path / "cache") == []
    assert server.listings() == 2


def test_a_killed_process_leaves_nothing_in_the_way(
    storage: Storage, fill: Fill, bucket: str, server: S3Server, tmp_path: Path
) -> None:
    body = os.urandom(3_000_000)
    fill({"x.bin": body})
    program = (
        "import os, sys; from pathlib import Path; from skillbank.storage import Storage\n"
        "def die(done, total, files):\n"
        "    if done > 1_000_000: os._exit(9)\n"
        "Storage(Path(sys.argv[1])).fetch(sys.argv[2], progress=die)"
    )
    uri = f"s3://{bucket}/x.bin"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache"), uri], check=False, timeout=60
    )
    assert done.returncode == 9
    assert left_over(tmp_path / "cache") != []
    server.seen.clear()
    assert storage.fetch(uri).read_bytes() == body
    assert [seen.range != "" for seen in server.seen if seen.method == "GET"] == [True]
    assert left_over(tmp_path / "cache") == []
