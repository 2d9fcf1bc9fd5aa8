"""Input as users get it wrong: one clear error that says what to do, and nothing half-written."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from front3d_files import write_exr
from nvpanoptix3d_machine import Machine
from PIL import Image

from skillbank.errors import InvalidValueError
from skillbank.specs.load import Layer, build_spec
from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule
from skillbank_models.nvpanoptix3d.weights import start_weights

pytestmark = pytest.mark.slow

SUBMISSION, JOB = 3, 6


def refused(machine: Machine, code: int, out: str, *words: str) -> str:
    """What a command line says that has to fail; it leaves no weights and no unfinished files."""
    found, _, err = machine.run(*words, f"results_dir={out}")
    assert found == code, err
    assert "Traceback" not in err
    assert "hint: " in err
    left = [path.name for path in (machine.root / out).rglob("*")]
    assert not [name for name in left if name.endswith((".pth", ".part", ".ckpt")) or name.startswith(".")]
    return err


def train(spec: Path, *more: str) -> tuple[str, ...]:
    return ("tao", "nvpanoptix3d", "train", "-e", str(spec), *more)


def evaluate(spec: Path, checkpoint: Path, *more: str) -> tuple[str, ...]:
    return ("tao", "nvpanoptix3d", "evaluate", "-e", str(spec), f"evaluate.checkpoint={checkpoint}", *more)


def inference(spec: Path, checkpoint: Path, images: str, *more: str) -> tuple[str, ...]:
    return (
        "tao", "nvpanoptix3d", "inference", "-e", str(spec), f"inference.checkpoint={checkpoint}",
        f"inference.images_dir={images}", *more,
    )  # fmt: skip


@pytest.fixture
def spoilt(machine: Machine, tmp_path: Path) -> Callable[[str, Callable[[Path], None]], tuple[str, ...]]:
    """Spoils a file of a copy of the test room, and says which words take the copy."""

    def make(pattern: str, spoil: Callable[[Path], None]) -> tuple[str, ...]:
        rows = json.loads((machine.data / "meta" / "test.json").read_text())[:1]
        scene = rows[0]["scene_id"]
        shutil.copytree(machine.data / "data" / scene, tmp_path / "data" / scene)
        (tmp_path / "test.json").write_text(json.dumps(rows))
        (path,) = (tmp_path / "data" / scene).glob(pattern)
        spoil(path)
        return f"dataset.test.base_dir={tmp_path}", f"dataset.test.json_path={tmp_path / 'test.json'}"

    return make


@pytest.fixture(scope="module")
def picture(machine: Machine) -> Image.Image:
    with Image.open(next(machine.data.glob("data/*/rgb_*.png"))) as image:
        return image.convert("RGB")


# --- found at submission


def test_a_factor_that_does_not_fit_the_data_set(machine: Machine) -> None:
    err = refused(machine, SUBMISSION, "factor", *train(machine.spec(1), "dataset.downsample_factor=2"))
    assert "dataset.downsample_factor" in err
    assert "2 does not fit dataset.name 'front3d'" in err
    assert "need 1" in err
    assert not (machine.root / "factor").exists()


def test_stage_2_without_a_checkpoint_of_stage_1(machine: Machine) -> None:
    err = refused(machine, SUBMISSION, "no_start", *train(machine.spec(2)))
    assert "none is given" in err
    assert "train.checkpoint_2d=PATH" in err
    assert not (machine.root / "no_start").exists()


# --- found by the job: data


def test_no_frustum_mask_and_a_parent_that_failed(machine: Machine) -> None:
    """The mask is not there; then no job may build on the one that failed."""
    spec = machine.spec(2)
    mask = "dataset.frustum_mask_path=nowhere/mask.npz"
    words = train(spec, f"train.checkpoint_2d={machine.stage_1()}", mask)
    err = refused(machine, JOB, "no_mask", *words)
    assert "dataset.frustum_mask_path: there is no frustum mask" in err
    assert "nowhere/mask.npz" in err
    assert "to compute it from the camera" in err

    parent = next(word for word in err.split() if word.startswith("nvpanoptix3d-train-")).rstrip(":")
    code, _, err = machine.run(
        "tao", "nvpanoptix3d", "create-job", "--action", "evaluate", "--parent-job-id", parent,
        "--specs", f"@{spec}",
    )  # fmt: skip
    assert code == JOB
    assert "Traceback" not in err
    assert f"parent job {parent} ended as error: dataset.frustum_mask_path" in err
    assert f"skillbank jobs logs {parent}" in err


def smaller(path: Path) -> None:
    np.savez_compressed(path, data=np.zeros((128, 128, 128), np.float16))


def test_volumes_of_another_size(
    machine: Machine, spoilt: Callable[[str, Callable[[Path], None]], tuple[str, ...]]
) -> None:
    """Told by a loader process, which knows the file."""
    words = evaluate(machine.spec(2), machine.stage_2(), *spoilt("geometry_*.npz", smaller))
    err = refused(machine, JOB, "small_volume", *words, "dataset.test.num_workers=1")
    assert "geometry_0000.npz" in err
    assert "128" in err
    assert "256" in err
    assert "model.frustum3d.grid_dimensions reduces them when read" in err


def without_depth(path: Path) -> None:
    write_exr(path, {"Z": np.zeros((120, 160), np.float32)})


def without_labels(path: Path) -> None:
    with np.load(path) as archive:
        data = archive["data"]
    np.savez_compressed(path, data=np.zeros_like(data))


@pytest.mark.parametrize(
    ("pattern", "spoil", "parts"),
    [
        ("depth_*.exr", without_depth, ["depth_0000.exr", "no pixel has a valid depth", "above 0"]),
        ("segmap_*.npz", without_labels, ["segmap_0000.mapped.npz", "the room is empty", "class above 0"]),
    ],
)
def test_a_room_with_nothing_in_it(
    pattern: str,
    spoil: Callable[[Path], None],
    parts: list[str],
    machine: Machine,
    spoilt: Callable[[str, Callable[[Path], None]], tuple[str, ...]],
) -> None:
    words = evaluate(machine.spec(1), machine.stage_1(), *spoilt(pattern, spoil))
    err = refused(machine, JOB, f"nothing_{spoil.__name__}", *words)
    assert all(part in err for part in parts), err
    assert "take the image out of the split" in err


def test_a_camera_wider_than_the_grid(machine: Machine, picture: Image.Image) -> None:
    """The matrix is named relative to the folder that the command is started in."""
    folder = machine.root / "wide"
    folder.mkdir()
    picture.save(folder / "room.png")
    (folder / "camera.txt").write_text("60 0 79.5  0 60 59.5  0 0 1")
    words = inference(machine.spec(2), machine.stage_2(), "wide", "inference.intrinsics=wide/camera.txt")
    err = refused(machine, JOB, "wide_results", *words)
    assert "room.png" in err
    assert "the grid has 256 along each axis" in err
    assert "model.projection.voxel_size=" in err
    assert "crop images to a width of" in err


# --- pictures for inference


def test_pictures_of_other_sizes_and_modes(machine: Machine, picture: Image.Image) -> None:
    """All work, down to a single pixel; results have the size of the upright picture."""
    folder = machine.root / "odd"
    (folder / "deeper").mkdir(parents=True)
    grey = np.asarray(picture.convert("L"))
    picture.convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("L").resize((70, 300)).save(folder / "grey.jpg")
    picture.resize((1, 1)).save(folder / "dot.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "deeper" / "turned.jpg", exif=turned)
    (folder / "notes.txt").write_text("no picture")
    machine.ok(*inference(machine.spec(2), machine.stage_2(), "odd", "results_dir=odd_results"))

    found = machine.root / "odd_results" / "inference"
    index = json.loads((found / "scenes.json").read_text())
    sizes = {row["name"]: (row["height"], row["width"]) for row in index["images"]}
    assert sizes == {
        "deep.png": (120, 160), "deeper/turned.jpg": (160, 120), "dot.png": (1, 1), "grey.jpg": (300, 70),
        "rgba.png": (120, 160),
    }  # fmt: skip
    for row in index["images"]:
        depth, segments = (np.load(found / row["files"][kind]) for kind in ("depth", "panoptic2d"))
        assert depth.shape == segments.shape == (60, 80)  # dataset.reduced_target_size
        assert np.isfinite(depth).all()
    assert not list(found.rglob("*.part"))


def test_a_truncated_picture(machine: Machine, picture: Image.Image) -> None:
    """Its header is whole, so only the loader process finds it; nothing says that the run is complete."""
    folder = machine.root / "truncated"
    folder.mkdir()
    picture.save(folder / "a.png")
    content = (folder / "a.png").read_bytes()
    (folder / "b.png").write_bytes(content[: len(content) // 2])
    err = refused(
        machine, JOB, "cut", *inference(machine.spec(1), machine.stage_1(), "truncated", "dataset.workers=1")
    )
    assert "truncated/b.png: this image cannot be read" in err
    assert "copy the file again" in err
    assert not (machine.root / "cut" / "inference" / "scenes.json").exists()
    assert not (machine.root / "cut" / "inference" / "index.html").exists()


# --- weights


def test_a_checkpoint_of_stage_1_is_no_checkpoint_of_stage_2(machine: Machine) -> None:
    err = refused(machine, JOB, "too_early", *evaluate(machine.spec(2), machine.stage_1()))
    assert "evaluate.checkpoint" in err
    assert "is a checkpoint of stage 1; it has no 3D part" in err
    assert "dataset.enable_3d=false" in err


def test_stage_2_from_a_wrong_file(machine: Machine) -> None:
    (machine.root / "notes.pth").write_text("weights will follow\n")
    err = refused(
        machine, JOB, "from_notes", *train(machine.spec(2), f"train.checkpoint_2d={machine.root}/notes.pth")
    )
    assert "train.checkpoint_2d" in err
    assert "notes.pth is no weight file of a known kind" in err


def backbone(stored: dict[str, Any]) -> dict[str, Any]:
    start = "model.backbone."
    tensors: dict[str, Any] = stored["state_dict"]
    return {name.removeprefix(start): item for name, item in tensors.items() if name.startswith(start)}


def mask2former(stored: dict[str, Any]) -> dict[str, Any]:
    names = ("backbone.patch_embed.proj.weight", "sem_seg_head.predictor.query_feat.weight")
    return {"state_dict": {f"model.{name}": torch.zeros(4) for name in names}}


def other_queries(stored: dict[str, Any]) -> dict[str, Any]:
    tensors = {
        name: torch.zeros(20, *item.shape[1:]) if "query_" in name and item.shape[0] == 12 else item
        for name, item in stored["state_dict"].items()
    }
    return {**stored, "state_dict": tensors}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (backbone, "backbone weights go to model.backbone.pretrained_model_path"),
        (mask2former, "is of another architecture than the spec"),
        (other_queries, "is of another architecture than the spec"),
        (None, "is empty"),
    ],
)
def test_what_is_said_of_wrong_weights(
    change: Callable[[dict[str, Any]], dict[str, Any]] | None, part: str, machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "start.pth"
    if change is None:
        path.touch()
    else:
        torch.save(change(torch.load(machine.stage_1(), weights_only=True)), path)
    nested = yaml.safe_load(machine.spec(2, train__checkpoint_2d=str(path)).read_text())
    spec = build_spec("nvpanoptix3d", "train", [Layer("file", "tiny", nested)]).spec
    with pytest.raises(InvalidValueError) as caught:
        start_weights(NVPanoptix3DModule(spec), spec)
    assert f"train.checkpoint_2d: {path}" in caught.value.message
    assert part in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint


# --- memory


def test_memory_that_runs_out_names_what_to_lower(machine: Machine) -> None:
    """One request for more than the process may have; earlier ones are far below it."""
    limit = 12 << 30
    words = train(machine.spec(1), "model.mask_former.train_num_points=4000000000")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        err = refused(machine, JOB, "memory", *words)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "host memory ran out" in err
    assert "dataset.train.batch_size=1" in err
    assert "model.mask_former.train_num_points=2000000000" in err
