"""Runs that are broken off, shared out over processes, or go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mask2former_machine import Machine
from PIL import Image

pytestmark = pytest.mark.slow

LINK = "mask2former_model_latest.pth"


def tensors(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    moments = {
        f"{key}.{name}": value
        for key, state in found["optimizer_states"][0]["state"].items()
        for name, value in state.items()
    }
    return {**found["state_dict"], **moments}


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def train(machine: Machine, spec: Path, out: str, *more: str) -> tuple[str, ...]:
    return ("tao", "model", "mask2former", "train", "-e", str(spec), f"results_dir={out}", *more)


def test_kill_and_the_same_command_end_with_the_same_weights(machine: Machine) -> None:
    """SIGKILL of all processes in mid-training; dropout paths, augmentation and point sampling all draw."""
    spec = machine.spec()
    settings = ("train.num_epochs=8", "train.checkpoint_interval_unit=step", "train.checkpoint_interval=1")
    machine.ok(*train(machine, spec, "whole", *settings))
    process = machine.start(*train(machine, spec, "broken", *settings))
    folder = machine.root / "broken" / "train"
    machine.kill_worker(process, lambda: len(list(folder.glob("model_epoch_*.pth"))) >= 3)
    names = sorted(path.name for path in (machine.root / "whole" / "train").glob("model_epoch_*.pth"))
    assert len(list(folder.glob("model_epoch_*.pth"))) < len(names)

    machine.ok(*train(machine, spec, "broken", *settings))
    assert sorted(path.name for path in folder.glob("model_epoch_*.pth")) == names
    for name in names:
        assert_same(folder / name, machine.root / "whole" / "train" / name)


@pytest.mark.parametrize(("strategy", "precision"), [("ddp", "fp32"), ("ddp_sharded", "bf16")])
def test_two_processes(strategy: str, precision: str, machine: Machine) -> None:
    """Both strategies leave one whole checkpoint; five images are measured on two processes as on one."""
    spec = machine.spec()
    out = f"two_{strategy}"
    machine.ok(
        *train(
            machine,
            spec,
            out,
            "train.num_gpus=2",
            f"train.distributed_strategy={strategy}",
            f"train.precision={precision}",
            "train.num_epochs=1",
            "dataset.train.batch_size=1",
        )
    )
    weights = machine.root / out / "train" / LINK
    found = []
    for gpus in (1, 2):
        machine.ok(
            "tao",
            "model",
            "mask2former",
            "evaluate",
            "-e",
            str(spec),
            f"evaluate.checkpoint={weights}",
            f"results_dir={out}_{gpus}",
            f"evaluate.num_gpus={gpus}",
            "evaluate.batch_size=2",
        )
        text = (machine.root / f"{out}_{gpus}" / "evaluate" / "metrics.json").read_text()
        found.append(json.loads(text)["metrics"])
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=1e-6), name


def test_precisions(machine: Machine) -> None:
    spec = machine.spec()
    machine.ok(*train(machine, spec, "bf16", "train.precision=bf16", "train.is_dry_run=true"))
    code, _, err = machine.run(*train(machine, spec, "fp16", "train.precision=fp16"))
    assert code == 6
    assert "train.precision=bf16" in err


def test_nothing_in_the_images_and_nothing_trained(machine: Machine) -> None:
    """An image without any segment trains; frozen parts stay as they are."""
    spec = machine.spec()
    text = json.loads((machine.data / "annotations_panoptic.json").read_text())
    folder = machine.root / "empty_panoptic"
    folder.mkdir()
    for annotation in text["annotations"]:
        annotation["segments_info"] = []
        with Image.open(machine.data / "images_panoptic" / annotation["file_name"]) as image:
            size = image.size
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / annotation["file_name"])
    (machine.root / "empty.json").write_text(json.dumps(text))
    machine.ok(
        *train(
            machine,
            spec,
            "empty",
            "train.num_epochs=1",
            "train.freeze=[backbone]",
            f"dataset.train.panoptic_json={machine.root / 'empty.json'}",
            f"dataset.train.panoptic_dir={folder}",
        )
    )
    assert (machine.root / "empty" / "train" / LINK).exists()


def test_a_loss_that_is_no_number_names_its_images(machine: Machine) -> None:
    """The weights explode on purpose; the last good checkpoint stays."""
    spec = machine.spec()
    machine.ok(*train(machine, spec, "nan", "train.num_epochs=1"))
    before = (machine.root / "nan" / "train" / LINK).resolve()
    weights = torch.load(before, weights_only=True)
    name = next(name for name in weights["state_dict"] if name.endswith("class_embed.weight"))
    weights["state_dict"][name].fill_(float("nan"))
    torch.save(weights, before)
    code, _, err = machine.run(*train(machine, spec, "nan", "train.num_epochs=2"))
    assert code == 6
    assert "the loss is nan" in err
    assert ".jpg" in err or ".png" in err
    assert (machine.root / "nan" / "train" / LINK).resolve() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset.train.panoptic_json": "missing.json"}, ["missing.json", "dataset.train.panoptic_json"]),
        ({"dataset.label_map": "missing_map.json"}, ["missing_map.json", "dataset.label_map"]),
        ({"model.sem_seg_head.num_classes": "2"}, ["num_classes", "2"]),
        ({"dataset.train.img_dir": "nowhere"}, ["nowhere"]),
        ({"model.backbone.pretrained_weights": "no.pth"}, ["model.backbone.pretrained_weights", "no.pth"]),
        ({"train.pretrained_model_path": "no.pth"}, ["train.pretrained_model_path", "no.pth"]),
    ],
)
def test_bad_input_is_told_before_training(
    changes: dict[str, str], words: list[str], machine: Machine
) -> None:
    spec = machine.spec()
    out = "bad_" + "_".join(changes).replace(".", "_")
    given = [f"{key}={value}" for key, value in changes.items()]
    code, _, err = machine.run(*train(machine, spec, out, *given))
    assert code == 6, err
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert not list((machine.root / out).rglob("*.pth"))


def test_a_checkpoint_of_another_architecture(machine: Machine) -> None:
    spec = machine.spec()
    machine.ok(*train(machine, spec, "other", "train.num_epochs=1"))
    weights = machine.root / "other" / "train" / LINK
    code, _, err = machine.run(
        "tao",
        "model",
        "mask2former",
        "evaluate",
        "-e",
        str(spec),
        f"evaluate.checkpoint={weights}",
        "results_dir=other",
        "model.mask_former.num_object_queries=20",
        "model.mask_former.hidden_dim=128",
    )
    assert code == 6
    assert "evaluate.checkpoint" in err
    assert "num_object_queries" in err
