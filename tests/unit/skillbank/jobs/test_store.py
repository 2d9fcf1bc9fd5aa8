import json
import stat
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest

from skillbank.bank import bank_root
from skillbank.errors import (
    ConflictError,
    InvalidTransitionError,
    InvalidValueError,
    JobError,
    NotFoundError,
    StorageError,
    UsageError,
)
from skillbank.jobs import files, record_file
from skillbank.jobs.record import Datasets, JobFolder, Request
from skillbank.jobs.states import State
from skillbank.jobs.store import JobStore


def test_a_new_job_is_pending_with_folder_and_readable_record(store: JobStore, train: Request) -> None:
    job = store.create(train, name="first", tags=("a", "b"), workspace_id="W", base_experiment_id="B")
    assert job.id.startswith("mask2former-train-")
    assert len(job.id.rsplit("-", 1)[1]) == 6
    assert (job.state, job.name, job.tags, job.is_duplicate) == (State.PENDING, "first", ("a", "b"), False)
    assert job.results_dir == str(JobFolder(job.folder).results)
    assert store.get(job.id) == job
    record = json.loads(JobFolder(job.folder).record.read_text())
    assert record["schema_version"] == 1
    assert record["redacted"] is True
    assert record["request"]["specs"] == {"train": {"num_epochs": 2}}
    assert record["versions"].keys() == {"skillbank", "python", "platform"}
    assert [entry["state"] for entry in record["transitions"]] == ["pending"]


def test_the_request_comes_back_as_it_was_given(store: JobStore) -> None:
    request = Request(
        network="oneformer",
        action="evaluate",
        specs={"a": [1, 2.5, None, True], "b": {"c": "ü"}},
        overrides={"train.lr": 1e-4},
        datasets=Datasets(train=("/x", "s3://y/z"), eval="/e"),
        checkpoint="epoch:3",
        policy={"route": "direct"},
        env={"OMP_NUM_THREADS": "1"},
        keep_results_dir=True,
        spec_source="@spec.yaml",
    )
    job = store.create(request)
    assert store.get(job.id).request == request
    assert store.list()[0].request == request
    assert asdict(store.list()[0])["request"]["datasets"]["train"] == ("/x", "s3://y/z")


