from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, client_for

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage import Storage

Fill = Callable[[dict[str, bytes]], None]
MakeStorage = Callable[..., Storage]


def test_stat_tells_object_folder_and_nothing(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"data/a.json": b"12345"})
    found = storage.stat(f"s3://{bucket}/data/a.json")
    assert found is not None
    assert (found.size, found.is_folder) == (5, False)
    assert found.etag == "827ccb0eea8a706c4c34a16891f84e7b"
    assert found.modified is not None
    folder = storage.stat(f"s3://{bucket}/data")
    assert folder is not None
    assert folder.is_folder
    assert storage.exists(f"s3://{bucket}/data/")
    assert storage.exists(f"s3://{bucket}")
    assert storage.stat(f"s3://{bucket}/dat") is None
    assert storage.stat(f"s3://{bucket}/data/b.json") is None
    assert storage.stat("s3://no-such-bucket-here/x") is None


def test_list_is_recursive_sorted_and_stops_at_the_folder(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"train/b": b"1", "train/a/x": b"22", "train2/no": b"3", "train/empty/": b""})
    names = [entry.uri for entry in storage.list(f"s3://{bucket}/train")]
    assert names == [f"s3://{bucket}/train/a/x", f"s3://{bucket}/train/b"]
    assert [entry.size for entry in storage.list(f"s3://{bucket}/train/")] == [2, 1]
    assert [entry.uri for entry in storage.list(f"s3://{bucket}/train/b")] == [f"s3://{bucket}/train/b"]


