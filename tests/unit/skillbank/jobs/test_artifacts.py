import hashlib
import math
from pathlib import Path

import pytest

from skillbank.errors import InvalidValueError, NotFoundError
from skillbank.jobs.artifacts import KINDS
from skillbank.jobs.record import Request
from skillbank.jobs.store import JobStore


def test_an_artifact_has_size_digest_and_metrics(store: JobStore, train: Request, tmp_path: Path) -> None:
    job = store.create(train)
    file = tmp_path / "model_epoch_003.pth"
    file.write_bytes(b"weights" * 1000)
    noted = store.register_artifact(
        job.id, file, kind="checkpoint", epoch=3, step=120, metrics={"val_loss": 0.5, "mIoU": 1}
    )
    assert (noted.bytes, noted.sha256) == (7000, hashlib.sha256(b"weights" * 1000).hexdigest())
    assert store.artifacts(job.id) == [noted]
    assert (noted.epoch, noted.step, noted.metrics) == (3, 120, {"val_loss": 0.5, "mIoU": 1.0})
    assert Path(noted.path).is_absolute()


def test_artifacts_keep_their_order_and_are_filtered_by_kind(
    store: JobStore, train: Request, tmp_path: Path
) -> None:
    job = store.create(train)
    for name, kind in (("b.pth", "checkpoint"), ("a.onnx", "onnx"), ("a.pth", "checkpoint")):
        (tmp_path / name).write_text(name)
        store.register_artifact(job.id, tmp_path / name, kind=kind)
    assert [Path(found.path).name for found in store.artifacts(job.id)] == ["b.pth", "a.onnx", "a.pth"]
    assert [Path(found.path).name for found in store.artifacts(job.id, "checkpoint")] == ["b.pth", "a.pth"]
    assert store.artifacts(job.id, "engine") == []


def test_the_same_path_again_replaces_the_entry(store: JobStore, train: Request, tmp_path: Path) -> None:
    job = store.create(train)
    file = tmp_path / "latest.pth"
    file.write_text("one")
    store.register_artifact(job.id, file, kind="checkpoint", epoch=0)
    file.write_text("two!")
    store.register_artifact(job.id, file, kind="checkpoint", epoch=1)
    (found,) = store.artifacts(job.id)
    assert (found.bytes, found.epoch) == (4, 1)


def test_a_folder_is_measured_by_its_files(store: JobStore, train: Request, tmp_path: Path) -> None:
    job = store.create(train)
    folder = tmp_path / "predictions"
    (folder / "sub").mkdir(parents=True)
    (folder / "b").write_text("bb")
    (folder / "sub" / "a").write_text("a")
    first = store.register_artifact(job.id, folder, kind="predictions")
    assert first.bytes == 3
    (folder / "sub" / "a").rename(folder / "sub" / "c")
    assert store.register_artifact(job.id, folder, kind="predictions").sha256 != first.sha256


def test_a_metric_that_is_not_finite_is_left_out(
    store: JobStore, train: Request, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = store.create(train)
    (tmp_path / "a.pth").write_text("")
    store.register_artifact(
        job.id,
        tmp_path / "a.pth",
        kind="checkpoint",
        metrics={"good": 1.5, "bad": math.nan, "worse": math.inf},
    )
    assert store.artifacts(job.id)[0].metrics == {"good": 1.5}
    assert "['bad', 'worse']" in caplog.text


def test_a_missing_file_and_a_wrong_kind_are_refused(store: JobStore, train: Request, tmp_path: Path) -> None:
    job = store.create(train)
    with pytest.raises(NotFoundError, match=r"gone\.pth: the file does not exist"):
        store.register_artifact(job.id, tmp_path / "gone.pth", kind="checkpoint")
    with pytest.raises(InvalidValueError, match=r"kind 'weights' is not known; use .*checkpoint") as caught:
        store.register_artifact(job.id, tmp_path, kind="weights")
    assert caught.value.allowed == list(KINDS)
    assert store.artifacts(job.id) == []


def test_a_metric_that_is_no_number_is_refused(store: JobStore, train: Request, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(b"x")
    with pytest.raises(InvalidValueError, match="metric mIoU: 'high' is no number"):
        store.register_artifact(
            store.create(train).id,
            file,
            kind="checkpoint",
            metrics={"mIoU": "high"},  # type: ignore[dict-item]
        )
