"""Names of places: plain paths, ``file://``, ``s3://`` and ``http(s)://``.

What follows the ``?`` of a web address may be a signature, and what stands before an ``@`` a password.
Neither is part of any text made here: `str` of a `Uri` and `show` are for logs and errors, `Uri.full` is for
the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from skillbank.errors import InvalidValueError

__all__ = ["SCHEMES", "Uri", "is_remote", "join", "parse", "show"]

SCHEMES = ("file", "s3", "http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")
_ONE_SLASH = re.compile(r"(s3|https?|file):/?[^/]", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# Query fields of signed links change with every signature while the object stays the same.
_SIGNING = re.compile(
    r"x-(amz|goog|oss|ms)-.*|signature|sig|awsaccesskeyid|googleaccessid|ossaccesskeyid|expires|se|sp|sv|sr|st|spr"
    r"|sk[a-z]+|policy|key-pair-id|.*token|api_?key|auth.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Uri:
    """A place, taken apart.

    Attributes:
        scheme: ``file`` also for plain paths.
        host: bucket of ``s3``, ``host[:port]`` of the web, empty for files.
        path: local path, object key without a leading slash, or path on the web server.
        query: of a web address; may hold a signature.
        userinfo: ``user:password`` of a web address.
    """

    scheme: str
    host: str
    path: str
    query: str = field(default="", repr=False)
    userinfo: str = field(default="", repr=False)

    def __str__(self) -> str:
        if self.scheme == "file":
            return self.path
        slash = "" if self.scheme != "s3" or not self.path else "/"
        return f"{self.scheme}://{self.host}{slash}{self.path}{'?...' if self.query else ''}"

    @property
    def is_remote(self) -> bool:
        """True when a connection is needed."""
        return self.scheme != "file"

    @property
    def local(self) -> Path:
        """The path of a file; ``~`` is expanded."""
        return Path(self.path).expanduser() if self.path.startswith("~") else Path(self.path)

    @property
    def name(self) -> str:
        """Last part of the path, decoded; empty for the root of a bucket or host."""
        last = self.path.rstrip("/").rsplit("/", 1)[-1]
        return unquote(last) if self.scheme in ("http", "https") else last

    @property
    def full(self) -> str:
        """The address with everything in it, for the connection only."""
        if self.scheme in ("file", "s3"):
            return str(self)
        login = f"{self.userinfo}@" if self.userinfo else ""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{login}{self.host}{self.path}{query}"

    @property
    def is_signed(self) -> bool:
        """Whether the query holds a signature or a token, which gives access to whoever reads it."""
        return any(_SIGNING.fullmatch(name) for name, _ in parse_qsl(self.query, keep_blank_values=True))

    @property
    def identity(self) -> str:
        """The address without login and signature: equal for two signed links to one object."""
        if not self.query:
            return str(self)
        pairs = parse_qsl(self.query, keep_blank_values=True)
        kept = [(name, value) for name, value in pairs if not _SIGNING.fullmatch(name)]
        return f"{self.scheme}://{self.host}{self.path}" + (f"?{urlencode(kept)}" if kept else "")


def is_remote(text: str) -> bool:
    """True for an address that needs a connection, supported or not; False for plain paths and ``file://``."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() != "file"


def show(text: str) -> str:
    """The place without login and query, fit for logs and errors; never fails."""
    found = _SCHEME.match(text)
    if found is None or found[1].lower() in ("file", "s3"):
        return text
    rest, mark, _ = text[found.end() :].partition("?")
    host, slash, path = rest.partition("/")
    return f"{found[0]}{host.rpartition('@')[2]}{slash}{path.partition('#')[0]}{'?...' if mark else ''}"


def parse(text: str) -> Uri:
    """Take a place apart.

    Raises:
        InvalidValueError: empty, of an unknown scheme, or without bucket or host.
    """
    text = str(text)
    if not text.strip():
        raise InvalidValueError(
            "a path or URI is empty; allowed: a path, file://, s3://, http(s)://",
            hint="is a variable in the command unset?",
            value=text,
        )
    found = _SCHEME.match(text)
    if found is None:
        if _ONE_SLASH.match(text) and not Path(text).exists():
            scheme, _, rest = text.partition(":")
            fixed = f"{scheme}://{'/' if scheme.lower() == 'file' else ''}{rest.lstrip('/')}"
            raise InvalidValueError(
                f"{show(fixed)}: written with too few slashes", hint=f"write {show(fixed)}", value=show(fixed)
            )
        return Uri("file", "", text)
    scheme, rest = found[1].lower(), text[found.end() :]
    if scheme == "file":
        return _parse_file(text, rest)
    if scheme == "s3":
        return _parse_s3(text, rest)
    if scheme in ("http", "https"):
        return _parse_web(text, scheme)
    raise InvalidValueError(
        f"{show(text)}: scheme '{scheme}' is not supported; allowed: a plain path, {', '.join(SCHEMES)}",
        hint="download it with the tool of its provider and give the local path",
        value=show(text),
        allowed=SCHEMES,
    )


def _parse_file(text: str, rest: str) -> Uri:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise InvalidValueError(
            f"{text}: a file URI names no host; allowed: file:///absolute/path",
            hint=f"write the plain path: {unquote(rest)}",
            value=text,
        )
    return Uri("file", "", "/" + unquote(path))


def _parse_s3(text: str, rest: str) -> Uri:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        what = f"'{bucket}' is not the name of a bucket" if bucket else "the bucket is empty"
        raise InvalidValueError(
            f"{text}: {what}; the form is s3://bucket/key",
            hint="is a variable in the command unset?" if not bucket else "write s3://bucket/key",
            value=text,
        )
    return Uri("s3", bucket, key)


def _parse_web(text: str, scheme: str) -> Uri:
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
        parts = urlsplit("")
    if not host:
        raise InvalidValueError(
            f"{show(text)}: the address names no host; the form is {scheme}://host/path",
            hint="is a variable in the command unset?",
            value=show(text),
        )
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise InvalidValueError(
            f"{show(text)}: the port is not 1..65535; the form is {scheme}://host:port/path",
            hint="correct the port, or leave it out",
            value=show(text),
        )
    shown_host = f"[{host}]" if ":" in host else host
    return Uri(
        scheme,
        f"{shown_host}:{port}" if port else shown_host,
        parts.path or "/",
        query=parts.query,
        userinfo=parts.netloc.rpartition("@")[0],
    )


def join(uri: str, *parts: str) -> str:
    """A place below another one; empty parts are skipped. A query is dropped: a signature fits one object.

    Examples:
        >>> join("s3://bucket/data/", "meta/train.json")
        's3://bucket/data/meta/train.json'
    """
    is_web = uri.lower().startswith(("http://", "https://"))
    base = uri.partition("?")[0] if is_web else uri
    for part in parts:
        if piece := part.lstrip("/"):
            base = f"{base.rstrip('/')}/{piece}"
    return base