def test_folders_are_private(store: JobStore, train: Request) -> None:
    job = store.create(train, encryption_key="a-secret-key")
    for folder in (store.home, store.folders, job.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for file in (store.home / "store.db", JobFolder(job.folder).record, JobFolder(job.folder).secret):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_history_is_kept_and_the_row_follows_it(store: JobStore, train: Request) -> None:
    job = store.create(train)
    assert store.transition(job.id, "running", "epoch 1", source="worker") is True
    assert store.transition(job.id, State.RUNNING, "again") is False
    error = {"code": "data.invalid", "message": "no images", "hint": "ls"}
    assert store.transition(job.id, "error", "no images", source="worker", error=error) is True
    found = store.get(job.id)
    assert (found.state, found.message, found.error) == (State.ERROR, "no images", error)
    assert found.updated_at > found.created_at
    history = store.history(job.id)
    assert [(entry.state, entry.message, entry.source) for entry in history] == [
        ("pending", "", "sdk"),
        ("running", "epoch 1", "worker"),
        ("error", "no images", "worker"),
    ]
    record = json.loads(JobFolder(job.folder).record.read_text())
    assert [entry["state"] for entry in record["transitions"]] == ["pending", "running", "error"]
    assert record["error"] == error


def test_the_record_has_the_documented_form(store: JobStore, train: Request) -> None:
    schema = json.loads((bank_root() / "schemas" / "job_record.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    job = store.create(train, encryption_key="nvidia_tlt", tags=["x"])
    store.set_backend(job.id, {"worker": {"pid": 1}})
    store.transition(job.id, "running")
    store.transition(job.id, "error", "boom", error={"code": "x", "message": "boom"})
    record = json.loads(JobFolder(job.folder).record.read_text())
    assert list(check.iter_errors(record)) == []
    assert list(check.iter_errors({**record, "state": "odd"})) != []


@pytest.mark.parametrize("end", ["done", "error", "canceled"])
def test_a_final_state_stays(store: JobStore, train: Request, end: str) -> None:
    job = store.create(train)
    store.transition(job.id, "running")
    store.transition(job.id, end)
    with pytest.raises(InvalidTransitionError) as caught:
        store.transition(job.id, "running")
    assert isinstance(caught.value, JobError)
    assert job.id in caught.value.message
    assert f"it is {end}" in caught.value.message
    assert caught.value.value == "running"
    assert store.transition(job.id, end) is False
    assert store.get(job.id).state == end
    assert len(store.history(job.id)) == 3


def test_a_wrong_order_names_what_may_follow(store: JobStore, train: Request) -> None:
    job = store.create(train)
    with pytest.raises(InvalidTransitionError, match=r"it is pending, after which comes .*running"):
        store.transition(job.id, "done")
    assert store.get(job.id).state == "pending"


def test_jobs_are_listed_newest_first_and_filtered(store: JobStore, train: Request) -> None:
    first = store.create(train)
    second = store.create(replace(train, action="evaluate"), parent_id=first.id)
    third = store.create(replace(train, network="oneformer"))
    store.transition(third.id, "canceled")
    assert [job.id for job in store.list()] == [third.id, second.id, first.id]
    assert [job.id for job in store.list(limit=1)] == [third.id]
    assert [job.id for job in store.list(network="mask2former")] == [second.id, first.id]
    assert [job.id for job in store.list(action="evaluate")] == [second.id]
    assert [job.id for job in store.list(state="canceled")] == [third.id]
    assert [job.id for job in store.list(state=State.PENDING, network="oneformer")] == []
    assert [job.id for job in store.list(parent_id=first.id)] == [second.id]


def test_an_unknown_job_names_the_nearest_id(store: JobStore, train: Request) -> None:
    job = store.create(train)
    with pytest.raises(NotFoundError) as caught:
        store.get(job.id[:-1])
    assert job.id in caught.value.hint
    assert caught.value.value == job.id[:-1]
    for call in (store.history, store.artifacts, store.delete, lambda key: store.transition(key, "running")):
        with pytest.raises(NotFoundError, match="no such job"):
            call("nothing-like-it")


def test_an_empty_job_id_is_a_usage_error(store: JobStore) -> None:
    with pytest.raises(UsageError, match="job id: it is empty") as caught:
        store.get("")
    assert "variable" in caught.value.hint


def test_an_unknown_parent_is_refused_and_nothing_is_left(store: JobStore, train: Request) -> None:
    with pytest.raises(NotFoundError, match="'mask2former-train-000000'"):
        store.create(train, parent_id="mask2former-train-000000")
    assert store.list() == []
    assert not store.folders.exists() or list(store.folders.iterdir()) == []


def test_the_same_key_with_the_same_request_gives_the_earlier_job(store: JobStore, train: Request) -> None:
    first = store.create(train, idempotency_key="nightly")
    again = store.create(replace(train), name="other name", idempotency_key="nightly")
    assert again.is_duplicate is True
    assert replace(again, is_duplicate=False) == first
    assert store.get(first.id).is_duplicate is False
    assert len(store.list()) == 1


@pytest.mark.parametrize("change", [{"specs": {"train": {"num_epochs": 3}}}, {"overrides": {"a": 1}}])
def test_the_same_key_with_another_request_is_a_conflict(
    store: JobStore, train: Request, change: dict[str, object]
) -> None:
    first = store.create(train, idempotency_key="nightly")
    with pytest.raises(ConflictError) as caught:
        store.create(replace(train, **change), idempotency_key="nightly")
    assert first.id in caught.value.message
    assert caught.value.key == "idempotency_key"
    assert caught.value.value == "nightly"
    assert len(store.list()) == 1


def test_without_a_key_the_same_request_is_a_new_job(store: JobStore, train: Request) -> None:
    assert store.create(train).id != store.create(train).id
    assert store.create(train, idempotency_key="").id != store.create(train, idempotency_key="").id


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    store: JobStore, train: Request, value: object
) -> None:
    with pytest.raises(InvalidValueError, match="request: cannot be stored"):
        store.create(replace(train, specs={"a": value}))
    assert store.list() == []


def test_a_network_name_cannot_leave_the_home(store: JobStore, train: Request) -> None:
    with pytest.raises(InvalidValueError, match=r"network: '\.\./\.\./x' is not allowed"):
        store.create(replace(train, network="../../x"))


def test_the_launchers_reference_is_kept_in_row_and_record(store: JobStore, train: Request) -> None:
    job = store.create(train, launcher="slurm")
    store.set_backend(job.id, {"job": 17})
    assert store.get(job.id).backend_ref == {"job": 17}
    assert json.loads(JobFolder(job.folder).record.read_text())["backend_ref"] == {"job": 17}


def test_waiting_ends_with_a_final_state_or_the_timeout(store: JobStore, train: Request) -> None:
    job = store.create(train)
    times = iter(range(100))
    assert store.wait(job.id, timeout_s=3, sleep=lambda _: None, clock=lambda: next(times)).state == "pending"
    store.transition(job.id, "running")

    def end(_: float) -> None:
        store.transition(job.id, "done")

    assert store.wait(job.id, sleep=end).state == "done"


def test_only_final_jobs_are_deleted(store: JobStore, train: Request) -> None:
    parent = store.create(train)
    with pytest.raises(JobError, match="it is pending"):
        store.delete(parent.id)
    store.transition(parent.id, "canceled")
    child = store.create(train, parent_id=parent.id)
    with pytest.raises(JobError, match=f"still wait for it: {child.id}"):
        store.delete(parent.id)
    store.transition(child.id, "canceled")
    listed = store.list()
    store.delete(parent.id)
    assert not parent.folder.exists()
    assert [job.id for job in store.list()] == [child.id]
    with pytest.raises(NotFoundError, match="deleted meanwhile"):
        _ = next(job for job in listed if job.id == parent.id).request


def test_experiments_are_remembered_once(store: JobStore) -> None:
    assert store.remember_experiment("experiment", "E1", "oneformer") is True
    assert store.remember_experiment("experiment", "E1") is False
    assert store.remember_experiment("workspace", "W1") is True
    found = store.get_experiment("E1")
    assert found is not None
    assert (found["kind"], found["network"]) == ("experiment", "oneformer")
    assert store.get_experiment("E2") is None
    with pytest.raises(UsageError, match="workspace id: it is empty"):
        store.remember_experiment("workspace", " ")


def test_secrets_are_in_no_file_but_the_key_file(
    store: JobStore, train: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-very-s3cr3t")
    request = replace(
        train,
        specs={"encryption_key": "spec-key-s3cr3t", "train": {"encryption_key": "x-key-s3cr3t", "lr": 1}},
        overrides={"encryption_key": "over-key-s3cr3t"},
        env={"WANDB_API_KEY": "wandb-s3cr3t", "OMP_NUM_THREADS": "1"},
    )
    job = store.create(request)
    assert job.request.specs == {"train": {"lr": 1}}
    assert job.request.env == {"OMP_NUM_THREADS": "1"}
    key_file = JobFolder(job.folder).secret
    assert key_file.read_text() == "over-key-s3cr3t"
    store.transition(job.id, "running", "reading with over-key-s3cr3t")
    store.close()
    texts = {path: path.read_bytes() for path in store.home.rglob("*") if path.is_file() and path != key_file}
    assert len(texts) >= 2
    for path, text in texts.items():
        assert b"s3cr3t" not in text, path
    error = {"code": "x", "message": "aws-very-s3cr3t", "hint": "over-key-s3cr3t"}
    store.transition(job.id, "error", "said aws-very-s3cr3t", error=error)
    found = store.get(job.id)
    assert found.message == "said ***"
    assert found.error == {"code": "x", "message": "***", "hint": "***"}
    assert not key_file.exists()


def test_two_jobs_with_one_key_have_different_digests(store: JobStore, train: Request) -> None:
    records = [
        json.loads(JobFolder(store.create(train, encryption_key="nvidia_tlt").folder).record.read_text())
        for _ in range(2)
    ]
    digests = {record["encryption_key_digest"] for record in records}
    assert len(digests) == 2
    assert all(digest.startswith("scrypt:") for digest in digests)


def test_a_full_disk_while_creating_leaves_no_job(
    store: JobStore, train: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.list()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        StorageError, match=r"job\.json: the file cannot be written \(No space left on device\)"
    ) as caught:
        store.create(train)
    assert caught.value.hint.startswith("df -h")
    monkeypatch.undo()
    assert store.list() == []
    assert list(store.folders.iterdir()) == []


def test_an_interrupt_while_creating_leaves_no_job(
    store: JobStore, train: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record_file, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.create(train)
    monkeypatch.undo()
    assert store.list() == []
    assert list(store.folders.iterdir()) == []


def test_a_removed_job_folder_does_not_stop_the_record(
    store: JobStore, train: Request, caplog: pytest.LogCaptureFixture
) -> None:
    job = store.create(train)
    JobFolder(job.folder).record.unlink()
    job.folder.rmdir()
    store.transition(job.id, "running")
    assert store.get(job.id).state == "running"
    assert "job.json is behind the store" in caplog.text


def test_a_home_below_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with JobStore(tmp_path / "file" / "home") as store:
        with pytest.raises(StorageError, match=r"it cannot be written \(Not a directory\)") as caught:
            store.list()
        assert "SKILLBANK_HOME" in caught.value.hint
        assert caught.value.exit_code == 5


ODD = "a\udc80b"  # what a file name that is no UTF-8 looks like in Python


def test_text_that_no_file_can_hold_is_one_clear_error(store: JobStore, train: Request) -> None:
    for refuse in (
        lambda: store.create(train, name=ODD),
        lambda: store.create(train, tags=[ODD]),
        lambda: store.create(replace(train, specs={"a": ODD})),
        lambda: store.get(ODD),
    ):
        with pytest.raises(InvalidValueError, match="cannot be stored"):
            refuse()
    assert store.list() == []
    assert list(store.folders.glob("*")) == []


def test_odd_text_in_a_message_does_not_keep_a_job_from_ending(store: JobStore, train: Request) -> None:
    job = store.create(train)
    store.transition(job.id, "running")
    store.transition(job.id, "error", f"no file {ODD}", error={"message": ODD})

    ended = store.get(job.id)
    assert (ended.state, ended.message, ended.error) == ("error", "no file a?b", {"message": "a?b"})


def test_numbers_beyond_the_store_are_refused_or_cut(store: JobStore, train: Request, tmp_path: Path) -> None:
    job = store.create(train)
    file = tmp_path / "model.pth"
    file.write_bytes(b"x")

    assert [found.id for found in store.list(limit=10**30)] == [job.id]
    assert store.list(limit=-1) == []
    with pytest.raises(InvalidValueError, match="cannot be stored"):
        store.register_artifact(job.id, file, kind="checkpoint", epoch=10**30)


def test_an_unknown_state_names_the_known_ones(store: JobStore, train: Request) -> None:
    job = store.create(train)
    for refuse in (lambda: store.list(state="finished"), lambda: store.transition(job.id, "finished")):
        with pytest.raises(InvalidValueError, match="'finished' is no state; use pending, running") as caught:
            refuse()
        assert "done" in (caught.value.allowed or [])
