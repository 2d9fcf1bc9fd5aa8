"""The documented command lines of NVPanoptix3D, letter for letter, on rooms and a real, tiny network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import trimesh
import yaml
from command_lines import filled
from nvpanoptix3d_machine import Machine
from PIL import Image

from skillbank.specs.load import Layer, build_spec
from skillbank_models.nvpanoptix3d.model import build_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(machine: Machine) -> Path:
    """What stands at ``/path/to`` in the documents."""
    place = machine.root / "documents"
    place.mkdir()
    (place / "data").symlink_to(machine.data, target_is_directory=True)
    for split in ("train", "val", "test"):
        shutil.copy(machine.data / "meta" / f"{split}.json", place)
    for name, stage in (("spec_2d", 1), ("spec_3d", 2), ("spec", 2)):
        nested = yaml.safe_load(machine.spec(stage).read_text())
        for split in ("train", "val", "test"):
            del nested["dataset"][split]["base_dir"], nested["dataset"][split]["json_path"]
        if stage == 2:
            # a continued stage 2 has its data in the file, as the line names none
            nested["dataset"]["train"] |= {
                "base_dir": str(place / "data"),
                "json_path": str(place / "train.json"),
            }
            nested["dataset"]["val"] |= {
                "base_dir": str(place / "data"),
                "json_path": str(place / "val.json"),
            }
        (place / f"{name}.yaml").write_text(yaml.safe_dump(nested))
    images = place / "images"
    images.mkdir()
    found = sorted(machine.data.glob("data/*/rgb_*.png"))[:2]
    shutil.copy(found[0], images / "first.png")
    with Image.open(found[1]) as image:
        image.resize((200, 150)).save(images / "second.jpg")
    torch.save(_public_backbone(machine), place / "vggt_pretrained.pth")
    return place


def _public_backbone(machine: Machine) -> dict[str, torch.Tensor]:
    """A file in the layout of the public one, of the tiny size, with heads that are not used here."""
    nested = yaml.safe_load(machine.spec(1).read_text())
    spec = build_spec("nvpanoptix3d", "train", [Layer("file", "tiny", nested)]).spec
    model = build_model(spec, is_thing=tuple(1 <= index <= 9 for index in range(13)))
    return {**model.backbone.state_dict(), "point_head.norm.weight": torch.ones(4)}


def run(machine: Machine, place: Path, number: str, *more: str) -> None:
    """Run a documented line."""
    words = filled(number, place).split()
    code, out, err = machine.run(*words, *more)
    assert code == 0, f"{' '.join(words)}\n{out}\n{err}"


@pytest.fixture(scope="module")
def stage_1(machine: Machine, place: Path) -> Path:
    """Results of A06."""
    run(machine, place, "A06")
    folder = place / "results" / "stage1" / "train"
    shutil.copy(folder / "panoptic_recon_3d_model_latest.pth", folder.parent / "checkpoint.pth")
    shutil.copy(folder / "panoptic_recon_3d_model_latest.pth", place / "stage1_checkpoint.pth")
    return folder


@pytest.fixture(scope="module")
def stage_2(machine: Machine, place: Path, stage_1: Path) -> Path:
    """Results of A11."""
    run(machine, place, "A11")
    folder = place / "results" / "stage2" / "train"
    shutil.copy(folder / "nvpanoptix3d_model_latest.pth", folder.parent / "checkpoint.pth")
    shutil.copy(folder / "nvpanoptix3d_model_latest.pth", place / "checkpoint.pth")
    return folder


def kpis(folder: Path) -> dict[str, float]:
    events = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    assert events[-1]["status"] == "SUCCESS"
    found: dict[str, float] = next(event["kpi"] for event in reversed(events) if event.get("kpi"))
    return found


def test_a06_stage_1(stage_1: Path) -> None:
    found = kpis(stage_1)
    assert {"train_loss", "val_loss", "loss_ce", "loss_depth", "loss_mp_occ"} <= set(found)
    assert {"val_dpq_averages_epoch", "val_dpq_0.5_epoch", "val_dpq_th_-1_epoch"} <= set(found)
    names = {path.name for path in stage_1.iterdir()}
    assert {"model_epoch_000.pth", "model_epoch_001.pth", "experiment.yaml", "status.json"} <= names


def test_the_public_backbone_stays_as_it_is(place: Path, stage_1: Path) -> None:
    """A06 names a backbone: its aggregator is the file's after training, the depth head has learnt."""
    given = torch.load(place / "vggt_pretrained.pth", weights_only=True)
    found = torch.load(stage_1 / "model_epoch_001.pth", weights_only=True)["state_dict"]
    frozen = [name for name in given if name.startswith(("aggregator.", "camera_head."))]
    assert all(torch.equal(given[name], found[f"model.backbone.{name}"]) for name in frozen)
    taught = [name for name in given if name.startswith("depth_head.")]
    assert any(not torch.equal(given[name], found[f"model.backbone.{name}"]) for name in taught)