def test_more_objects_than_one_page(
    storage: Storage, fill: Fill, bucket: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    fill({f"many/{i:04d}": b"" for i in range(23)})
    assert len(storage.list(f"s3://{bucket}/many")) == 23
    assert server.listings() == 3


@pytest.mark.parametrize("key", ["nothing/x.json", "nothing/"])
def test_missing_object_names_the_object(storage: Storage, bucket: str, key: str) -> None:
    with pytest.raises(NotFoundError, match=rf"s3://{bucket}/nothing") as caught:
        storage.fetch_any(f"s3://{bucket}/{key}")
    assert caught.value.hint


@pytest.mark.parametrize("method", ["fetch", "fetch_tree", "list", "fetch_any"])
def test_missing_bucket_names_the_bucket(storage: Storage, server: S3Server, method: str) -> None:
    with pytest.raises(NotFoundError, match="has no bucket 'not-my-bucket'") as caught:
        getattr(storage, method)("s3://not-my-bucket/x")
    assert "aws s3 ls" in caught.value.hint


def test_fetch_gives_content_and_name_and_asks_once(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    body = os.urandom(300_000)
    fill({"meta/frustum mask.npz": body, "empty.txt": b""})
    path = storage.fetch(f"s3://{bucket}/meta/frustum mask.npz")
    assert path.name == "frustum mask.npz"
    assert path.read_bytes() == body
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert storage.fetch(f"s3://{bucket}/meta/frustum mask.npz") == path
    assert len(server.gets()) == 1
    assert storage.fetch(f"s3://{bucket}/empty.txt").read_bytes() == b""


def test_changed_object_is_fetched_again(storage: Storage, fill: Fill, bucket: str) -> None:
    uri = f"s3://{bucket}/x.json"
    fill({"x.json": b"old"})
    old = storage.fetch(uri)
    fill({"x.json": b"new"})
    new = storage.fetch(uri)
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")


def test_a_prefix_is_no_file_and_a_file_no_prefix(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"d/x": b"1"})
    with pytest.raises(StorageError, match="is a folder, not a file"):
        storage.fetch(f"s3://{bucket}/d")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        storage.fetch_tree(f"s3://{bucket}/d/x")


def test_tree_mirrors_the_prefix_and_costs_one_listing(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    objects = {f"set/train/{i % 3}/{i}.bin": os.urandom(1000 + i) for i in range(20)}
    fill(objects)
    folder = storage.fetch_tree(f"s3://{bucket}/set/train")
    assert folder.name == "train"
    found = {f"set/train/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == objects
    assert len(server.seen) == 1 + 20
    server.seen.clear()
    assert storage.fetch_tree(f"s3://{bucket}/set/train/") == folder
    assert (len(server.seen), server.listings()) == (1, 1)


def test_tree_of_a_changed_prefix_fetches_the_change_only(
    storage: Storage, fill: Fill, bucket: str, client: Any, server: S3Server
) -> None:
    fill({"d/a": b"1", "d/b": b"2", "d/c": b"3"})
    before = storage.fetch_tree(f"s3://{bucket}/d")
    fill({"d/b": b"22"})
    client.delete_object(Bucket=bucket, Key="d/c")
    after = storage.fetch_tree(f"s3://{bucket}/d")
    assert server.gets() == [f"/{bucket}/d/b"]
    assert {p.name: p.read_bytes() for p in after.iterdir()} == {"a": b"1", "b": b"22"}
    assert {p.name: p.read_bytes() for p in before.iterdir()} == {"a": b"1", "b": b"2", "c": b"3"}


def test_tree_of_changed_content_of_equal_size(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"d/a": b"1"})
    before = storage.fetch_tree(f"s3://{bucket}/d")
    fill({"d/a": b"2"})
    after = storage.fetch_tree(f"s3://{bucket}/d")
    assert ((before / "a").read_bytes(), (after / "a").read_bytes()) == (b"1", b"2")


def test_a_tree_with_a_cut_file_is_mended(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"d/a": b"12345", "d/b": b"2"})
    file = storage.fetch_tree(f"s3://{bucket}/d") / "a"
    file.chmod(0o644)
    file.write_bytes(b"")
    assert (storage.fetch_tree(f"s3://{bucket}/d") / "a").read_bytes() == b"12345"


def test_damaged_tree_is_mended_without_downloads(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    fill({"d/a": b"1", "d/b": b"2"})
    folder = storage.fetch_tree(f"s3://{bucket}/d")
    (folder / "b").unlink()
    server.seen.clear()
    assert sorted(p.name for p in storage.fetch_tree(f"s3://{bucket}/d").iterdir()) == ["a", "b"]
    assert server.gets() == []


def test_a_copy_of_the_wrong_size_is_fetched_again(
    storage: Storage, fill: Fill, bucket: str, server: S3Server
) -> None:
    """As after a power failure, when names were written to the disk and content was not."""
    fill({"a.bin": b"0123456789"})
    path = storage.fetch(f"s3://{bucket}/a.bin")
    path.chmod(0o644)
    path.write_bytes(b"")
    assert storage.fetch(f"s3://{bucket}/a.bin").read_bytes() == b"0123456789"
    assert len(server.gets()) == 2


def test_large_objects_come_in_ranges(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server
) -> None:
    body = os.urandom(1_000_003)
    fill({"d/large": body, "d/small": b"s"})
    folder = make_storage(part_bytes=300_000).fetch_tree(f"s3://{bucket}/d")
    assert (folder / "large").read_bytes() == body
    ranges = sorted(seen.range for seen in server.seen if seen.path.endswith("large"))
    assert ranges == ["bytes=0-299999", "bytes=300000-599999", "bytes=600000-899999", "bytes=900000-1000002"]


def test_progress_adds_up(make_storage: MakeStorage, fill: Fill, bucket: str) -> None:
    fill({"d/a": b"x" * 1000, "d/b": b"y" * 250_000, "d/c": b""})
    calls: list[tuple[int, int, int]] = []
    storage = make_storage(part_bytes=100_000)
    storage.fetch_tree(f"s3://{bucket}/d", progress=lambda *now: calls.append(now))
    assert calls[-1] == (251_000, 251_000, 3)
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert {call[1] for call in calls} == {251_000}
    calls.clear()
    storage.fetch_tree(f"s3://{bucket}/d", progress=lambda *now: calls.append(now))
    assert calls == [(251_000, 251_000, 3)]


@pytest.mark.parametrize("key", ["d/../../evil", "d//x", "d/./x"])
def test_keys_that_are_no_file_names_are_refused(storage: Storage, fill: Fill, bucket: str, key: str) -> None:
    fill({"d/fine": b"1"})
    # boto3 tidies such keys away on the way out, so the listing is where they come from.
    listed = storage.list
    entries = listed(f"s3://{bucket}/d")
    from dataclasses import replace

    from skillbank.storage import parse
    from skillbank.storage.entry import relative_names

    bad = [*entries, replace(entries[0], uri=f"s3://{bucket}/{key}")]
    with pytest.raises(StorageError, match=r"1 of 2 objects cannot be local files.*not a safe name"):
        relative_names(bad, parse(f"s3://{bucket}/d"))


def test_a_key_that_is_file_and_folder_is_refused(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"d/a": b"1", "d/a/b": b"2"})
    with pytest.raises(StorageError, match="'a' is a file and a folder at once"):
        storage.fetch_tree(f"s3://{bucket}/d")


def test_older_variable_names_serve(
    make_storage: MakeStorage, fill: Fill, bucket: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill({"x": b"1"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ACCESS_KEY", "old-key")
    monkeypatch.setenv("SECRET_KEY", "old-secret")
    monkeypatch.setenv("S3_ENDPOINT_URL", server.url)
    monkeypatch.setenv("CLOUD_REGION", "eu-west-1")
    assert make_storage().fetch(f"s3://{bucket}/x").read_bytes() == b"1"
    assert all(seen.signed for seen in server.seen)


def test_unsigned_requests_are_announced(
    make_storage: MakeStorage,
    fill: Fill,
    bucket: str,
    client: Any,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill({"private": b"1"})
    client.put_object(Bucket=bucket, Key="x", Body=b"1", ACL="public-read")
    server.seen.clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage = make_storage()
    with caplog.at_level(logging.WARNING):
        assert storage.fetch(f"s3://{bucket}/x").read_bytes() == b"1"
    assert not any(seen.signed for seen in server.seen)
    with pytest.raises(StorageError, match="denies access without credentials") as caught:
        storage.fetch(f"s3://{bucket}/private")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    said = [record.message for record in caplog.records if "no S3 credentials were found" in record.message]
    assert len(said) == 1


def test_a_pool_for_all_workers(
    make_storage: MakeStorage, fill: Fill, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill({f"d/{i}": b"1" for i in range(40)})
    with caplog.at_level(logging.WARNING):
        make_storage(workers=16).fetch_tree(f"s3://{bucket}/d")
    assert "Connection pool is full" not in caplog.text


class KeepAlive(BaseHTTPRequestHandler):
    """Answers listings and reads as S3 does, and leaves connections open, as S3 does and moto does not."""

    protocol_version = "HTTP/1.1"
    body = b"content"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        etag = hashlib.md5(self.body).hexdigest()
        item = f"<Contents><Key>d/%d</Key><Size>7</Size><ETag>&quot;{etag}&quot;</ETag></Contents>"
        listing = "".join(item % number for number in range(40))
        answer = (
            f"<ListBucketResult>{listing}</ListBucketResult>".encode()
            if "list-type" in self.path
            else self.body
        )
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_connections_are_used_again(make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib3.connection import HTTPConnection

    opened: list[object] = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(HTTPConnection, "connect", lambda self: (opened.append(self), connect(self)))
    with ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        storage = make_storage(workers=4)
        folder = storage.fetch_tree("s3://bucket/d")
        storage.close()
        server.shutdown()
    assert len(list(folder.iterdir())) == 40
    assert 1 <= len(opened) <= 4


def test_put_says_what_it_stored(
    storage: Storage, bucket: str, client: Any, server: S3Server, tmp_path: Path
) -> None:
    file = tmp_path / "m.pth"
    file.write_bytes(b"weights")
    storage.put(file, f"s3://{bucket}/out/m.pth")
    storage.put(file, f"s3://{bucket}/other/")
    md5 = base64.b64encode(hashlib.md5(b"weights").digest()).decode()
    assert [seen.md5 for seen in server.seen if seen.method == "PUT"] == [md5, md5]
    head = client.head_object(Bucket=bucket, Key="out/m.pth")
    assert head["Metadata"] == {"sha256": hashlib.sha256(b"weights").hexdigest()}
    assert client.get_object(Bucket=bucket, Key="other/m.pth")["Body"].read() == b"weights"


def test_large_files_go_up_in_parts(
    storage: Storage, bucket: str, client: Any, server: S3Server, tmp_path: Path
) -> None:
    file = tmp_path / "large.bin"
    body = os.urandom(17 << 20)
    file.write_bytes(body)
    storage.put(file, f"s3://{bucket}/large.bin")
    head = client.head_object(Bucket=bucket, Key="large.bin")
    assert head["ETag"].endswith('-2"')
    assert head["Metadata"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert storage.fetch(f"s3://{bucket}/large.bin").read_bytes() == body


def test_put_needs_a_file_a_bucket_and_a_name(storage: Storage, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        storage.put(tmp_path / "nothing", f"s3://{bucket}/x")
    with pytest.raises(StorageError, match="is a folder"):
        storage.put(tmp_path, f"s3://{bucket}/x")
    (tmp_path / "f").write_bytes(b"1")
    with pytest.raises(NotFoundError, match="has no bucket 'not-my-bucket'"):
        storage.put(tmp_path / "f", "s3://not-my-bucket/x")


def test_put_tree_and_back(storage: Storage, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "job"
    for name in ("train/a.pth", "train/log.txt", "inputs/secret", "tmp/x.part"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "train" / "model_latest.pth").symlink_to("a.pth")
    (source / "outside").symlink_to("/etc/hostname")
    assert storage.put_tree(source, f"s3://{bucket}/results", excludes=["inputs/", "*.part"]) == 3
    folder = storage.fetch_tree(f"s3://{bucket}/results")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()) == [
        "train/a.pth",
        "train/log.txt",
        "train/model_latest.pth",
    ]
    latest = folder / "train" / "model_latest.pth"
    assert latest.is_symlink()
    assert latest.read_text() == "train/a.pth"
    assert storage.fetch(f"s3://{bucket}/results/train/model_latest.pth").read_text() == "train/a.pth"
    assert storage.fetch_tree(f"s3://{bucket}/results") == folder


def test_a_pointer_cannot_lead_out(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"d/x_latest.pth": b"skillbank-link: ../../../../etc/passwd\n", "d/a": b"1"})
    folder = storage.fetch_tree(f"s3://{bucket}/d")
    assert not (folder / "x_latest.pth").is_symlink()
    with pytest.raises(StorageError, match=r"is a link to '../../../../etc/passwd', out of its folder"):
        storage.fetch(f"s3://{bucket}/d/x_latest.pth")


def test_closing_twice_and_using_again(storage: Storage, fill: Fill, bucket: str) -> None:
    fill({"x": b"1"})
    assert storage.exists(f"s3://{bucket}/x")
    storage.close()
    storage.close()
    assert storage.exists(f"s3://{bucket}/x")


def test_stores_without_trailing_checksums_are_served(
    storage: Storage, bucket: str, server: S3Server, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"1")
    storage.put(tmp_path / "f", f"s3://{bucket}/f")
    client = client_for(server.url)
    head = client.head_object(Bucket=bucket, Key="f", ChecksumMode="ENABLED")
    client.close()
    assert "ChecksumCRC32" not in head
