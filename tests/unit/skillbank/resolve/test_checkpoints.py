import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_bench import Bench, join_network

from skillbank.errors import DataError, NotFoundError, UsageError
from skillbank.jobs.record import Job
from skillbank.resolve.checkpoints import Choice, choose_checkpoint, parse_method
from skillbank.specs.base import Metric

PTH = [".pth"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    made.store.close()


def trained(bench: Bench, *values: float | None, network: str = "mask2former", metric: str = "mIoU") -> Job:
    """A job with one checkpoint per value of its metric; None = none was measured."""
    job = bench.job(network, "train")
    for epoch, value in enumerate(values):
        metrics = {} if value is None else {metric: value}
        bench.checkpoint(
            job, f"train/model_epoch_{epoch:03d}.pth", epoch=epoch, step=10 * epoch, metrics=metrics
        )
    return job


def choose(bench: Bench, job: Job, method: str = "best", accepts: list[str] = PTH) -> Choice:
    return choose_checkpoint(bench.store, job, accepts=accepts, method=method)


def test_best_takes_the_best_value_of_the_main_metric(bench: Bench) -> None:
    choice = choose(bench, trained(bench, 0.2, 0.6, 0.4))

    assert (choice.epoch, choice.metric_name, choice.metric) == (1, "mIoU", 0.6)
    assert choice.path.endswith("model_epoch_001.pth")
    assert "highest mIoU of 3" in choice.describe()
    assert "epoch 1" in choice.describe()


def test_equal_values_give_the_earlier_epoch(bench: Bench) -> None:
    assert choose(bench, trained(bench, 0.2, 0.6, 0.6)).epoch == 1


def test_values_that_are_not_numbers_and_missing_ones_do_not_win(bench: Bench) -> None:
    assert choose(bench, trained(bench, None, 0.1, float("nan"), None)).epoch == 1


def test_other_spellings_of_the_metric_count(bench: Bench) -> None:
    job = trained(bench, 10.0, 30.0, 20.0, network="nvpanoptix3d", metric="PQ")

    choice = choose(bench, job)

    assert (choice.epoch, choice.metric_name) == (1, "val_dpq_averages_epoch")


def test_the_metric_follows_the_stage_of_the_parent(bench: Bench) -> None:
    job = bench.job("nvpanoptix3d", "train", {"dataset": {"enable_3d": True}})
    bench.checkpoint(job, "train/model_epoch_000.pth", epoch=0, metrics={"PRQ": 9.0, "PQ": 1.0})
    bench.checkpoint(job, "train/model_epoch_001.pth", epoch=1, metrics={"PRQ": 5.0, "PQ": 7.0})

    choice = choose(bench, job)

    assert (choice.epoch, choice.metric_name) == (0, "PRQ")


def test_without_a_metric_the_latest_is_taken_and_said_so(bench: Bench) -> None:
    job = trained(bench, None, None, None)

    choice = choose(bench, job)

    assert choice.epoch == 2
    assert choice.metric is None
    assert len(choice.notes) == 1
    assert job.id in choice.notes[0]


def test_a_single_checkpoint_needs_no_note(bench: Bench) -> None:
    choice = choose(bench, trained(bench, None))

    assert choice.notes == ()
    assert choice.rule == "the only one"


def test_a_name_that_claims_to_be_best_wins_over_numbers(bench: Bench) -> None:
    files = {"train/model_epoch_009.pth": "x", "train/model_best_003.pth": "x"}

    choice = choose(bench, bench.job("mask2former", "train", files=files))

    assert choice.epoch == 3
    assert choice.path.endswith("model_best_003.pth")


def test_latest_goes_by_epoch_then_step(bench: Bench) -> None:
    files = dict.fromkeys(
        (
            "train/model_epoch_001_step_00100.pth",
            "train/model_epoch_002_step_00110.pth",
            "train/model_epoch_002_step_00120.pth",
            "train/swin_base_patch4_window12_384.pth",
        ),
        "x",
    )

    choice = choose(bench, bench.job("mask2former", "train", files=files), "latest")

    assert (choice.epoch, choice.step) == (2, 120)


def test_latest_goes_by_time_when_numbers_are_equal(bench: Bench) -> None:
    job = bench.job("mask2former", "train")
    for name in ("train/a/model_epoch_003.pth", "train/b/model_epoch_003.pth"):
        bench.checkpoint(job, name, epoch=3)

    assert choose(bench, job, "latest").path.endswith("b/model_epoch_003.pth")


def test_a_latest_file_without_number_is_the_last_resort(bench: Bench) -> None:
    only = bench.job("mask2former", "train", files={"train/mask2former_model_latest.pth": "x"})
    files = {"train/mask2former_model_latest.pth": "x", "train/model_epoch_001.pth": "x"}
    both = bench.job("mask2former", "train", files=files)

    assert choose(bench, only).path.endswith("mask2former_model_latest.pth")
    assert choose(bench, both).path.endswith("model_epoch_001.pth")


def test_without_numbers_the_name_says_which_is_latest_or_best(bench: Bench) -> None:
    job = bench.job("mask2former", "train")
    for name in ("train/mask2former_model_latest.pth", "train/model_best_PRQ.pth"):
        bench.checkpoint(job, name)

    assert choose(bench, job, "latest").path.endswith("mask2former_model_latest.pth")
    assert choose(bench, job, "best").path.endswith("model_best_PRQ.pth")


def test_a_copy_without_number_does_not_count_as_the_best(bench: Bench) -> None:
    job = trained(bench, 0.2, 0.6)
    bench.checkpoint(job, "train/mask2former_model_latest.pth", metrics={"mIoU": 0.9})

    assert choose(bench, job).epoch == 1


def test_a_registered_latest_file_with_a_number_counts(bench: Bench) -> None:
    job = bench.job("mask2former", "train")
    bench.checkpoint(job, "train/mask2former_model_latest.pth", epoch=3)

    assert choose(bench, job).epoch == 3


def test_a_metric_may_be_better_when_lower(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Metric(name="val_loss", direction="min", description="Loss.", primary=True)
    join_network(monkeypatch, tmp_path, "mask2former", metrics=(loss,))

    choice = choose(bench, trained(bench, 3.0, 1.0, 2.0, metric="val_loss"))

    assert (choice.epoch, choice.rule) == (1, "lowest val_loss of 3")


def test_an_epoch_is_exact(bench: Bench) -> None:
    assert choose(bench, trained(bench, 0.2, 0.6, 0.4), "epoch:2").epoch == 2


def test_an_epoch_that_is_not_there_lists_those_that_are(bench: Bench) -> None:
    job = trained(bench, 0.2, 0.6)

    with pytest.raises(NotFoundError, match="epoch 7; it has 0, 1") as caught:
        choose(bench, job, "epoch:7")

    assert job.id in caught.value.message
    assert caught.value.allowed == ["epoch:0", "epoch:1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("best", ("best", None)),
        ("Latest", ("latest", None)),
        ("best_model", ("best", None)),
        ("latest_model", ("latest", None)),
        ("epoch:12", ("epoch", 12)),
    ],
)
def test_methods(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_method(text) == expected


@pytest.mark.parametrize("text", ["", "newest", "epoch", "epoch:", "epoch:-1", "epoch:x"])
def test_unknown_methods_name_the_allowed_ones(text: str) -> None:
    with pytest.raises(UsageError, match="best, latest or epoch:N"):
        parse_method(text)


def test_the_consumer_decides_which_files_count(bench: Bench) -> None:
    job = bench.job(
        "mask2former", "export", files={"export/model.onnx": "x", "export/model_epoch_001.pth": "x"}
    )

    assert choose(bench, job, accepts=[".onnx"]).path.endswith("model.onnx")


def test_nothing_usable_names_job_folder_and_patterns(bench: Bench) -> None:
    job = bench.job("mask2former", "train", files={"train/swin_base_patch4_window12_384.pth": "x"})

    with pytest.raises(NotFoundError) as caught:
        choose(bench, job)

    text = caught.value.message
    assert job.id in text
    assert job.results_dir in text
    assert ".pth" in text
    assert "model_epoch_000" in text
    assert caught.value.hint == f"skillbank jobs artifacts {job.id}"


def test_what_was_found_instead_is_listed(bench: Bench) -> None:
    job = bench.job("mask2former", "export")
    bench.checkpoint(job, "export/model.onnx", kind="onnx")

    with pytest.raises(NotFoundError, match=r"registered are model\.onnx"):
        choose(bench, job)


@pytest.mark.parametrize("nested", [True, False])
def test_a_search_stands_for_its_best_trial(bench: Bench, nested: bool) -> None:
    search = bench.job("mask2former", "train", policy={"route": "automl"})
    trained(bench, 0.9)
    winner = trained(bench, 0.3, 0.8)
    record = {"best": {"job_id": winner.id}} if nested else {"job_id": winner.id}
    bench.store.register_artifact(
        search.id, bench.write(search, "best_trial.json", json.dumps(record)), kind="best_trial"
    )

    choice = choose(bench, search)

    assert (choice.job_id, choice.epoch, choice.metric) == (winner.id, 1, 0.8)
    assert "best trial of the search" in choice.rule
    assert "best trial" in choose(bench, search, "latest").rule


def test_a_search_without_winner_is_an_error(bench: Bench) -> None:
    search = bench.job(
        "mask2former", "train", policy={"route": "automl"}, files={"train/model_epoch_000.pth": "x"}
    )

    with pytest.raises(NotFoundError, match="without a best trial"):
        choose(bench, search)


def test_a_broken_record_of_a_search_is_an_error(bench: Bench) -> None:
    search = bench.job("mask2former", "train", policy={"route": "automl"})
    bench.store.register_artifact(search.id, bench.write(search, "best_trial.json", "{}"), kind="best_trial")

    with pytest.raises(DataError, match="names no job"):
        choose(bench, search)
