"""Runs that are broken off, shared out over processes, or in other precision."""

from __future__ import annotations

import json

import pytest
from nvpanoptix3d_machine import STAGE_1, STAGE_2, Machine, assert_same

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", [1, 2])
def test_kill_and_the_same_command_end_with_the_same_weights(stage: int, machine: Machine) -> None:
    """SIGKILL in mid-training; augmentation and point sampling all draw."""
    augmentation = {
        "dataset__augmentation__random_flip": "horizontal",
        "dataset__augmentation__color_aug_ssd": True,
    }
    spec = machine.spec(stage, **augmentation)
    more = [
        "train.num_epochs=5", "train.checkpoint_interval_unit=step", "train.checkpoint_interval=1",
        "train.validation_interval=5", "dataset.train.batch_size=1",
    ]  # fmt: skip
    if stage == 2:
        more.append(f"train.checkpoint_2d={machine.stage_1()}")
    machine.ok(*machine.train(spec, f"whole_{stage}", *more))
    folder, whole = (machine.root / f"{name}_{stage}" / "train" for name in ("broken", "whole"))
    process = machine.start(*machine.train(spec, f"broken_{stage}", *more))
    machine.kill_worker(process, lambda: len(list(folder.glob("model_epoch_*.pth"))) >= 3)
    names = sorted(path.name for path in whole.glob("model_epoch_*.pth"))
    assert 3 <= len(list(folder.glob("model_epoch_*.pth"))) < len(names)

    machine.ok(*machine.train(spec, f"broken_{stage}", *more))
    assert sorted(path.name for path in folder.glob("model_epoch_*.pth")) == names
    for name in names:
        assert_same(folder / name, whole / name)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(("strategy", "precision"), [("ddp", "fp32"), ("fsdp", "bf16")])
def test_two_processes(stage: int, strategy: str, precision: str, machine: Machine) -> None:
    """Both strategies leave one whole checkpoint, which two processes measure as one does."""
    spec = machine.spec(stage)
    out = f"two_{stage}_{strategy}"
    three = machine.data / "meta" / "train.json"
    more = [
        "train.num_gpus=2", f"train.distributed_strategy={strategy}", f"train.precision={precision}",
        "train.num_epochs=1", "dataset.train.batch_size=1", f"dataset.val.json_path={three}",
    ]  # fmt: skip
    if stage == 2:
        more.append(f"train.checkpoint_2d={machine.stage_1()}")
    machine.ok(*machine.train(spec, out, *more))
    weights = machine.root / out / "train" / (STAGE_1 if stage == 1 else STAGE_2)
    found = []
    for gpus in (1, 2):
        machine.ok(
            "tao", "nvpanoptix3d", "evaluate", "-e", str(spec), f"evaluate.checkpoint={weights}",
            f"results_dir={out}_{gpus}", f"evaluate.num_gpus={gpus}",
            f"dataset.test.json_path={three}",
            "model.object_mask_threshold=0.0", "model.overlap_threshold=0.0",
        )  # fmt: skip
        text = (machine.root / f"{out}_{gpus}" / "evaluate" / "metrics.json").read_text()
        found.append(json.loads(text)["metrics"])
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("stage", [1, 2])
def test_precisions(stage: int, machine: Machine) -> None:
    more = [f"train.checkpoint_2d={machine.stage_1()}"] if stage == 2 else []
    spec = machine.spec(stage)
    machine.ok(*machine.train(spec, f"bf16_{stage}", "train.precision=bf16", "train.is_dry_run=true", *more))
    code, _, err = machine.run(*machine.train(spec, f"fp16_{stage}", "train.precision=fp16", *more))
    assert code == 6
    assert "train.precision=bf16" in err


def test_kept_2d_outputs_give_the_same_stage_2(machine: Machine) -> None:
    """The second epoch reads what the first one wrote; losses agree up to the 16 bits they are kept in."""
    spec = machine.spec(2)
    losses = []
    for cache in ("null", str(machine.root / "kept")):
        out = f"kept_{cache != 'null'}"
        machine.ok(
            *machine.train(
                spec, out, f"train.checkpoint_2d={machine.stage_1()}", f"dataset.cache_dir={cache}"
            )
        )
        lines = (machine.root / out / "train" / "status.json").read_text().splitlines()
        kpis = [json.loads(line)["kpi"] for line in lines if json.loads(line).get("kpi")]
        losses.append(next(kpi["train_loss"] for kpi in reversed(kpis) if "train_loss" in kpi))
    assert list((machine.root / "kept").rglob("*.pt"))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
