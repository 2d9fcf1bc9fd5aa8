from __future__ import annotations

from pathlib import Path

import pytest

from skillbank.errors import InvalidValueError
from skillbank.storage import is_remote, join, parse, show

SIGNED = "https://host.example:8443/a%20b/c.pth?X-Amz-Signature=5ecret&X-Amz-Credential=k&part=2"


@pytest.mark.parametrize(
    ("text", "scheme", "host", "path"),
    [
        ("data/train.json", "file", "", "data/train.json"),
        ("/abs/x", "file", "", "/abs/x"),
        ("file:///abs/with%20space", "file", "", "/abs/with space"),
        ("file://localhost/abs", "file", "", "/abs"),
        ("s3://bucket/a/b.json", "s3", "bucket", "a/b.json"),
        ("S3://bucket", "s3", "bucket", ""),
        ("s3://bucket/with?mark#hash%20x", "s3", "bucket", "with?mark#hash%20x"),
        ("http://host", "http", "host", "/"),
        (SIGNED, "https", "host.example:8443", "/a%20b/c.pth"),
        ("http://[::1]:8080/x", "http", "[::1]:8080", "/x"),
    ],
)
def test_parts(text: str, scheme: str, host: str, path: str) -> None:
    uri = parse(text)
    assert (uri.scheme, uri.host, uri.path) == (scheme, host, path)


def test_full_address_is_kept_for_the_connection() -> None:
    for text in (SIGNED, "https://me:pw@host/x?q=1", "s3://b-b/k", "/abs/x"):
        assert parse(text).full == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("s3:///train", "the bucket is empty"),
        ("s3://", "the bucket is empty"),
        ("s3://buc ket/x", "'buc ket' is not the name of a bucket"),
        ("http:///x", "names no host"),
        ("https://host:port/x", "the port is not 1..65535"),
        ("https://host:99999/x", "the port is not 1..65535"),
        ("http://host:0/x", "the port is not 1..65535"),
        ("http://host:-1/x", "the port is not 1..65535"),
        ("http://:80/x", "names no host"),
        ("ngc://org/model", "scheme 'ngc' is not supported"),
        ("hf_model://org/model", "scheme 'hf_model' is not supported"),
        ("file://server/x", "names no host"),
        ("s3:/bucket/x", "too few slashes"),
        ("file:/x/y", "too few slashes"),
    ],
)
def test_bad_addresses_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidValueError, match=says) as caught:
        parse(text)
    assert caught.value.hint


def test_hint_for_too_few_slashes_can_be_followed() -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse("s3:/bucket/x")
    assert caught.value.hint == "write s3://bucket/x"
    with pytest.raises(InvalidValueError) as caught:
        parse("file:/x/y")
    assert caught.value.hint == "write file:///x/y"


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/x").local == tmp_path / "x"


def test_signature_and_password_are_in_no_text() -> None:
    uri = parse("https://user:passw0rd@host/x.pth?sig=5ecret")
    for text in (str(uri), repr(uri), show(uri.full), uri.identity):
        assert "5ecret" not in text
        assert "passw0rd" not in text
        assert "host/x.pth" in text or "path='/x.pth'" in text


def test_two_signatures_are_one_object_and_other_fields_are_not() -> None:
    one = parse("https://h/x?X-Amz-Signature=1&X-Amz-Date=2&versionId=a")
    two = parse("https://h/x?X-Amz-Signature=3&X-Amz-Date=4&versionId=a")
    other = parse("https://h/x?X-Amz-Signature=1&X-Amz-Date=2&versionId=b")
    assert one.identity == two.identity != other.identity


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("s3://b/k", True),
        ("https://h/x", True),
        ("ngc://a/b", True),
        ("file:///x", False),
        ("a/b", False),
        ("", False),
    ],
)
def test_remote(text: str, remote: bool) -> None:
    assert is_remote(text) is remote


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("s3://bucket", "a", "b.json"), "s3://bucket/a/b.json"),
        (("s3://bucket/data/", "", "/meta/x.json"), "s3://bucket/data/meta/x.json"),
        (("s3://bucket/data", "sub/"), "s3://bucket/data/sub/"),
        (("s3://bucket/a?b", "c"), "s3://bucket/a?b/c"),
        (("https://host/a?sig=x", "b"), "https://host/a/b"),
        (("data", "a"), "data/a"),
        (("/data/", "a", "a"), "/data/a/a"),
        (("file:///data", "a b"), "file:///data/a b"),
    ],
)
def test_join(parts: tuple[str, ...], joined: str) -> None:
    assert join(*parts) == joined
