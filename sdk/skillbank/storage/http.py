"""``http://`` and ``https://``: read only, one stream for each file, continued where it broke."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage.entry import Body, Entry
from skillbank.storage.retry import Interrupted, Retry
from skillbank.storage.uri import Uri
from skillbank.storage.wire_logs import quiet_wire_logs

if TYPE_CHECKING:
    from requests import Response, Session

__all__ = ["HttpStore"]

_CHUNK = 1 << 20
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
# A server that says nothing at all is asked once more, and each time waited for half as long as is allowed.
_SILENT_TRIES = 2
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class HttpStore:
    """Files of web servers.

    Errors are raised without the exception of the library as their cause: its text repeats the whole address,
    and with it the signature of a signed link.

    Args:
        workers: threads that will use this store at the same time.
        retry: how often a request is tried.
        timeout_s: longest silence of the server, the second try included.
    """

    parallel = False
    one_request = 1 << 62

    def __init__(self, *, workers: int, retry: Retry, timeout_s: float) -> None:
        self._workers = workers
        self._retry = retry
        patience_s = timeout_s / _SILENT_TRIES
        self._timeout_s = (min(patience_s, 10.0), patience_s)
        self._lock = threading.Lock()
        self._session: Session | None = None

    def _connect(self) -> Session:
        import requests
        from requests.adapters import HTTPAdapter

        with self._lock:
            if self._session is None:
                quiet_wire_logs()
                self._session = requests.Session()
                adapter = HTTPAdapter(pool_connections=self._workers, pool_maxsize=self._workers)
                self._session.mount("http://", adapter)
                self._session.mount("https://", adapter)
            return self._session

    def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None

    def _request(self, method: str, uri: Uri, headers: Mapping[str, str]) -> Response:
        """Send it; the body is still to be read."""
        from requests import RequestException

        # The content is wanted as it is stored, so that size and digest fit.
        own = {"Accept-Encoding": "identity", **headers}
        problem: Exception
        try:
            answer = self._connect().request(
                method, uri.full, headers=own, stream=True, timeout=self._timeout_s, allow_redirects=True
            )
            _check_length(answer, uri)
            return answer
        except RequestException as err:
            problem = _broken(err, uri, self._timeout_s)
        except (OSError, ValueError) as err:
            problem = StorageError(
                f"{uri}: the request could not be made ({type(err).__name__})", key=str(uri)
            )
        raise problem

    def stat(self, uri: Uri) -> Entry | None:
        """The file; None when the server says that it is not there."""
        return self._retry.call(lambda: self._stat_once(uri))

    def _stat_once(self, uri: Uri) -> Entry | None:
        with closing(self._request("HEAD", uri, {})) as answer:
            answer.raw.read()  # nothing comes, but only then the connection can be used again
            if answer.ok:
                return _entry(uri, answer, answer.headers.get("Content-Length"))
            if answer.status_code in (404, 410):
                return None
        # A link signed for GET refuses HEAD, and some servers do not know it; ask for the first byte instead.
        with closing(self._request("GET", uri, {"Range": "bytes=0-0"})) as answer:
            if answer.status_code in (404, 410):
                return None
            if answer.status_code == 416:
                return _entry(uri, answer, "0")
            if not answer.ok:
                _refuse(uri, answer)
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            is_part = answer.status_code == 206 and found is not None
            return _entry(
                uri, answer, found[2] if found and is_part else answer.headers.get("Content-Length")
            )

    def list(self, uri: Uri) -> list[Entry]:
        """The file alone: the web has no folders.

        Raises:
            NotFoundError: the file is not there.
        """
        found = self.stat(uri)
        if found is None:
            raise _missing(uri)
        return [found]

    @contextmanager
    def open(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[Body]:
        """Read from `start`, or from 0 where the server cannot continue or the file has changed."""
        uri = entry.place
        condition = _condition(entry) if start else None
        headers = {"Range": f"bytes={start}-", "If-Range": condition} if condition else {}
        answer = self._request("GET", uri, headers)
        if answer.status_code == 416 or (answer.status_code == 206 and not _continues(answer, entry, start)):
            answer.close()
            answer = self._request("GET", uri, {})
        with closing(answer):
            if not answer.ok:
                _refuse(uri, answer)
            at = start if answer.status_code == 206 else 0
            yield Body(at, _chunks(answer, uri, self._timeout_s), _digests(answer))

    def put(self, path: Path, uri: Uri) -> None:
        """Always refused.

        Raises:
            StorageError: web addresses are read only.
        """
        self.check_target(uri)

    def put_link(self, target: str, uri: Uri) -> None:
        """Always refused.

        Raises:
            StorageError: web addresses are read only.
        """
        self.check_target(uri)

    def check_target(self, uri: Uri) -> None:
        """Always refused.

        Raises:
            StorageError: web addresses are read only.
        """
        raise StorageError(
            f"{uri}: web addresses are read only; allowed for writing: a path, file://, s3://",
            hint="use s3://bucket/prefix or a folder",
            key=str(uri),
        )


def _missing(uri: Uri) -> NotFoundError:
    return NotFoundError(
        f"{uri}: the server has no such file", hint="check the address", key=str(uri), value=str(uri)
    )


def _refuse(uri: Uri, answer: Response) -> NoReturn:
    status = answer.status_code
    if status in (404, 410):
        raise _missing(uri)
    if status in (401, 403):
        raise StorageError(
            f"{uri}: the server denies access (HTTP {status})",
            hint="a signed link may have expired; ask for a new one",
            key=str(uri),
        )
    error = StorageError(f"{uri}: the server answers HTTP {status}", hint="try again later", key=str(uri))
    if status not in _AGAIN:
        raise error
    after = answer.headers.get("Retry-After", "")
    raise Interrupted(error, after_s=float(after) if after.isdigit() else 0.0)


def _check_length(answer: Response, uri: Uri) -> None:
    """Refuse an answer whose length is no number: nobody can tell whether it is whole."""
    stated = answer.headers.get("Content-Length")
    if stated is None or not answer.ok:
        return
    if not all(part.strip().isascii() and part.strip().isdigit() for part in stated.split(",")):
        answer.close()
        raise _malformed(uri, f"its Content-Length is {stated[:40]!r}; allowed: a number of bytes")


def _malformed(uri: Uri, what: str) -> StorageError:
    return StorageError(
        f"{uri}: the server's answer is malformed: {what}",
        hint="tell whoever runs this server, or take the file from another place",
        key=str(uri),
    )


def _broken(err: Exception, uri: Uri, timeout_s: tuple[float, float]) -> Exception:
    """The error for a request or body that failed below HTTP; its text is not used.

    Args:
        timeout_s: how long was waited for a connection, and for an answer.
    """
    import requests
    from urllib3.exceptions import ReadTimeoutError

    at = f"{uri}: {uri.host}"
    if isinstance(err, requests.exceptions.SSLError):
        return StorageError(
            f"{at}: the certificate is not trusted",
            hint="set REQUESTS_CA_BUNDLE for an own one",
            key=str(uri),
        )
    if isinstance(err, requests.Timeout | ReadTimeoutError):
        waited_s = timeout_s[0 if isinstance(err, requests.ConnectTimeout) else 1]
        silent = StorageError(
            f"{at} did not answer within {waited_s:g} s", hint="try again later", key=str(uri)
        )
        return Interrupted(silent, attempts=_SILENT_TRIES)
    if isinstance(err, requests.exceptions.InvalidSchema):
        return StorageError(
            f"{uri}: the server redirects to an address that is not of the web; allowed: http://, https://",
            hint="give the address of the file itself",
            key=str(uri),
        )
    if isinstance(err, requests.exceptions.InvalidHeader):
        return _malformed(uri, "a header of it cannot be read")
    if isinstance(err, requests.TooManyRedirects | requests.exceptions.InvalidURL):
        return StorageError(f"{uri}: the address leads nowhere ({type(err).__name__})", key=str(uri))
    what = "cannot be reached" if isinstance(err, requests.ConnectionError) else "broke the connection"
    return Interrupted(
        StorageError(
            f"{at} {what} ({type(err).__name__})", hint="check the address and the network", key=str(uri)
        )
    )


def _chunks(answer: Response, uri: Uri, timeout_s: tuple[float, float]) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    problem: Exception
    try:
        yield from answer.raw.stream(_CHUNK, decode_content=False)
        return
    except (HTTPError, OSError) as err:
        problem = _broken(err, uri, timeout_s)
    raise problem


def _entry(uri: Uri, answer: Response, size: str | None) -> Entry:
    is_number = size is not None and size.isdigit()
    return Entry(
        uri.full,
        int(size) if size and is_number else None,
        _etag(answer),
        _date(answer.headers.get("Last-Modified")),
    )


def _etag(answer: Response) -> str | None:
    return answer.headers.get("ETag", "").strip().strip('"') or None


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def _condition(entry: Entry) -> str | None:
    """Value of ``If-Range``: a strong ETag, else the date; None when neither is known."""
    if entry.etag and not entry.etag.startswith("W/"):
        return f'"{entry.etag}"'
    if entry.modified is None or entry.modified.tzinfo is None:
        return None
    return format_datetime(entry.modified.astimezone(UTC), usegmt=True)


def _continues(answer: Response, entry: Entry, start: int) -> bool:
    """Whether a partial answer is the rest of the same content."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    now = _etag(answer)
    return (
        found is not None
        and int(found[1]) == start
        and (entry.size is None or found[2] in ("*", str(entry.size)))
        and (now is None or entry.etag is None or now == entry.etag)
    )


def _digests(answer: Response) -> dict[str, str]:
    """Digests of the whole file that the server states (RFC 9530, its predecessor, Content-MD5, our own)."""
    stated: dict[str, str] = {}
    if own := answer.headers.get("x-amz-meta-sha256"):
        stated["sha256"] = own.lower()
    fields = [answer.headers.get("Repr-Digest", "")]
    if answer.status_code == 200:
        fields.append(answer.headers.get("Digest", ""))
        fields.append(f"md5={answer.headers.get('Content-MD5', '')}")
    for item in ",".join(fields).split(","):
        name, _, value = item.strip().partition("=")
        algorithm = {"sha-256": "sha256", "md5": "md5"}.get(name.lower())
        try:
            digest = base64.b64decode(value.strip(":"), validate=True).hex()
        except (binascii.Error, ValueError):
            continue
        if algorithm and len(digest) == {"sha256": 64, "md5": 32}[algorithm]:
            stated.setdefault(algorithm, digest)
    return stated
