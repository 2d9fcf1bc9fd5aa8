"""Data and results on S3: the job brings its data, sends its results while it runs, and resumes from them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import CREDENTIALS, S3Server, client_for
from toy_bench import Bench

from skillbank.jobs.states import State


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """A bucket on a loopback server, and a client to look into it."""
    server = S3Server().start()
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    client = client_for(server.url)
    name = f"toy-{uuid.uuid4().hex[:12]}"  # the server's memory outlives it
    client.create_bucket(Bucket=name)
    yield name, client
    client.close()
    server.stop()


def keys(client: Any, name: str) -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket=name, Prefix="run/").get("Contents", [])
    return {item["Key"]: client.get_object(Bucket=name, Key=item["Key"])["Body"].read() for item in found}


def test_data_and_results_on_s3(bench: Bench, bucket: tuple[str, Any]) -> None:
    name, client = bucket
    client.put_object(Bucket=name, Key="data/points.txt", Body=bench.points.read_bytes())
    settings = {
        "dataset__train_file": f"s3://{name}/data/points.txt",
        "results_dir": f"s3://{name}/run",
        "keep_results_dir": True,
    }
    first = bench.end(bench.train(**settings))
    assert first.state is State.DONE
    sent = keys(client, name)
    assert {
        "run/train/model_epoch_000.pth",
        "run/train/model_epoch_001.pth",
        "run/train/experiment.yaml",
    } <= sent.keys()
    assert b"model_epoch_001.pth" in sent["run/train/toy_model_latest.pth"]
    lines = [json.loads(line) for line in sent["run/train/status.json"].splitlines()]
    assert lines[-1]["status"] == "SUCCESS"

    again = bench.end(bench.train(**{**settings, "train__num_epochs": 3}))
    assert again.state is State.DONE
    sent = keys(client, name)
    assert "run/train/model_epoch_002.pth" in sent
    lines = [json.loads(line) for line in sent["run/train/status.json"].splitlines()]
    assert [line["job_id"] for line in lines if line["status"] == "SUCCESS"] == [first.id, again.id]
    # the second run began where the first one had ended
    (artifact,) = bench.store.artifacts(again.id)
    assert (artifact.epoch, artifact.step) == (2, 15)
    for path in [*first.folder.rglob("*"), *again.folder.rglob("*")]:
        if path.is_file():
            assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path


def test_results_of_a_failed_job_are_sent_too(bench: Bench, bucket: tuple[str, Any]) -> None:
    name, client = bucket
    job = bench.end(bench.train(results_dir=f"s3://{name}/run", keep_results_dir=True, train__fail="bug"))
    assert job.state is State.ERROR
    lines = [json.loads(line) for line in keys(client, name)["run/train/status.json"].splitlines()]
    assert lines[-1]["status"] == "FAILURE"
    assert "a bug" in lines[-1]["message"]
    assert Path(job.folder).is_dir()
