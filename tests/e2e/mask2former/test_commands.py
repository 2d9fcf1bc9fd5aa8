"""The documented command lines of Mask2Former, letter for letter, on real data and a real, tiny network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_lines import lines
from mask2former_machine import Machine
from PIL import Image

pytestmark = pytest.mark.slow


def filled(number: str, **values: str) -> list[str]:
    """The words of a documented line: placeholders replaced, optional parts kept where they have a value."""
    text = lines()[number].replace("[-h] ", "")
    for name, value in values.items():
        text = re.sub(rf"\[?\S*<{name}>\]?", value, text, count=1)
    return re.sub(r"\[\S*?<[^>]*>\]", "", text).split()


@pytest.fixture(scope="module")
def spec(machine: Machine) -> Path:
    return machine.spec()


@pytest.fixture(scope="module")
def trained(machine: Machine, spec: Path) -> Path:
    """Results of E02."""
    words = lines()["E02"].replace("[-h] ", "")
    for placeholder, value in {
        "<experiment_spec>": str(spec),
        "[results_dir=<global_results_dir>]": "results_dir=results",
        "[model.<model_option>=<model_option_value>]": "model.mask_former.num_object_queries=10",
        "[dataset.<dataset_option>=<dataset_option_value>]": "dataset.train.batch_size=2",
        "[train.<train_option>=<train_option_value>]": "train.num_epochs=2",
        "[train.gpu_ids=<gpu indices>]": "train.gpu_ids=[0]",
        "[train.num_gpus=<number of gpus>]": "train.num_gpus=1",
    }.items():
        assert placeholder in words
        words = words.replace(placeholder, value)
    machine.ok(*words.split())
    return machine.root / "results" / "train"


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Path:
    return trained / "mask2former_model_latest.pth"


QUERIES = "model.mask_former.num_object_queries=10"


def test_e01_and_e02_train(trained: Path) -> None:
    events = [json.loads(line) for line in (trained / "status.json").read_text().splitlines()]
    assert events[-1]["status"] == "SUCCESS"
    kpi = next(event["kpi"] for event in reversed(events) if event.get("kpi"))
    assert {"train_loss", "val_loss", "mIoU", "ACC_all", "PQ", "SQ", "RQ", "loss_ce", "loss_dice"} <= set(kpi)
    assert all(0 <= kpi[name] <= 1 for name in ("mIoU", "ACC_all", "PQ"))


def test_e03_listing(machine: Machine, trained: Path) -> None:
    listed = machine.ok(*lines()["E03"].replace("/results/train", str(trained)).split()).split()
    assert listed == [
        "experiment.yaml",
        "mask2former_model_latest.pth",
        "model_epoch_000.pth",
        "model_epoch_001.pth",
        "status.json",
    ]


def test_e04_evaluate(machine: Machine, spec: Path, checkpoint: Path) -> None:
    words = lines()["E04"].replace("[-h] ", "")
    for placeholder, value in {
        "<experiment_spec>": str(spec),
        "<model to be evaluated>": str(checkpoint),
        "[evaluate.<evaluate_option>=<evaluate_option_value>]": "evaluate.batch_size=2",
        "[evaluate.gpu_ids=<gpu indices>]": "evaluate.gpu_ids=[0]",
        "[evaluate.num_gpus=<number of gpus>]": "evaluate.num_gpus=1",
    }.items():
        words = words.replace(placeholder, value)
    machine.ok(*words.split(), QUERIES, "results_dir=results")
    folder = machine.root / "results" / "evaluate"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {"mIoU", "ACC_all", "PQ", "PQ_th", "PQ_st"} <= set(metrics)
    rows = json.loads((folder / "per_class.json").read_text())["classes"]
    assert rows
    assert {"name", "PQ", "IoU"} <= set(rows[0])
    assert rows[0]["name"] in (folder / "metrics.txt").read_text()


def test_e05_inference(machine: Machine, spec: Path, checkpoint: Path) -> None:
    words = lines()["E05"].replace("[-h] ", "")
    for placeholder, value in {
        "<experiment spec file>": str(spec),
        "<inference model>": str(checkpoint),
        "[inference.<evaluate_option>=<evaluate_option_value>]": "inference.batch_size=2",
        "[inference.gpu_ids=<gpu indices>]": "inference.gpu_ids=[0]",
        "[inference.num_gpus=<number of gpus>]": "inference.num_gpus=1",
    }.items():
        words = words.replace(placeholder, value)
    machine.ok(*words.split(), QUERIES, "model.object_mask_threshold=0.0", "results_dir=results")
    folder = machine.root / "results" / "inference"
    found = json.loads((folder / "panoptic.json").read_text())
    assert len(found["annotations"]) == 5
    for item in found["annotations"]:
        with Image.open(folder / "panoptic" / item["file_name"]) as image:
            assert image.size == (80, 64)
    assert len(list((folder / "overlays").rglob("*.jpg"))) == 5


def test_e06_export_and_the_file_is_used(machine: Machine, spec: Path, checkpoint: Path) -> None:
    """Export, then evaluation and inference with the ONNX file, then INT8, then what an engine needs."""
    words = lines()["E06"].replace("[-h] ", "")
    onnx = machine.root / "results" / "model.onnx"
    for placeholder, value in {
        "<experiment spec file>": str(spec),
        "[results_dir=<results_dir>]": "results_dir=results",
        "<model to export>": str(checkpoint),
        "<onnx path>": str(onnx),
    }.items():
        words = words.replace(placeholder, value)
    machine.ok(*words.split(), QUERIES)
    assert onnx.is_file()
    report = json.loads(onnx.with_name("model.onnx.report.json").read_text())
    assert report["comparison"]["done"]
    assert max(report["comparison"]["max_abs_diff"].values()) < 1e-3

    common = ("-e", str(spec), QUERIES)
    machine.ok(
        "tao", "model", "mask2former", "evaluate", *common, f"evaluate.trt_engine={onnx}", "results_dir=onnx"
    )
    machine.ok(
        "tao",
        "model",
        "mask2former",
        "evaluate",
        *common,
        f"evaluate.checkpoint={checkpoint}",
        "results_dir=torch",
    )
    one, other = (
        json.loads((machine.root / folder / "evaluate" / "metrics.json").read_text())["metrics"]
        for folder in ("onnx", "torch")
    )
    assert one["mIoU"] == pytest.approx(other["mIoU"], abs=0.05)
    machine.ok(
        "tao",
        "model",
        "mask2former",
        "inference",
        *common,
        f"inference.checkpoint={onnx}",
        "results_dir=onnx",
    )
    assert len(list((machine.root / "onnx" / "inference" / "overlays").rglob("*.jpg"))) == 5

    code, _, err = machine.run(
        "tao",
        "model",
        "mask2former",
        "gen_trt_engine",
        *common,
        f"gen_trt_engine.onnx_file={onnx}",
        "gen_trt_engine.trt_engine=model.engine",
    )
    assert code == 5
    assert "skillbank[trt]" in err


def test_quantize(machine: Machine, spec: Path, checkpoint: Path) -> None:
    common = ("-e", str(spec), QUERIES)
    machine.ok(
        "tao",
        "model",
        "mask2former",
        "quantize",
        *common,
        f"quantize.model_path={checkpoint}",
        "quantize.device=cpu",
        "results_dir=quantized",
    )
    found = list((machine.root / "quantized" / "quantize").glob("*.pth"))
    assert len(found) == 1
    assert found[0].stat().st_size < checkpoint.stat().st_size
    machine.ok(
        "tao",
        "model",
        "mask2former",
        "evaluate",
        *common,
        f"evaluate.checkpoint={found[0]}",
        "results_dir=q8",
    )
    metrics = json.loads((machine.root / "q8" / "evaluate" / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["PQ"] <= 1


@pytest.mark.parametrize(("kind", "mode"), [("coco", "instance"), ("ade", "semantic")])
def test_the_other_formats(kind: str, mode: str, machine: Machine) -> None:
    spec = machine.spec(kind, mode)
    out = f"out_{kind}"
    machine.ok(
        "tao", "model", "mask2former", "train", "-e", str(spec), f"results_dir={out}", "train.num_epochs=1"
    )
    weights = machine.root / out / "train" / "mask2former_model_latest.pth"
    machine.ok(
        "tao",
        "mask2former",
        "evaluate",
        "-e",
        str(spec),
        f"results_dir={out}",
        f"evaluate.checkpoint={weights}",
    )
    metrics = json.loads((machine.root / out / "evaluate" / "metrics.json").read_text())["metrics"]
    assert "mIoU" in metrics
    assert ("AP" in metrics) == (mode == "instance")
    machine.ok(
        "tao",
        "mask2former",
        "inference",
        "-e",
        str(spec),
        f"results_dir={out}",
        f"inference.checkpoint={weights}",
    )
    folder = machine.root / out / "inference"
    if mode == "instance":
        assert isinstance(json.loads((folder / "instances.json").read_text()), list)
    else:
        assert len(list((folder / "semantic").rglob("*.png"))) == 5


def test_the_same_as_jobs(machine: Machine, spec: Path) -> None:
    """Train, then evaluation of its checkpoint, by name of the parent."""
    root = str(machine.data)
    common = ("--kind", "experiment", "--workspace-id", "w", "--specs", f"@{spec}", "-o", "id")
    data = ("--train-dataset-uri", root, "--eval-dataset-uri", root)
    train = machine.ok(
        "tao", "mask2former", "create-job", "--name", "a", "--action", "train", *common, *data, "--wait"
    ).strip()
    job = machine.ok(
        "tao",
        "mask2former",
        "create-job",
        "--name",
        "b",
        "--action",
        "evaluate",
        "--parent-job-id",
        train,
        *common,
        *data,
        "--wait",
    ).strip()
    shown = json.loads(machine.ok("skillbank", "jobs", "show", job, "-o", "json"))
    assert shown["state"] == "done"
