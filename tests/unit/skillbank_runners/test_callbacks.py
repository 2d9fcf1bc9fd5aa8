"""Guards and helpers around training, each by itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from skillbank.errors import JobFailedError
from skillbank.jobs.status import StatusWriter, read_events
from skillbank_runners.callbacks import ClipGradients, LossGuard, sample_names
from skillbank_runners.progress import Measures, Progress
from skillbank_runners.schedule import crosses


def gradients(kind: str, bound: float, norm_type: float = 2.0) -> list[list[float]]:
    """Gradients [3, 4] and [0, 12] after clipping; their norms are 5 and 12, together 13."""
    one, two = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    one.grad, two.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])
    optimizer = torch.optim.SGD([{"params": [one]}, {"params": [two], "lr": 0.1}], lr=1)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(model=None))
    ClipGradients(bound, norm_type, kind).on_before_optimizer_step(trainer, pl.LightningModule(), optimizer)
    return [parameter.grad.tolist() for parameter in (one, two) if parameter.grad is not None]


def test_full_clipping_takes_one_norm_over_all_groups() -> None:
    found = torch.tensor(gradients("full", 1.3))
    assert torch.allclose(found, torch.tensor([[0.3, 0.4], [0.0, 1.2]]), atol=1e-5)
    assert torch.tensor(gradients("full", 100.0)).tolist() == [[3, 4], [0, 12]]
    assert torch.allclose(
        torch.tensor(gradients("full", 6.0, float("inf"))), torch.tensor([[1.5, 2], [0, 6.0]])
    )


def test_norm_and_value_clipping_look_at_each_parameter() -> None:
    assert torch.allclose(
        torch.tensor(gradients("norm", 5.0)), torch.tensor([[3.0, 4.0], [0.0, 5.0]]), atol=1e-4
    )
    assert gradients("value", 3.5) == [[3, 3.5], [0, 3.5]]


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        ({"image_ids": torch.tensor([4, 7])}, ["4", "7"]),
        ({"file_names": ("a.png", "b.png")}, ["a.png", "b.png"]),
        (SimpleNamespace(ids=["x"]), ["x"]),
        ({"images": torch.zeros(1)}, []),
        (torch.zeros(1), []),
    ],
)
def test_samples_are_named_under_the_usual_keys(batch: Any, names: list[str]) -> None:
    assert sample_names(batch) == names


def test_the_guard_names_place_samples_and_the_parts_of_the_loss() -> None:
    guard = LossGuard(lambda batch: ["img_7"])
    metrics = {"loss_mask": torch.tensor(float("inf")), "loss_class": torch.tensor(1.0)}
    trainer: Any = SimpleNamespace(current_epoch=2, global_step=40, callback_metrics=metrics)
    guard.on_train_batch_start(trainer, pl.LightningModule(), {}, 3)
    guard.on_before_backward(trainer, pl.LightningModule(), torch.tensor(1.0))
    with pytest.raises(JobFailedError) as found:
        guard.on_before_backward(trainer, pl.LightningModule(), torch.tensor(float("inf")))
    assert found.value.message.startswith(
        "epoch 3, step 40, batch 3 (samples img_7): the loss is inf; not finite: loss_mask;"
    )


def test_a_long_epoch_gives_a_sign_of_life(tmp_path: Path) -> None:
    now = [0.0]
    status = StatusWriter(tmp_path / "status.json", job_id="j", component="toy train")
    progress = Progress(status, Measures(), every_s=10, clock=lambda: now[0])
    trainer: Any = SimpleNamespace(
        current_epoch=1,
        max_epochs=3,
        global_step=7,
        num_training_batches=10,
        callback_metrics={},
        optimizers=[],
    )
    module = pl.LightningModule()
    progress.on_train_epoch_start(trainer, module)
    for index, seconds in enumerate((4, 8, 12, 16)):
        now[0] = seconds
        progress.on_train_batch_end(trainer, module, None, None, index)
    (event,) = read_events(tmp_path / "status.json")
    assert event.message == "epoch 2: 3 of 10 batches"
    assert event.fields["cur_iter"] == 3
    # 4 s a batch: 7 batches of this epoch and 10 of the last one
    assert event.fields["eta"] == "0:01:08"


@pytest.mark.parametrize(
    ("interval", "per_epoch", "due"),
    [
        (1.0, 3, [3, 6, 9]),
        (2.0, 3, [6]),
        (0.5, 4, [2, 4, 6, 8, 10, 12]),
        (0.5, 3, [2, 3, 5, 6, 8, 9]),
        (1.5, 2, [3, 6]),
        (0.1, 10, list(range(1, 31))),
        (0.01, 2, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_fractional_intervals_keep_step_with_the_epochs(
    interval: float, per_epoch: int, due: list[int]
) -> None:
    found = [
        epoch * per_epoch + batches
        for epoch in range(3)
        for batches in range(1, per_epoch + 1)
        if crosses(interval, epoch, batches, per_epoch)
    ]
    assert found == due
