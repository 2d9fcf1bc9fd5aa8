from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_server import Fault, S3Server

from skillbank.errors import ConflictError, NotFoundError, StorageError
from skillbank.storage import Storage
from skillbank.storage.upload import Uploader

MakeStorage = Callable[..., Storage]
NEVER = 3600.0


def keys(client: Any, bucket: str) -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def test_everything_is_there_at_the_end(
    storage: Storage, bucket: str, client: Any, server: S3Server, results: Path
) -> None:
    with Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage, excludes=["inputs/"]):
        (results / "inputs").mkdir()
        (results / "inputs" / "big").write_bytes(b"x")
        (results / "m.pth").write_bytes(b"weights")
        (results / "a_latest.pth").symlink_to("m.pth")
        (results / "half.pth.part").write_bytes(b"x")
    assert keys(client, bucket) == {"job/m.pth": b"weights", "job/a_latest.pth": b"skillbank-link: m.pth\n"}
    order = [seen.path for seen in server.seen if seen.method == "PUT"]
    assert order == [f"/{bucket}/job/m.pth", f"/{bucket}/job/a_latest.pth"]


def test_a_file_is_sent_when_it_was_the_same_in_two_looks(
    storage: Storage, bucket: str, client: Any, results: Path
) -> None:
    with Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage) as uploader:
        (results / "m.pth").write_bytes(b"first half")
        assert uploader.sync() == 0
        with (results / "m.pth").open("ab") as file:
            file.write(b", second half")
        assert uploader.sync() == 0
        assert uploader.sync() == 1
        assert uploader.sync() == 0
        assert keys(client, bucket) == {"job/m.pth": b"first half, second half"}
        (results / "m.pth").write_bytes(b"new epoch")
        assert uploader.sync() == 0
        assert uploader.sync() == 1
    assert keys(client, bucket) == {"job/m.pth": b"new epoch"}


def test_logs_are_sent_while_they_grow(storage: Storage, bucket: str, client: Any, results: Path) -> None:
    with Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage) as uploader:
        for line in range(3):
            with (results / "status.json").open("a") as file:
                file.write(f"{line}\n")
            assert uploader.sync() == 1
        assert keys(client, bucket) == {"job/status.json": b"0\n1\n2\n"}


def test_it_looks_by_itself(storage: Storage, bucket: str, client: Any, results: Path) -> None:
    with Uploader(results, f"s3://{bucket}/job", interval_s=0.02, storage=storage):
        (results / "m.pth").write_bytes(b"1")
        end = time.monotonic() + 10
        while not keys(client, bucket) and time.monotonic() < end:
            time.sleep(0.02)
        assert keys(client, bucket) == {"job/m.pth": b"1"}


def test_the_rest_is_sent_after_a_failure(storage: Storage, bucket: str, client: Any, results: Path) -> None:
    def job() -> None:
        with Uploader(results, f"s3://{bucket}/j", interval_s=NEVER, storage=storage):
            (results / "m.pth").write_bytes(b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job()
    assert keys(client, bucket) == {"j/m.pth": b"1"}


def test_the_rest_is_sent_after_sigterm(bucket: str, client: Any, results: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from skillbank.storage.upload import Uploader\n"
        "with Uploader(Path(sys.argv[1]), sys.argv[2], interval_s=3600):\n"
        "    (Path(sys.argv[1]) / 'm.pth').write_text('1')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(results), f"s3://{bucket}/job"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert keys(client, bucket) == {"job/m.pth": b"1"}


def test_handlers_of_the_program_are_left_alone(storage: Storage, bucket: str, results: Path) -> None:
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage):
            assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("no_backoff")
def test_a_look_that_fails_is_made_up_for(
    storage: Storage,
    bucket: str,
    client: Any,
    server: S3Server,
    results: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.faults.append(Fault("status", path=f"/{bucket}/job/.*", method="PUT", times=3))
    with (
        caplog.at_level(logging.WARNING),
        Uploader(results, f"s3://{bucket}/job", interval_s=0.02, storage=storage),
    ):
        (results / "a.log").write_text("1")
        end = time.monotonic() + 10
        while not keys(client, bucket) and time.monotonic() < end:
            time.sleep(0.02)
    assert keys(client, bucket) == {"job/a.log": b"1"}
    assert "SlowDown" in caplog.text


@pytest.mark.usefixtures("no_backoff")
def test_files_that_cannot_be_sent_are_an_error_unless_the_job_failed(
    storage: Storage,
    bucket: str,
    client: Any,
    server: S3Server,
    results: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (results / "good.pth").write_text("1")
    for name in ("bad1.pth", "bad2.pth"):
        (results / name).write_text("1")
    server.faults.append(
        Fault("status", path=f"/{bucket}/job/bad.*", method="PUT", times=999, status=403, code="AccessDenied")
    )
    with (
        pytest.raises(StorageError, match="has 2 problems"),
        Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage),
    ):
        pass
    assert set(keys(client, bucket)) == {"job/good.pth"}
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ZeroDivisionError),
        Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage),
    ):
        raise ZeroDivisionError
    assert "denies access" in caplog.text


