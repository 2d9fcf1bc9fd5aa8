"""Training from the first step to the last, in one piece and in several."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import toy_impl
from toy_run import LIGHTNING_WARNING, Outcome, run_toy, weights

from skillbank.errors import ConflictError, InterruptedJobError, InvalidValueError, JobFailedError
from skillbank_models.protocol import Implementation
from skillbank_runners.checkpoints import read_checkpoint
from skillbank_runners.interrupts import Interrupts
from skillbank_runners.schedule import StepLimit

pytestmark = pytest.mark.filterwarnings(LIGHTNING_WARNING)

LINK = "toy_model_latest.pth"


@pytest.fixture
def points(tmp_path: Path) -> dict[str, Any]:
    """45 points in batches of 8: six batches an epoch, the last one smaller."""
    path = toy_impl.write_points(tmp_path / "points.txt", 45)
    return {"dataset__train_file": str(path), "train__num_epochs": 3, "train__optim__milestones": [2]}


class At(pl.Callback):
    """Does something behind the batch of this number, counted over the run."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.left = number
        self.act = act

    def on_train_batch_end(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


class WhileValidating(pl.Callback):
    """Does something at the first batch of a validation."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def on_validation_batch_end(self, *_: Any) -> None:
        self.act()


def with_callback(callback: pl.Callback) -> Implementation:
    return replace(toy_impl.NETWORK, callbacks=lambda spec: [callback])


def kill() -> None:
    raise SystemExit(137)


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


WAYS: dict[str, dict[str, Any]] = {
    "epochs": {},
    "steps": {"train__checkpoint_interval_unit": "step", "train__checkpoint_interval": 4.0},
    "steps, loader processes": {
        "train__checkpoint_interval_unit": "step",
        "train__checkpoint_interval": 4.0,
        "dataset__num_workers": 1,
    },
    "half epochs": {"train__checkpoint_interval": 0.5, "train__validation_interval": 0.5},
    "two batches a step": {
        "train__checkpoint_interval_unit": "step",
        "train__checkpoint_interval": 2.0,
        "train__accumulate_grad_batches": 2,
    },
    "epochs of eight steps": {"train__iters_per_epoch": 8},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_twice_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, points: dict[str, Any], way: str
) -> None:
    settings = {**points, **WAYS[way]}
    whole = run_toy(tmp_path / "whole", **settings)
    folder = tmp_path / "broken"
    for batches in (10, 7):
        with pytest.raises(SystemExit):
            run_toy(folder, implementation=with_callback(At(batches, kill)), **settings)
    assert (folder / LINK).resolve().name != (whole.folder / LINK).resolve().name
    broken = run_toy(folder, **settings)
    assert broken.names == whole.names
    for name in broken.names:
        assert_same(folder / name, whole.folder / name)
    assert "resuming from model_epoch" in str(broken.events)


def test_the_comparison_can_fail(tmp_path: Path, points: dict[str, Any]) -> None:
    one = run_toy(tmp_path / "one", **points)
    other = run_toy(tmp_path / "other", **points, train__seed=1)
    with pytest.raises(AssertionError):
        assert_same(one.folder / LINK, other.folder / LINK)


def test_validation_does_not_disturb_training_and_its_numbers_go_with_their_weights(
    tmp_path: Path, points: dict[str, Any]
) -> None:
    points["train__num_epochs"] = 6
    often = run_toy(tmp_path / "often", **points)
    rarely = run_toy(tmp_path / "rarely", **points, train__validation_interval=2.5)
    assert_same(often.folder / LINK, rarely.folder / LINK)
    validated = [found.epoch for found in rarely.artifacts if "val_loss" in found.metrics]
    # behind batch 15 inside epoch 2, at the end of epoch 4, and at the very end
    assert [found.epoch for found in rarely.artifacts] == [0, 1, 2, 3, 4, 5]
    assert validated == [4, 5]
    events = [event for event in rarely.events if "val_loss" in event.get("kpi", {})]
    assert [event["message"] for event in events] == [
        "epoch 3: validation after 3 batches",
        "epoch 5 of 6 done",
        "epoch 6 of 6 done",
    ]
    assert [events[1]["kpi"]["val_loss"], events[2]["kpi"]["val_loss"]] == [
        often.artifacts[epoch].metrics["val_loss"] for epoch in (4, 5)
    ]


def test_checkpoints_are_named_linked_and_registered(tmp_path: Path, points: dict[str, Any]) -> None:
    done = run_toy(tmp_path / "train", **points)
    assert done.names == ["model_epoch_000.pth", "model_epoch_001.pth", "model_epoch_002.pth", LINK]
    assert (done.folder / LINK).readlink() == Path("model_epoch_002.pth")
    assert [(found.path.name, found.kind, found.epoch, found.step) for found in done.artifacts] == [
        (f"model_epoch_00{epoch}.pth", "checkpoint", epoch, 6 * (epoch + 1)) for epoch in range(3)
    ]
    assert done.artifacts[2].metrics.keys() == {"train_loss", "val_accuracy", "val_loss"}
    content = read_checkpoint(done.folder / LINK)
    assert content["tao_model"] == "toy"
    assert content["skillbank"]["metrics"] == done.artifacts[2].metrics
    assert content["epoch"] == 2
    assert str(tmp_path) not in str({key: value for key, value in content.items() if key != "state_dict"})


def test_every_epoch_is_an_event_with_numbers_and_time(tmp_path: Path, points: dict[str, Any]) -> None:
    done = run_toy(tmp_path / "train", **points)
    epochs = [event for event in done.events if event["event"] == "metrics"]
    assert [event["epoch"] for event in epochs] == [0, 1, 2]
    last = epochs[-1]
    assert last["status"] == "RUNNING"
    assert last["max_epoch"] == 2
    assert last["global_step"] == 18
    assert last["eta"] == "0:00:00"
    assert last["time_per_epoch"].count(":") == 2
    assert 0 < last["kpi"]["train_loss"] < 1


@pytest.mark.parametrize(
    ("batches", "saved"), [(8, "model_epoch_001_step_00008.pth"), (12, "model_epoch_001_step_00012.pth")]
)
def test_a_run_asked_to_stop_saves_and_goes_on_later_as_if_nothing_had_been(
    tmp_path: Path, points: dict[str, Any], batches: int, saved: str
) -> None:
    whole = run_toy(tmp_path / "whole", **points)
    interrupts, folder = Interrupts(), tmp_path / "stopped"
    ask = At(batches, lambda: interrupts._handle(signal.SIGTERM, None))
    left = Outcome(folder)
    with pytest.raises(InterruptedJobError, match="stopped by SIGTERM"):
        run_toy(folder, interrupts=interrupts, implementation=with_callback(ask), outcome=left, **points)
    assert (folder / LINK).readlink() == Path(saved)
    assert left.artifacts[-1].path.name == saved
    assert left.artifacts[-1].metrics == {}
    run_toy(folder, **points)
    assert_same(folder / LINK, whole.folder / LINK)


def test_a_stop_during_validation_keeps_the_epoch(tmp_path: Path, points: dict[str, Any]) -> None:
    whole = run_toy(tmp_path / "whole", **points)
    interrupts, folder = Interrupts(), tmp_path / "stopped"
    ask = WhileValidating(lambda: interrupts._handle(signal.SIGINT, None))
    with pytest.raises(InterruptedJobError, match="SIGINT"):
        run_toy(folder, interrupts=interrupts, implementation=with_callback(ask), **points)
    assert (folder / LINK).readlink() == Path("model_epoch_000_step_00006.pth")
    run_toy(folder, **points)
    assert_same(folder / LINK, whole.folder / LINK)


def test_a_loss_that_is_no_number_stops_before_it_does_harm(tmp_path: Path) -> None:
    good = toy_impl.write_points(tmp_path / "good.txt", 40)
    bad = toy_impl.write_points(tmp_path / "bad.txt", 40, poison=17)
    folder = tmp_path / "train"
    settings = {"dataset__noise": 0.0, "dataset__val_file": str(good)}
    run_toy(folder, **settings, dataset__train_file=str(good), train__num_epochs=1)
    before = weights(folder / LINK)
    with pytest.raises(JobFailedError) as found:
        run_toy(folder, **settings, dataset__train_file=str(bad), train__num_epochs=3)
    text = found.value.message
    assert "epoch 2, step " in text
    assert "p17" in text
    assert "the loss is nan" in text
    assert "lower train.optim.lr" in found.value.hint
    assert (folder / LINK).readlink() == Path("model_epoch_000.pth")
    assert all(torch.equal(before[name], value) for name, value in weights(folder / LINK).items())


def test_a_finished_run_has_nothing_left_but_knows_its_checkpoints(
    tmp_path: Path, points: dict[str, Any]
) -> None:
    folder = tmp_path / "train"
    first = run_toy(folder, **points)
    again = run_toy(folder, **points)
    assert "nothing left to train: model_epoch_002.pth has all 3 epochs" in again.events[-1]["message"]
    assert [found.path.name for found in again.artifacts] == [found.path.name for found in first.artifacts]
    assert [found.metrics for found in again.artifacts] == [found.metrics for found in first.artifacts]


def test_fewer_epochs_than_the_checkpoint_has_is_a_conflict(tmp_path: Path, points: dict[str, Any]) -> None:
    run_toy(tmp_path / "train", **points)
    with pytest.raises(ConflictError, match=r"train\.num_epochs: 2 is less than the 3 epochs") as found:
        run_toy(tmp_path / "train", **{**points, "train__num_epochs": 2})
    assert found.value.hint.startswith("train.num_epochs=")


def test_what_cannot_be_resumed_is_told_before_training(tmp_path: Path, points: dict[str, Any]) -> None:
    folder = tmp_path / "train"
    run_toy(folder, **{**points, "train__num_epochs": 1})
    with pytest.raises(
        InvalidValueError, match=r"another architecture.*model\.inner\.0\.weight \(8, 2\) instead"
    ):
        run_toy(folder, **points, model__hidden=4)
    torch.save({"state_dict": read_checkpoint(folder / LINK)["state_dict"]}, tmp_path / "weights.pth")
    with pytest.raises(InvalidValueError, match="has no optimizer_states, lr_schedulers, loops") as found:
        run_toy(folder, **points, train__resume_training_checkpoint_path=str(tmp_path / "weights.pth"))
    assert "pretrained" in found.value.hint


def test_a_path_to_resume_from_wins_over_the_link(tmp_path: Path, points: dict[str, Any]) -> None:
    run_toy(tmp_path / "one", **points)
    run_toy(tmp_path / "two", **points, train__seed=9)
    given = str(tmp_path / "one" / "model_epoch_001.pth")
    run_toy(tmp_path / "two", **points, train__seed=9, train__resume_training_checkpoint_path=given)
    assert_same(tmp_path / "two" / LINK, tmp_path / "one" / LINK)


def test_a_trial_run_goes_through_everything_and_leaves_nothing(
    tmp_path: Path, points: dict[str, Any]
) -> None:
    folder = tmp_path / "train"
    done = run_toy(folder, **points, train__is_dry_run=True)
    assert done.names == []
    epochs = [event for event in done.events if event["event"] == "metrics"]
    assert [event["global_step"] for event in epochs] == [1]
    assert "val_loss" in epochs[0]["kpi"]


def test_the_best_checkpoints_are_kept_beside_the_others(tmp_path: Path, points: dict[str, Any]) -> None:
    keeping = {"train__checkpointer": {"enable_topk": True, "monitor": "val_loss", "save_top_k": 2}}
    done = run_toy(tmp_path / "train", **{**points, "train__num_epochs": 4}, **keeping)
    losses = {found.epoch: found.metrics["val_loss"] for found in done.artifacts}
    best = sorted(losses, key=lambda epoch: losses[epoch])[:2]
    assert [name for name in done.names if "best" in name] == sorted(
        f"model_best_{epoch:03d}.pth" for epoch in best
    )
    for epoch in best:
        assert_same(done.folder / f"model_best_{epoch:03d}.pth", done.folder / f"model_epoch_{epoch:03d}.pth")


def test_only_best_and_newest_stay_when_periodic_ones_are_replaced(
    tmp_path: Path, points: dict[str, Any]
) -> None:
    keeping = {
        "train__checkpointer": {
            "enable_topk": True,
            "replace_periodic": True,
            "filename": "best_{epoch:02d}_{val_loss:.1f}",
            "auto_insert_metric_name": True,
            "dirpath": str(tmp_path / "best"),
        }
    }
    with pytest.raises(SystemExit):
        run_toy(tmp_path / "train", implementation=with_callback(At(14, kill)), **{**points, **keeping})
    done = run_toy(tmp_path / "train", **points, **keeping)
    assert done.names == ["model_epoch_002.pth", LINK]
    (best,) = (path.name for path in (tmp_path / "best").iterdir())
    assert best.startswith("best_epoch=0")
    assert best.endswith(".pth")


def test_an_unknown_metric_needs_a_direction(tmp_path: Path, points: dict[str, Any]) -> None:
    for key, message in (("train_loss", "its direction is not known"), (None, "")):
        block = {"enable_topk": True, "monitor": key}
        if message:
            with pytest.raises(InvalidValueError, match=message):
                run_toy(tmp_path / "train", **points, train__checkpointer=block)
        else:
            run_toy(tmp_path / "train", **points, train__checkpointer=block)


def test_other_weights_are_a_start_and_not_a_resume(tmp_path: Path, points: dict[str, Any]) -> None:
    run_toy(tmp_path / "one", **points)
    start = {"train__pretrained_model_path": str(tmp_path / "one" / LINK)}
    asked = []

    def count(module: pl.LightningModule, spec: Any) -> None:
        asked.append(spec.train.pretrained_model_path)
        toy_impl._start_weights(module, spec)

    counting = replace(toy_impl.NETWORK, start_weights=count)
    done = run_toy(tmp_path / "two", implementation=counting, **points, **start)
    assert done.artifacts[0].step == 6
    fresh = read_checkpoint(tmp_path / "one" / "model_epoch_000.pth")["skillbank"]["metrics"]
    assert done.artifacts[0].metrics["train_loss"] < fresh["train_loss"]
    run_toy(tmp_path / "two", implementation=counting, **{**points, "train__num_epochs": 4}, **start)
    assert asked == [start["train__pretrained_model_path"]]


def test_frozen_modules_stay_as_they_are(
    tmp_path: Path, points: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    free = run_toy(tmp_path / "free", **{**points, "train__num_epochs": 1})
    done = run_toy(tmp_path / "train", **points, train__freeze=["inner", "no_such"])
    states = [read_checkpoint(done.folder / f"model_epoch_00{epoch}.pth")["state_dict"] for epoch in (0, 2)]
    inner = [name for name in states[0] if name.startswith("model.inner")]
    assert len(inner) == 7
    assert all(torch.equal(states[0][name], states[1][name]) for name in inner)
    assert not torch.equal(states[0]["model.head.weight"], states[1]["model.head.weight"])
    start = read_checkpoint(free.folder / LINK)["state_dict"]
    assert not torch.equal(start["model.inner.1.running_mean"], states[0]["model.inner.1.running_mean"])
    assert "'no_such' is no module of this network" in caplog.text
    with pytest.raises(InvalidValueError, match=r"'haed' is no module.*near are head"):
        run_toy(tmp_path / "wrong", **points, train__freeze=["haed"])


def test_training_ends_at_the_step_limit_with_a_checkpoint(tmp_path: Path, points: dict[str, Any]) -> None:
    done = run_toy(tmp_path / "train", implementation=with_callback(StepLimit(8)), **points)
    assert done.names == ["model_epoch_000.pth", "model_epoch_001.pth", LINK]
    assert done.artifacts[-1].step == 8
    assert "val_loss" in done.artifacts[-1].metrics


def test_half_precision_on_the_cpu(tmp_path: Path, points: dict[str, Any]) -> None:
    done = run_toy(tmp_path / "bf16", **{**points, "train__num_epochs": 1}, train__precision="bf16")
    assert done.names == ["model_epoch_000.pth", LINK]
    with pytest.raises(ConflictError, match=r"train\.precision: fp16 needs a GPU.*use bf16 or fp32") as found:
        run_toy(tmp_path / "fp16", **points, train__precision="fp16")
    assert found.value.hint == "train.precision=bf16"
