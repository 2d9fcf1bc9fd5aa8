from collections.abc import Iterator
from pathlib import Path

import pytest
from job_bench import Bench
from s3_server import CREDENTIALS, S3Server, client_for

from skillbank.resolve.candidates import candidates, parse_name


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    made.store.close()


@pytest.mark.parametrize(
    ("name", "epoch", "step", "best", "latest"),
    [
        ("model_epoch_000.pth", 0, None, False, False),
        ("model_epoch_012.pth", 12, None, False, False),
        ("model_epoch_000_step_00100.pth", 0, 100, False, False),
        ("model_epoch=049.pth", 49, None, False, False),
        ("model_epoch=3_step=00040.pth", 3, 40, False, False),
        ("epoch=3-step=40.ckpt", 3, 40, False, False),
        ("epoch=3-step=40-v1.ckpt", 3, 40, False, False),
        ("checkpoint_epoch_7.pth", 7, None, False, False),
        ("ep_5.pth", 5, None, False, False),
        ("iter_200.pth", None, 200, False, False),
        ("model_best_004.pth", 4, None, True, False),
        ("model_best_PRQ.pth", None, None, True, False),
        ("model_best_epoch=003.pth", 3, None, True, False),
        ("best_model.pth", None, None, True, False),
        ("mask2former_model_latest.pth", None, None, False, True),
        ("last.ckpt", None, None, False, True),
    ],
)
def test_names_of_trained_checkpoints(
    name: str, epoch: int | None, step: int | None, best: bool, latest: bool
) -> None:
    found = parse_name(name)

    assert found is not None
    assert (found.epoch, found.step, found.best, found.latest) == (epoch, step, best, latest)


@pytest.mark.parametrize(
    "name",
    [
        "swin_base_patch4_window12_384.pth",
        "swin_tiny_patch4_window7_224_22k.pth",
        "vggt_pretrained.pth",
        "model.onnx",
        "bestiary.pth",
        "model_000.pth",
        "recipe_3.pth",
    ],
)
def test_other_names_say_nothing(name: str) -> None:
    assert parse_name(name) is None


def names(bench: Bench, job_files: dict[str, str], *, any_name: bool = False) -> list[str]:
    job = bench.job("mask2former", "train", files=job_files)
    found, where = candidates(bench.store, job, [".pth"], any_name=any_name)
    assert where == job.results_dir
    return sorted(str(Path(item.path).relative_to(job.results_dir)) for item in found)


def test_a_scan_leaves_out_inputs_empty_and_partial_files(bench: Bench) -> None:
    found = names(
        bench,
        {
            "train/model_epoch_000.pth": "x",
            "train/model_epoch_001.pth": "",
            "train/.model_epoch_002.pth": "x",
            "train/model_epoch_003.pth.part": "x",
            "train/inputs/model_epoch_004.pth": "x",
            "ptm/model_epoch_005.pth": "x",
            "train/swin_base_patch4_window12_384.pth": "x",
            "train/model_epoch_006.onnx": "x",
        },
    )

    assert found == ["train/model_epoch_000.pth"]


def test_any_name_counts_for_jobs_that_name_their_files_freely(bench: Bench) -> None:
    assert names(bench, {"quantize/quantized.pth": "x"}, any_name=True) == ["quantize/quantized.pth"]


def test_a_link_and_its_target_count_once(bench: Bench) -> None:
    job = bench.job("mask2former", "train", files={"train/model_epoch_001.pth": "x"})
    folder = Path(job.results_dir) / "train"
    (folder / "mask2former_model_latest.pth").symlink_to("model_epoch_001.pth")
    (folder / "model_epoch_009.pth").symlink_to("gone.pth")

    found, _ = candidates(bench.store, job, [".pth"], any_name=False)

    assert [(item.path, item.epoch) for item in found] == [(str(folder / "model_epoch_001.pth"), 1)]


def test_a_link_to_a_file_elsewhere_counts(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "model_epoch_004.pth"
    outside.write_text("x")
    job = bench.job("mask2former", "train", files={"train/status.json": "{}"})
    (Path(job.results_dir) / "train" / "mask2former_model_latest.pth").symlink_to(outside)

    found, _ = candidates(bench.store, job, [".pth"], any_name=False)

    assert [(item.path, item.epoch) for item in found] == [(str(outside), 4)]


def test_registered_files_come_before_the_folder(bench: Bench) -> None:
    job = bench.job("mask2former", "train", files={"train/model_epoch_009.pth": "x"})
    kept = bench.checkpoint(job, "train/odd_name.pth", epoch=2, metrics={"mIoU": 0.5})
    bench.checkpoint(job, "train/start.pth", kind="pretrained")

    found, where = candidates(bench.store, job, [".pth"], any_name=False)

    assert where == "its registered artifacts"
    assert [(item.path, item.epoch, item.metrics) for item in found] == [(str(kept), 2, {"mIoU": 0.5})]


def test_results_in_a_bucket_are_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server().start()
    try:
        for name, text in CREDENTIALS.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        client = client_for(server.url)
        client.create_bucket(Bucket="bucket")
        for name in (
            "train/model_epoch_001.pth",
            "train/inputs/model_epoch_002.pth",
            "train/empty_epoch_003.pth",
        ):
            body = b"" if "empty" in name else b"x"
            client.put_object(Bucket="bucket", Key=f"runs/1/{name}", Body=body)
        job = bench.job("mask2former", "train", results_dir="s3://bucket/runs/1")

        found, where = candidates(bench.store, job, [".pth"], any_name=False)
        other = bench.job("mask2former", "train", results_dir="s3://bucket/runs/2")
        nothing, _ = candidates(bench.store, other, [".pth"], any_name=False)
    finally:
        server.stop()

    assert nothing == []
    assert where == "s3://bucket/runs/1"
    assert [(item.path, item.epoch) for item in found] == [
        ("s3://bucket/runs/1/train/model_epoch_001.pth", 1)
    ]


def test_a_registered_file_that_was_deleted_is_not_offered(bench: Bench) -> None:
    job = bench.job("mask2former", "train", files={"train/model_epoch_000.pth": "x"})
    bench.checkpoint(job, "train/model_epoch_001.pth", epoch=1).unlink()

    found, where = candidates(bench.store, job, [".pth"], any_name=False)

    assert where == job.results_dir
    assert [item.epoch for item in found] == [0]
