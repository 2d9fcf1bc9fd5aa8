"""What the user is told when an S3 store refuses. Its words are left out: they may repeat what we sent."""

from __future__ import annotations

from typing import Any

from skillbank.errors import NotFoundError, StorageError
from skillbank.storage.retry import Interrupted
from skillbank.storage.uri import Uri

__all__ = ["credentials_error", "is_missing", "translate"]

_SET_KEYS = "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...  (or AWS_PROFILE=...)"
_CREDENTIALS = {
    "InvalidAccessKeyId": "the store does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "AuthorizationHeaderMalformed": "the request was signed for another region",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}
_DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401", "Forbidden", "Unauthorized")
_MISSING = ("NoSuchKey", "NotFound", "404")
_REGION = (
    "PermanentRedirect",
    "301",
    "307",
    "IllegalLocationConstraintException",
    "AuthorizationHeaderMalformed",
)
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "TooManyRequests")
_FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507")


def credentials_error(err: Exception) -> StorageError:
    """The error for credentials that could not be found, read or refreshed."""
    from botocore import exceptions as boto

    if isinstance(err, boto.ProfileNotFound):
        return StorageError(
            "S3 credentials: the profile in AWS_PROFILE is not there", hint="aws configure list-profiles"
        )
    if isinstance(err, boto.PartialCredentialsError):
        return StorageError(
            "S3 credentials: only one half is set; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            hint=_SET_KEYS,
        )
    if isinstance(err, boto.NoCredentialsError):
        return StorageError("S3 credentials: none were found", hint=_SET_KEYS)
    return StorageError(f"S3 credentials or settings cannot be used ({type(err).__name__})", hint=_SET_KEYS)


def is_missing(err: Any) -> bool:
    """True when a `ClientError` says that there is no such object."""
    return str(err.response.get("Error", {}).get("Code", "")) in _MISSING


def translate(err: Exception, uri: Uri, *, endpoint: str, signed: bool) -> Exception:
    """The error for `uri`; an `Interrupted` when only the transfer broke, a bug of ours is returned as it is.

    Args:
        err: what boto3, or the connection below it, raised.
        uri: the object or prefix.
        endpoint: the store's address, for messages.
        signed: whether requests carry credentials.
    """
    from botocore import exceptions as boto

    if isinstance(err, boto.ClientError):
        return _refused(err, uri, endpoint, signed)
    credentials = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)
    if isinstance(err, (*credentials, boto.ProfileNotFound, boto.TokenRetrievalError, boto.SSOError)):
        return credentials_error(err)
    if isinstance(err, boto.EndpointConnectionError | boto.ProxyConnectionError | boto.SSLError):
        what = "its certificate is not trusted" if isinstance(err, boto.SSLError) else "no connection"
        return StorageError(
            f"{uri}: {endpoint} cannot be reached: {what}",
            hint="check AWS_ENDPOINT_URL and the network (AWS_CA_BUNDLE for an own certificate)",
            key=str(uri),
        )
    if isinstance(err, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return Interrupted(
            StorageError(f"{uri}: {endpoint} did not answer in time", hint="try again later", key=str(uri))
        )
    if isinstance(err, boto.FlexibleChecksumError):
        return Interrupted(
            StorageError(
                f"{uri}: what arrived from {endpoint} does not have the checksum the store says",
                hint="the object is damaged in the store or on the way: upload it again",
                key=str(uri),
            )
        )
    broken = (boto.ResponseStreamingError, boto.IncompleteReadError, boto.HTTPClientError)
    if isinstance(err, (*broken, ConnectionError, TimeoutError)):
        return Interrupted(
            StorageError(
                f"{uri}: the connection to {endpoint} broke ({type(err).__name__})",
                hint="try again",
                key=str(uri),
            )
        )
    if isinstance(err, boto.BotoCoreError):
        return StorageError(
            f"{uri}: the request could not be made ({type(err).__name__})", hint="check the URI", key=str(uri)
        )
    return err


def _refused(err: Any, uri: Uri, endpoint: str, signed: bool) -> Exception:
    code = str(err.response.get("Error", {}).get("Code", "unknown"))
    status = err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    shown = str(uri)
    if code == "NoSuchBucket":
        return NotFoundError(
            f"{uri}: {endpoint} has no bucket '{uri.host}'",
            hint="check the name and AWS_ENDPOINT_URL: aws s3 ls",
            key=shown,
            value=uri.host,
        )
    if code in _MISSING or status == 404:
        return NotFoundError(
            f"{uri}: no such object",
            hint=f"see what is there: aws s3 ls s3://{uri.host}/",
            key=shown,
            value=shown,
        )
    if code in _REGION:
        return StorageError(
            f"{uri}: the bucket is in another region ({code})",
            hint="export AWS_DEFAULT_REGION=...",
            key=shown,
        )
    if code in _CREDENTIALS:
        return StorageError(
            f"{uri}: {endpoint} refuses: {_CREDENTIALS[code]} ({code})", hint=_SET_KEYS, key=shown
        )
    if code in _DENIED or status in (401, 403):
        if not signed:
            return StorageError(
                f"{uri}: {endpoint} denies access without credentials ({code})", hint=_SET_KEYS, key=shown
            )
        return StorageError(
            f"{uri}: {endpoint} denies access ({code}); the credentials found have no right to it",
            hint="check who you are: aws sts get-caller-identity",
            key=shown,
        )
    if code in _FULL or status == 507:
        return StorageError(
            f"{uri}: the store at {endpoint} is full ({code})", hint="free some space there", key=shown
        )
    if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
        return StorageError(
            f"{uri}: the object changed while it was being read", hint="run the command again", key=shown
        )
    busy = code in _BUSY or status >= 500 or status == 429
    return StorageError(
        f"{uri}: {endpoint} answers {code} (HTTP {status}){' after several tries' if busy else ''}",
        hint="try again later" if busy else "check the URI and the rights of the credentials",
        key=shown,
    )
