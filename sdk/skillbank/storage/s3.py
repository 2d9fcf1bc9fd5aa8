"""``s3://``: objects of S3 and of the stores that speak its protocol."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage.disk import disk_error
from skillbank.storage.entry import Body, Entry
from skillbank.storage.pointers import pointer_content
from skillbank.storage.retry import Interrupted, Retry
from skillbank.storage.s3_client import Connection, connect
from skillbank.storage.s3_errors import is_missing, translate
from skillbank.storage.uri import Uri

__all__ = ["S3Store"]

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_PART = 16 << 20
_MAX_PARTS = 10_000  # S3's limit for one upload
_MD5 = re.compile(r"[0-9a-f]{32}")


class S3Store:
    """Objects of a store; connects at the first request.

    Args:
        workers: threads that will use this store at the same time.
        retry: how often a request is tried.
        timeout_s: longest silence of the server.
    """

    parallel = True
    one_request = _PART

    def __init__(self, *, workers: int, retry: Retry, timeout_s: float) -> None:
        self._workers = workers
        self._retry = retry
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def _connect(self) -> Connection:
        with self._lock:
            if self._connection is None:
                self._connection = connect(
                    workers=self._workers, retry=self._retry, timeout_s=self._timeout_s
                )
            return self._connection

    def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        with self._lock:
            if self._connection is not None:
                self._connection.client.close()
                self._connection = None

    def _translate(self, err: Exception, uri: Uri) -> Exception:
        connection = self._connect()
        return translate(err, uri, endpoint=connection.endpoint, signed=connection.signed)

    @contextmanager
    def _request(self, uri: Uri) -> Iterator[Any]:
        """The client; what a request raises, after the tries of boto3, becomes an error for the user."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield self._connect().client
        except (BotoCoreError, ClientError) as err:
            told = self._translate(err, uri)
            raise (told.error if isinstance(told, Interrupted) else told) from err
        except Boto3Error as err:
            cause = err.__cause__ or err.__context__
            told = self._translate(cause, uri) if isinstance(cause, Exception) else err
            if isinstance(told, Boto3Error):
                told = StorageError(
                    f"{uri}: the transfer failed ({type(err).__name__})", hint="try again", key=str(uri)
                )
            raise (told.error if isinstance(told, Interrupted) else told) from err

    def stat(self, uri: Uri) -> Entry | None:
        """The object, or the prefix as a folder; None when there is neither."""
        from botocore.exceptions import ClientError

        if uri.path and not uri.path.endswith("/"):
            with self._request(uri) as client:
                try:
                    answer = client.head_object(Bucket=uri.host, Key=uri.path)
                except ClientError as err:
                    if not is_missing(err):
                        raise
                else:
                    return Entry(
                        str(uri),
                        int(answer["ContentLength"]),
                        _plain(answer.get("ETag")),
                        answer.get("LastModified"),
                    )
        try:
            with self._request(uri) as client:
                found = client.list_objects_v2(Bucket=uri.host, Prefix=_prefix(uri), MaxKeys=1)
        except NotFoundError:
            return None
        is_root = not uri.path
        return Entry(str(uri), 0, is_folder=True) if is_root or found.get("Contents") else None

    def list(self, uri: Uri) -> list[Entry]:
        """All objects below a prefix, sorted by key, without the empty ones that only mark a folder.

        Raises:
            NotFoundError: no such bucket, or neither an object nor a prefix of that name.
        """
        entries: list[Entry] = []
        seen = 0
        with self._request(uri) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=uri.host, Prefix=_prefix(uri))
            for page in pages:
                for item in page.get("Contents", ()):
                    seen += 1
                    if not item["Key"].endswith("/"):
                        entries.append(_entry(uri.host, item))
        if not seen and uri.path:
            alone = self.stat(Uri("s3", uri.host, uri.path.rstrip("/")))
            if alone is None:
                raise NotFoundError(
                    f"{uri}: no object and no prefix of this name",
                    hint=f"see what is there: aws s3 ls s3://{uri.host}/",
                    key=str(uri),
                    value=str(uri),
                )
            entries.append(alone)
        return sorted(entries, key=lambda entry: entry.uri)

    @contextmanager
    def open(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[Body]:
        """Read a range of an object whose ETag must still be that of `entry`."""
        uri = entry.place
        which: dict[str, Any] = {"Bucket": uri.host, "Key": uri.path}
        if start or stop is not None:
            which["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        with self._request(uri) as client:
            answer = client.get_object(**which)
        with closing(answer["Body"]) as stream:
            now = _plain(answer.get("ETag"))
            if entry.etag and now and now != entry.etag:
                raise StorageError(
                    f"{uri}: the object changed while it was being read",
                    hint="run the command again",
                    key=str(uri),
                )
            yield Body(start, self._chunks(stream, uri), _digests(entry, answer))

    def _chunks(self, stream: Any, uri: Uri) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError

        try:
            yield from stream.iter_chunks(_CHUNK)
        except (BotoCoreError, OSError) as err:
            raise self._translate(err, uri) from err

    def put(self, path: Path, uri: Uri) -> None:
        """Upload a file with its SHA-256; S3 shows it when it is whole.

        Raises:
            StorageError: refused, or the file kept changing while it was read.
        """
        if not uri.path or uri.path.endswith("/"):
            raise StorageError(
                f"{uri}: names no object", hint=f"write s3://{uri.host}/{uri.path}{path.name}", key=str(uri)
            )
        self._retry.call(lambda: self._put_once(path, uri))

    def put_link(self, target: str, uri: Uri) -> None:
        """Upload a pointer file."""
        self._retry.call(lambda: self._put_small(pointer_content(target), uri))

    def check_target(self, uri: Uri) -> None:
        """Ask for the bucket.

        Raises:
            NotFoundError: there is no such bucket.
            StorageError: the store cannot be reached or refuses the credentials.
        """
        from botocore.exceptions import ClientError

        with self._request(uri) as client:
            try:
                client.head_bucket(Bucket=uri.host)
            except ClientError as err:
                if is_missing(err):
                    err.response["Error"]["Code"] = "NoSuchBucket"
                # The right to write does not include the right to ask for the bucket.
                elif err.response.get("Error", {}).get("Code") == "403":
                    log.warning(
                        "%s: the bucket does not answer to these credentials; writing is tried all the same",
                        uri,
                    )
                    return
                raise

    def _put_once(self, path: Path, uri: Uri) -> None:
        try:
            before = path.stat()
            if before.st_size <= _PART:
                self._put_small(path.read_bytes(), uri)
            else:
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self._put_large(path, before.st_size, sha256, uri)
            after = path.stat()
        except OSError as err:
            raise disk_error(err, path) from err
        if before.st_size > _PART and (before.st_size, before.st_mtime_ns) != (
            after.st_size,
            after.st_mtime_ns,
        ):
            raise Interrupted(
                StorageError(f"{path}: it changes while it is uploaded", hint="upload it when it is complete")
            )

    def _put_small(self, data: bytes, uri: Uri) -> None:
        md5 = hashlib.md5(data, usedforsecurity=False)
        with self._request(uri) as client:
            client.put_object(
                Bucket=uri.host,
                Key=uri.path,
                Body=data,
                ContentMD5=base64.b64encode(md5.digest()).decode(),
                Metadata={"sha256": hashlib.sha256(data).hexdigest()},
            )

    def _put_large(self, path: Path, size: int, sha256: str, uri: Uri) -> None:
        from boto3.s3.transfer import TransferConfig

        transfer = TransferConfig(
            multipart_threshold=_PART,
            multipart_chunksize=max(_PART, -(-size // _MAX_PARTS)),
            max_concurrency=self._workers,
        )
        with self._request(uri) as client:
            client.upload_file(
                str(path), uri.host, uri.path, ExtraArgs={"Metadata": {"sha256": sha256}}, Config=transfer
            )


def _prefix(uri: Uri) -> str:
    return f"{uri.path.rstrip('/')}/" if uri.path else ""


def _plain(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def _entry(bucket: str, item: Any) -> Entry:
    return Entry(
        f"s3://{bucket}/{item['Key']}", int(item["Size"]), _plain(item.get("ETag")), item.get("LastModified")
    )


def _digests(entry: Entry, answer: Any) -> dict[str, str]:
    """Digests the store tells: SHA-256 of our own uploads, and the ETag where it is an MD5 sum."""
    digests: dict[str, str] = {}
    if sha256 := answer.get("Metadata", {}).get("sha256"):
        digests["sha256"] = sha256.lower()
    # With a customer's or KMS key the ETag is no MD5 sum; neither is it for uploads in parts ("...-3").
    has_own_key = "SSECustomerAlgorithm" in answer or "kms" in answer.get("ServerSideEncryption", "")
    trusted = os.environ.get("SKILLBANK_ETAG_CHECK", "1") != "0"
    if entry.etag and _MD5.fullmatch(entry.etag) and not has_own_key and trusted:
        digests["md5"] = entry.etag
    return digests
