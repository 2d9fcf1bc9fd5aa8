"""The connection to an S3 store: credentials and endpoint from the environment, pool, time limits, tries."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillbank.errors import StorageError
from skillbank.storage.retry import Retry
from skillbank.storage.s3_errors import credentials_error
from skillbank.storage.uri import show
from skillbank.storage.wire_logs import quiet_wire_logs

if TYPE_CHECKING:
    from boto3.session import Session

__all__ = ["Connection", "connect"]

log = logging.getLogger(__name__)

_OLD_NAMES = {
    "AWS_ACCESS_KEY_ID": "ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY": "SECRET_KEY",
    "AWS_ENDPOINT_URL": "S3_ENDPOINT_URL",
    "AWS_DEFAULT_REGION": "CLOUD_REGION",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """A client and what is known of it.

    Attributes:
        signed: False when no credentials were found and requests go out anonymously.
        endpoint: address of the store, without login; for messages.
    """

    client: Any
    signed: bool
    endpoint: str


def _env(name: str) -> str | None:
    """The variable under its present name, else under its older one; empty counts as unset."""
    return os.environ.get(name, "").strip() or os.environ.get(_OLD_NAMES[name], "").strip() or None


def _session() -> Session:
    import boto3
    from botocore.exceptions import BotoCoreError

    own: dict[str, Any] = {}
    if not os.environ.get("AWS_ACCESS_KEY_ID") and not os.environ.get("AWS_PROFILE"):
        key, secret = os.environ.get("ACCESS_KEY"), os.environ.get("SECRET_KEY")
        if bool(key) != bool(secret):
            raise StorageError(
                f"S3 credentials: {'ACCESS_KEY' if key else 'SECRET_KEY'} is set, "
                f"{'SECRET_KEY' if key else 'ACCESS_KEY'} is not; both or neither are allowed",
                hint="export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...",
            )
        if key:
            own = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    try:
        return boto3.session.Session(**own)
    except BotoCoreError as err:
        raise credentials_error(err) from err


def _config(workers: int, retry: Retry, timeout_s: float, *, signed: bool, endpoint: str | None) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    from skillbank import __version__

    settings: dict[str, Any] = {
        # One connection for each worker and two for listings; a smaller pool throws connections away.
        "max_pool_connections": workers + 2,
        "connect_timeout": min(timeout_s, 10.0),
        "read_timeout": timeout_s,
        "tcp_keepalive": True,
        "user_agent_extra": f"skillbank/{__version__}",
        "retries": {
            "mode": os.environ.get("AWS_RETRY_MODE") or "standard",
            "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS") or retry.attempts),
        },
    }
    if not signed:
        settings["signature_version"] = UNSIGNED
    # Stores that only speak the S3 protocol often refuse the newer trailing checksums.
    wished = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION")
    if endpoint and not wished and "request_checksum_calculation" in Config.OPTION_DEFAULTS:
        settings["request_checksum_calculation"] = "when_required"
    return Config(**settings)


def connect(*, workers: int, retry: Retry, timeout_s: float) -> Connection:
    """Open a client for `workers` threads.

    Raises:
        StorageError: the credentials or settings found are incomplete or unusable.
    """
    from botocore.exceptions import BotoCoreError

    quiet_wire_logs()
    session = _session()
    endpoint = _env("AWS_ENDPOINT_URL")
    try:
        signed = session.get_credentials() is not None
        config = _config(workers, retry, timeout_s, signed=signed, endpoint=endpoint)
        client = session.client(
            "s3",
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or endpoint,
            region_name=_env("AWS_DEFAULT_REGION") or session.region_name or "us-east-1",
            config=config,
        )
    except BotoCoreError as err:
        raise credentials_error(err) from err
    except ValueError as err:
        raise StorageError(
            "S3 settings: AWS_ENDPOINT_URL, AWS_MAX_ATTEMPTS or AWS_RETRY_MODE cannot be used as it is",
            hint="export AWS_ENDPOINT_URL=https://host:port",
        ) from err
    shown = show(client.meta.endpoint_url)
    if not signed:
        log.warning(
            "no S3 credentials were found: requests to %s are not signed; only public buckets answer", shown
        )
    return Connection(client, signed, shown)