def test_a11_stage_2(stage_1: Path, stage_2: Path) -> None:
    found = kpis(stage_2)
    assert {"PRQ", "RSQ", "RRQ", "PRQ_things", "PRQ_stuff", "val_loss"} <= set(found)
    assert {"loss_occupancy_64", "loss_geometry", "loss_panoptic_256"} <= set(found)
    first = torch.load(stage_1 / "model_epoch_001.pth", weights_only=True)["state_dict"]
    second = torch.load(stage_2 / "model_epoch_001.pth", weights_only=True)["state_dict"]
    # running means and counters of frozen norms too
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a12_stage_2_goes_on(machine: Machine, place: Path, stage_2: Path) -> None:
    run(machine, place, "A12")
    assert (place / "results" / "stage2_resumed" / "train" / "nvpanoptix3d_model_latest.pth").exists()


def test_a13_listing(machine: Machine, stage_1: Path) -> None:
    listed = machine.ok("ls", str(stage_1)).split()
    assert listed == [
        "experiment.yaml",
        "model_epoch_000.pth",
        "model_epoch_001.pth",
        "panoptic_recon_3d_model_latest.pth",
        "status.json",
    ]


def test_a16_evaluate(machine: Machine, place: Path, stage_2: Path) -> None:
    run(machine, place, "A16", f"results_dir={place}/evaluated")
    folder = place / "evaluated" / "evaluate"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {"PRQ", "RSQ", "RRQ"} <= set(metrics)
    assert all(0 <= metrics[name] <= 100 for name in ("PRQ", "RSQ", "RRQ"))
    rows = json.loads((folder / "per_class.json").read_text())["classes"]
    assert {row["name"] for row in rows} >= {"wall", "floor"}
    assert "wall" in (folder / "metrics.txt").read_text()


def test_a19_inference(machine: Machine, place: Path, stage_2: Path) -> None:
    run(machine, place, "A19", "model.object_mask_threshold=0.0")
    folder = place / "inference_results" / "inference"
    index = json.loads((folder / "scenes.json").read_text())
    assert [item["name"] for item in index["images"]] == ["first.png", "second.jpg"]
    for stem in ("first", "second"):
        found = {path.name: path for path in folder.rglob("*") if stem in path.as_posix()}
        volumes = next(path for path in found.values() if path.suffix == ".npz")
        with np.load(volumes) as content:
            assert content["geometry"].shape == (64, 64, 64)
            assert content["geometry"].dtype == np.float32
            assert content["panoptic"].dtype == content["semantic"].dtype == np.int32
        depth = next(path for name, path in found.items() if name.endswith("depth.npy"))
        assert np.load(depth).shape == (60, 80)
        meshes = [path for path in found.values() if path.suffix in {".glb", ".ply"}]
        assert meshes
        assert all(not trimesh.load(path, force="mesh").is_empty for path in meshes)
    page = (folder / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a22_export(machine: Machine, place: Path, stage_1: Path) -> None:
    """The documented size, from a checkpoint of stage 1; what only stage 2 has is left out."""
    run(machine, place, "A22")
    graph = onnx.load(place / "output" / "model_2d.onnx", load_external_data=False).graph
    shapes = {
        item.name: [dim.dim_value or dim.dim_param for dim in item.type.tensor_type.shape.dim]
        for item in graph.output
    }
    assert [item.name for item in graph.input] == ["batch_inputs"]
    assert shapes["pred_logits"][1:] == [12, 14]
    assert shapes["pred_masks"][1:] == [12, 128, 160]
    assert shapes["orig_pad_shape"] == [2]
    report = json.loads((place / "output" / "model_2d.onnx.report.json").read_text())
    assert max(report["comparison"]["max_abs_diff"].values()) < 1e-3


def test_a23_needs_tensorrt(machine: Machine, place: Path, stage_1: Path) -> None:
    code, _, err = machine.run("python3", *filled("A23", place).split()[1:])
    assert code == 5
    assert "TensorRT" in err