def test_a_target_that_cannot_be_is_told_at_once(storage: Storage, server: S3Server, results: Path) -> None:
    with pytest.raises(NotFoundError, match="has no bucket 'not-my-bucket'"):
        Uploader(results, "s3://not-my-bucket/job", storage=storage).__enter__()
    with pytest.raises(StorageError, match="read only"):
        Uploader(results, "http://127.0.0.1:9/x", storage=storage).__enter__()
    with pytest.raises(ConflictError, match=r"the target .* is the folder itself"):
        Uploader(results, str(results), storage=storage).__enter__()
    (results / "file").touch()
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        Uploader(results / "new", str(results / "file"), storage=storage).__enter__()
    assert threading.active_count() < 50
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_bucket_that_may_only_be_written(
    storage: Storage,
    bucket: str,
    client: Any,
    server: S3Server,
    results: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.faults.append(Fault("status", path=f"/{bucket}/?", method="HEAD", status=403))
    with (
        caplog.at_level(logging.WARNING),
        Uploader(results, f"s3://{bucket}/j", interval_s=NEVER, storage=storage),
    ):
        (results / "a").write_text("1")
    assert keys(client, bucket) == {"j/a": b"1"}
    assert "writing is tried all the same" in caplog.text


def test_to_a_folder(storage: Storage, results: Path, tmp_path: Path) -> None:
    target = tmp_path / "mounted"
    with Uploader(results, f"file://{target}/job", interval_s=NEVER, storage=storage):
        (results / "train").mkdir()
        (results / "train" / "a.pth").write_text("1")
        (results / "train" / "a_latest.pth").symlink_to("a.pth")
    assert (target / "job" / "train" / "a_latest.pth").readlink() == Path("a.pth")
    assert (target / "job" / "train" / "a_latest.pth").read_text() == "1"


def test_a_link_that_moved_on_is_sent_again(
    storage: Storage, bucket: str, client: Any, results: Path
) -> None:
    with Uploader(results, f"s3://{bucket}/job", interval_s=NEVER, storage=storage) as uploader:
        for epoch in (0, 1):
            (results / f"e{epoch}.pth").write_text("x")
            (results / "m_latest.pth").unlink(missing_ok=True)
            (results / "m_latest.pth").symlink_to(f"e{epoch}.pth")
            uploader.sync()
            uploader.sync()
            assert keys(client, bucket)["job/m_latest.pth"] == f"skillbank-link: e{epoch}.pth\n".encode()


def test_links_that_lead_out_are_left_out_and_told(
    storage: Storage, results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_text("x")
    (results / "a").write_text("1")
    (results / "leak").symlink_to(tmp_path / "secret")
    (results / "loop").symlink_to(results, target_is_directory=True)
    with caplog.at_level(logging.WARNING):
        assert storage.put_tree(results, str(tmp_path / "out")) == 1
    assert "leak: not sent" in caplog.text
