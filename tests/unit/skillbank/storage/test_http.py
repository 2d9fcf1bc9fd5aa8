from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage import Storage

MakeStorage = Callable[..., Storage]
QUERY = "?X-Amz-Signature=5ecret&X-Amz-Credential=c"


class Site:
    """What the server below offers, how it fails, and what it was asked."""

    def __init__(self) -> None:
        self.body = os.urandom(2_500_000)
        self.headers: dict[str, str] = {"ETag": '"v1"'}
        self.has_ranges = True
        self.ignores_conditions = False
        self.conditions: list[str | None] = []
        self.head_status = 200
        self.status: list[int] = []
        self.cut_at: list[int] = []
        self.retry_after = ""
        self.length: bool | str = True
        self.seen: list[tuple[str, str, str]] = []
        self.url = ""

    def gets(self) -> list[str]:
        return [asked for method, _, asked in self.seen if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(self.site.head_status)

    def do_GET(self) -> None:
        self.answer(self.site.status.pop(0) if self.site.status else 200)

    def answer(self, status: int) -> None:
        site = self.site
        asked = self.headers.get("Range", "")
        site.seen.append((self.command, self.path, asked))
        body, code = site.body, status
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        condition = self.headers.get("If-Range")
        site.conditions.append(condition)
        unchanged = site.ignores_conditions or condition in (
            None,
            site.headers.get("ETag"),
            site.headers.get("Last-Modified"),
        )
        extra = {}
        if status >= 400 or not self.path.startswith("/file"):
            code, body = (status if status >= 400 else 404), b"no"
        elif found and site.has_ranges and unchanged:
            start, end = int(found[1]), int(found[2] or len(body) - 1)
            extra["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            code, body = 206, body[start : end + 1]
        self.send_response(code)
        for name, value in {**site.headers, **extra}.items():
            self.send_header(name, value)
        if site.retry_after:
            self.send_header("Retry-After", site.retry_after)
        if site.length:
            stated = site.length if isinstance(site.length, str) and code < 400 else len(body)
            self.send_header("Content-Length", str(stated))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = site.cut_at.pop(0) if site.cut_at and code < 400 and len(body) > 1 else None
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    handler = type("OwnHandler", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/file.tar"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetch_and_cache(storage: Storage, site: Site) -> None:
    path = storage.fetch(site.url)
    assert path.name == "file.tar"
    assert path.read_bytes() == site.body
    assert storage.fetch(site.url) == path
    assert site.gets() == [""]
    site.body, site.headers["ETag"] = b"new", '"v2"'
    assert storage.fetch(site.url).read_bytes() == b"new"


def test_stat(storage: Storage, site: Site) -> None:
    site.headers["Last-Modified"] = "Wed, 21 Oct 2015 07:28:00 GMT"
    found = storage.stat(site.url)
    assert found is not None
    assert (found.size, found.etag) == (2_500_000, "v1")
    assert found.modified is not None
    assert found.modified.isoformat() == "2015-10-21T07:28:00+00:00"
    assert storage.stat(site.url.replace("/file.tar", "/nothing")) is None
    assert [entry.uri for entry in storage.list(site.url)] == [site.url]


def test_missing_file(storage: Storage, site: Site) -> None:
    with pytest.raises(NotFoundError, match="/nothing: the server has no such file"):
        storage.fetch(site.url.replace("/file.tar", "/nothing"))


@pytest.mark.parametrize("validator", [{"ETag": '"v1"'}, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_broken_download_goes_on(storage: Storage, site: Site, validator: dict[str, str]) -> None:
    site.headers = validator
    site.cut_at = [2_000_000, 100_000]
    assert storage.fetch(site.url).read_bytes() == site.body
    first, second, third = site.gets()
    assert first == ""
    assert second.startswith("bytes=")
    assert third.startswith("bytes=")
    assert 0 < int(second[6:-1]) <= int(third[6:-1])
    assert site.conditions[-2:] == list(validator.values()) * 2


@pytest.mark.parametrize("case", ["no ranges", "weak etag", "no validator", "changed", "changed, not told"])
def test_otherwise_it_starts_again(storage: Storage, site: Site, case: str) -> None:
    site.cut_at = [2_000_000]
    if case == "no ranges":
        site.has_ranges = False
    elif case == "weak etag":
        site.headers = {"ETag": 'W/"v1"'}
    elif case == "no validator":
        site.headers = {}
    else:
        new = os.urandom(len(site.body))
        site.ignores_conditions = case == "changed, not told"
        calls: list[int] = []

        def change(done: int, total: int, files: int) -> None:
            if done and not calls:
                site.body, site.headers = new, {"ETag": '"v2"'}
                calls.append(done)

        assert storage.fetch(site.url, progress=change).read_bytes() == new
        return
    assert storage.fetch(site.url).read_bytes() == site.body
    assert len(site.gets()) == 2


def test_the_next_call_goes_on_where_the_last_one_stopped(make_storage: MakeStorage, site: Site) -> None:
    site.cut_at = [2_000_000, 0, 0, 0]
    with pytest.raises(StorageError, match=r"127.0.0.1") as caught:
        make_storage().fetch(site.url)
    assert caught.value.hint
    site.cut_at, site.seen = [], []
    assert make_storage().fetch(site.url).read_bytes() == site.body
    (asked,) = site.gets()
    assert int(asked[6:-1]) > 0


def test_without_a_version_nothing_is_taken_from_the_cache(storage: Storage, site: Site) -> None:
    site.headers = {}
    assert storage.fetch(site.url).read_bytes() == site.body
    site.body = os.urandom(len(site.body))
    assert storage.fetch(site.url).read_bytes() == site.body


def test_unknown_length(storage: Storage, site: Site) -> None:
    site.length = False
    assert storage.fetch(site.url).read_bytes() == site.body


def test_a_link_that_refuses_head(storage: Storage, site: Site) -> None:
    site.head_status = 403
    assert storage.fetch(site.url + QUERY).read_bytes() == site.body
    found = storage.stat(site.url)
    assert found is not None
    assert found.size == len(site.body)
    site.has_ranges = False
    assert storage.stat(site.url) == found


def test_a_new_signature_is_the_same_file(storage: Storage, site: Site) -> None:
    path = storage.fetch(site.url + QUERY)
    site.seen.clear()
    assert storage.fetch(site.url + QUERY.replace("5ecret", "other")) == path
    assert site.gets() == []


def test_server_errors_are_tried_again(storage: Storage, site: Site) -> None:
    site.status = [503, 500]
    assert storage.fetch(site.url).read_bytes() == site.body
    assert len(site.gets()) == 3
    site.status = [503] * 9
    site.headers = {"ETag": '"v3"'}
    with pytest.raises(StorageError, match="HTTP 503"):
        storage.fetch(site.url)


def test_denied(storage: Storage, site: Site) -> None:
    site.status = [403]
    site.head_status = 403
    with pytest.raises(StorageError, match="denies access") as caught:
        storage.stat(site.url)
    assert "signed link may have expired" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Repr-Digest", "sha-256=:{}:"),
        ("Digest", "SHA-256={}"),
        ("Content-MD5", "{}"),
        ("x-amz-meta-sha256", "{hex}"),
    ],
)
def test_stated_digests_are_compared(storage: Storage, site: Site, name: str, value: str) -> None:
    kind = hashlib.md5 if name == "Content-MD5" else hashlib.sha256

    def stated(body: bytes) -> str:
        digest = kind(body)
        return value.format(base64.b64encode(digest.digest()).decode(), hex=digest.hexdigest())

    site.headers[name] = stated(b"other")
    with pytest.raises(StorageError, match=r"the store says .*, twice"):
        storage.fetch(site.url)
    site.headers[name] = stated(site.body)
    assert storage.fetch(site.url).read_bytes() == site.body


def test_expected_digest(storage: Storage, site: Site) -> None:
    good = hashlib.sha256(site.body).hexdigest()
    assert storage.fetch(site.url, sha256=good.upper()).read_bytes() == site.body
    with pytest.raises(StorageError, match=rf"its SHA-256 is {good}, expected is {'0' * 64}"):
        storage.fetch(site.url, sha256="0" * 64)


def test_the_web_is_read_only(storage: Storage, site: Site, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="read only"):
        storage.put(tmp_path / "f", site.url)
    with pytest.raises(StorageError, match="is a file, not a folder"):
        storage.fetch_tree(site.url)


@pytest.mark.parametrize("case", ["denied", "missing", "busy", "cut", "closed", "digest", "moved"])
def test_no_signature_in_errors_and_logs(
    make_storage: MakeStorage,
    site: Site,
    case: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("urllib3", "requests"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    url = site.url.replace("http://", "http://user:passw0rd@")
    if case == "closed":
        url = "http://user:passw0rd@127.0.0.1:9/file"
    elif case == "missing":
        url = url.replace("/file.tar", "/nothing")
    elif case == "cut":
        site.cut_at = [10] + [0] * 9
    elif case == "digest":
        site.headers["x-amz-meta-sha256"] = "0" * 64
    elif case == "moved":
        site.headers["Location"] = site.url + QUERY
        site.head_status = 302
    else:
        site.status = [403 if case == "denied" else 503] * 9
    with caplog.at_level(logging.DEBUG), pytest.raises((StorageError, NotFoundError)) as caught:
        make_storage().fetch(url + QUERY)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + str(caught.value.to_dict())
    assert "127.0.0.1" in said
    for secret in ("5ecret", "passw0rd", "X-Amz"):
        assert secret not in said


def test_connections_are_used_again(storage: Storage, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib3.connection import HTTPConnection

    opened: list[object] = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(HTTPConnection, "connect", lambda self: (opened.append(self), connect(self)))
    for version in range(5):
        site.headers["ETag"] = f'"{version}"'
        storage.fetch(site.url)
    assert len(opened) == 1


@pytest.fixture
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that accepts and never answers: its address, and the connections it has."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                accepted.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/file.tar", accepted
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in accepted:
        connection.close()


def test_a_server_that_never_answers_is_asked_twice_within_the_time(
    make_storage: MakeStorage, silent: tuple[str, list[socket.socket]], caplog: pytest.LogCaptureFixture
) -> None:
    url, accepted = silent
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:\d+ did not answer within 0\.1 s\b"):
        make_storage(timeout_s=0.2).fetch(url)
    assert 0.2 <= time.monotonic() - begun < 2
    assert len(accepted) == 2
    (said,) = [record for record in caplog.records if record.name == "skillbank.storage.retry"]
    assert said.levelno == logging.WARNING
    assert re.search(r"did not answer within 0\.1 s; try 2 of 2 in \d\.\d s$", said.getMessage())


def test_every_further_try_is_one_warning(
    storage: Storage, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.status = [503, 500]
    storage.fetch(site.url)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(": ")[2].partition(" in ")[0] for text in said] == [
        "the server answers HTTP 503; try 2 of 3",
        "the server answers HTTP 500; try 3 of 3",
    ]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"])
def test_a_redirect_out_of_the_web_is_refused_at_once(storage: Storage, site: Site, target: str) -> None:
    site.headers["Location"] = target
    site.head_status = 302
    with pytest.raises(StorageError, match="redirects to an address that is not of the web") as caught:
        storage.fetch(site.url)
    assert "http://, https://" in caught.value.message
    assert len(site.seen) == 1


@pytest.mark.parametrize("stated", ["-5", "many", "1.5", "5, 6"])
def test_a_length_that_is_no_number_is_a_malformed_answer(storage: Storage, site: Site, stated: str) -> None:
    site.length = stated
    with pytest.raises(StorageError, match="the server's answer is malformed: ") as caught:
        storage.fetch(site.url)
    if stated != "5, 6":
        assert f"its Content-Length is '{stated}'" in caught.value.message
    assert len(site.seen) == 1
