from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import CREDENTIALS, S3Server, client_for

from skillbank.storage import Storage
from skillbank.storage.retry import Retry

_OTHER_NAMES = (
    "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", "ACCESS_KEY", "SECRET_KEY",
    "S3_ENDPOINT_URL", "CLOUD_REGION", "AWS_ENDPOINT_URL_S3",
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials for the test server only, and a home of this test's own."""
    for name in _OTHER_NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SKILLBANK_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session", autouse=True)
def read_models_once() -> Iterator[None]:
    """boto3 parses 2 MB of JSON for each new client; once is enough for all tests."""
    from botocore.loaders import JSONFileLoader

    known: dict[str, Any] = {}
    load = JSONFileLoader.load_file

    def load_once(self: JSONFileLoader, path: str) -> Any:
        if path not in known:
            known[path] = load(self, path)
        return known[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_once)
        yield


@pytest.fixture(scope="session")
def shared_server() -> Iterator[S3Server]:
    server = S3Server().start()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with neither faults nor memory of other tests."""
    shared_server.faults.clear()
    shared_server.seen.clear()
    shared_server.latency_s = 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_server.url)
    return shared_server


@pytest.fixture(scope="session")
def client(shared_server: S3Server) -> Iterator[Any]:
    """A plain boto3 client."""
    client = client_for(shared_server.url)
    yield client
    client.close()


@pytest.fixture
def bucket(client: Any, server: S3Server) -> str:
    """A bucket of this test's own."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    server.seen.clear()
    return name


@pytest.fixture
def fill(client: Any, bucket: str, server: S3Server) -> Callable[..., None]:
    """Puts objects into the bucket: key -> content."""

    def put(objects: dict[str, bytes]) -> None:
        for key, body in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)
        server.seen.clear()

    return put


@pytest.fixture
def make_storage(tmp_path: Path) -> Iterator[Callable[..., Storage]]:
    """Makes storages with short pauses that are closed at the end."""
    made: list[Storage] = []

    def make(**options: Any) -> Storage:
        options.setdefault("workers", 4)
        options.setdefault("retry", Retry(attempts=3, base_s=0.001))
        options.setdefault("timeout_s", 5.0)
        made.append(Storage(options.pop("cache_dir", tmp_path / "cache"), **options))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


@pytest.fixture
def storage(make_storage: Callable[..., Storage]) -> Storage:
    return make_storage()


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 tries again at once."""
    from types import SimpleNamespace

    import botocore.endpoint

    real = botocore.endpoint.time
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None, time=real.time))
