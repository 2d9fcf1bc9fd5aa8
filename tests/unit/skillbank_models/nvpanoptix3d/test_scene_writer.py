"""Files of inference: documented shapes and types, read back with other tools, over several processes."""

import json

import numpy as np
import pytest
from nvpanoptix3d_scenes import CATEGORIES, image_scene, room_scene
from PIL import Image

from skillbank.errors import RuntimeMissingError, StorageError
from skillbank_models.nvpanoptix3d import meshes
from skillbank_models.nvpanoptix3d.scene_writer import SceneWriter

ALL = {
    "a.json", "a_depth.npy", "a_depth.png", "a_mesh.glb", "a_mesh.ply", "a_panoptic2d.npy",
    "a_panoptic2d.png", "a_preview.jpg", "a_volumes.npz",
}  # fmt: skip


def write(folder, names=("a.png",), *, made=None, rank=0, world=1, finish=True, **more):
    writer = SceneWriter(folder, categories=CATEGORIES, rank=rank, world=world, **more)
    image, scene, view = made or room_scene()
    for name in names:
        writer.add(f"somewhere/{name}", name, image, scene, view)
    return writer.finish() if finish else writer


def files(folder):
    return {path.name for path in (folder / "scenes").rglob("*") if path.is_file()}


def test_the_documented_outputs_have_their_shapes_and_types(tmp_path):
    image, scene, view = room_scene()
    finished = write(tmp_path, made=(image, scene, view))
    assert finished == [(tmp_path / "scenes.json", "predictions"), (tmp_path / "index.html", "report")]
    assert files(tmp_path) == ALL
    panoptic = np.load(tmp_path / "scenes/a_panoptic2d.npy", allow_pickle=False)
    assert (panoptic.shape, panoptic.dtype) == ((120, 160), np.int32)
    assert np.array_equal(panoptic, scene.segment_map)
    depth = np.load(tmp_path / "scenes/a_depth.npy", allow_pickle=False)
    assert (depth.shape, depth.dtype) == ((120, 160), np.float32)
    assert np.array_equal(depth, scene.depth)
    with np.load(tmp_path / "scenes/a_volumes.npz", allow_pickle=False) as volumes:
        for name, kind, value in (
            ("geometry", np.float32, scene.geometry),
            ("semantic", np.int32, scene.semantic_volume),
            ("panoptic", np.int32, scene.panoptic_volume),
        ):
            assert (volumes[name].shape, volumes[name].dtype) == ((64, 64, 64), kind)
            assert np.array_equal(volumes[name], value)
        assert np.array_equal(volumes["intrinsics"], scene.intrinsics)
        assert volumes["voxel_size_m"] == pytest.approx(0.12)
        assert np.allclose(volumes["origin"], view.origin)


def test_pictures_hold_the_numbers_too(tmp_path):
    _, scene, _ = made = room_scene()
    write(tmp_path, made=made)
    with Image.open(tmp_path / "scenes/a_panoptic2d.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), scene.segment_map)
        rgb = np.asarray(picture.convert("RGB"))
    content = json.loads((tmp_path / "scenes/a.json").read_text())
    for segment in content["segments_2d"]:
        assert (rgb[scene.segment_map == segment["id"]] == segment["color"]).all()
    with Image.open(tmp_path / "scenes/a_depth.png") as picture:
        millimetres = np.asarray(picture)
    assert millimetres.dtype == np.uint16
    assert np.abs(millimetres / 1000 - scene.depth).max() <= 0.0005 + 1e-6


def test_the_description_says_what_numbers_mean(tmp_path):
    _, scene, view = made = room_scene()
    write(tmp_path, made=made)
    content = json.loads((tmp_path / "scenes/a.json").read_text())
    assert content["image"] == {"name": "a.png", "height": 240, "width": 320}
    assert content["camera"]["intrinsics"] == scene.intrinsics.tolist()
    grid = content["grid"]
    assert (grid["side"], grid["voxel_size_m"], grid["truncation"]) == (64, view.grid.voxel, 3.0)
    assert grid["origin"] == list(view.origin)
    assert grid["axes"] == "x right, y down, z forward"
    names = [segment["name"] for segment in content["segments_3d"]]
    assert names == ["wall", "floor", "table", "chair 1", "chair 2", "sofa", "cabinet"]
    assert set(content["files"].values()) == ALL - {"a.json"}


def test_stage_one_writes_two_dimensions_alone(tmp_path):
    write(tmp_path, made=image_scene())
    assert files(tmp_path) == {name for name in ALL if "mesh" not in name and "volumes" not in name}
    content = json.loads((tmp_path / "scenes/a.json").read_text())
    assert "grid" not in content
    assert content["map"] == {"height": 240, "width": 320}


def test_meshes_and_volumes_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(meshes, "find_spec", lambda name: None)  # and need no package then
    write(tmp_path, meshes=False, volumes=False)
    assert files(tmp_path) == {name for name in ALL if "mesh" not in name and "volumes" not in name}
    with pytest.raises(RuntimeMissingError, match="scikit-image"):
        write(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_empty_room_has_no_mesh_and_says_so(tmp_path, caplog):
    image, scene, view = room_scene()
    scene.geometry[:] = 3
    scene.panoptic_volume[:] = scene.semantic_volume[:] = 0
    scene.volume_segments = []
    write(tmp_path, made=(image, scene, view))
    assert files(tmp_path) == ALL - {"a_mesh.ply", "a_mesh.glb"}
    assert "a.png: no surface was found" in caplog.text
    assert "the volume is empty" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("mode", "values"), [("semantic", {0, 1, 3, 4, 5, 10, 11}), ("instance", {0, *range(3, 8)})]
)
def test_other_modes_write_classes_or_things(tmp_path, mode, values):
    _, scene, _ = made = room_scene()
    write(tmp_path, made=made, mode=mode)
    found = np.load(tmp_path / f"scenes/a_{mode}2d.npy", allow_pickle=False)
    assert (found.dtype, set(np.unique(found).tolist())) == (np.int32, values)
    chair = scene.segment_map == 4
    assert (found[chair] == (3 if mode == "semantic" else 4)).all()
    with Image.open(tmp_path / f"scenes/a_{mode}2d.png") as picture:
        assert np.array_equal(np.asarray(picture), found)


def test_more_segments_than_a_palette_has_become_colours(tmp_path):
    image, scene, view = image_scene()
    scene.segment_map[scene.segment_map == 7] = 700
    scene.segments = [one._replace(id=700) if one.id == 7 else one for one in scene.segments]
    write(tmp_path, made=(image, scene, view))
    with Image.open(tmp_path / "scenes/a_panoptic2d.png") as picture:
        assert picture.mode == "RGB"
        colors = {tuple(color) for color in np.asarray(picture)[scene.segment_map == 700]}
    content = json.loads((tmp_path / "scenes/a.json").read_text())
    assert colors == {tuple(content["segments_2d"][-1]["color"])}


def test_depths_that_are_no_numbers_or_too_far_are_drawn(tmp_path):
    image, scene, view = image_scene()
    scene.depth[0, :3] = np.nan, np.inf, 90
    write(tmp_path, made=(image, scene, view))
    with Image.open(tmp_path / "scenes/a_depth.png") as picture:
        assert np.asarray(picture)[0, :3].tolist() == [0, 0, 65535]


def test_processes_join_their_scenes(tmp_path):
    second = write(tmp_path, ["b.png", "street/a.png"], rank=1, world=2, finish=False)
    first = write(tmp_path, ["a.png", "b.png"], rank=0, world=2, finish=False)  # one image is on both
    second.finish()
    first.finish()
    content = json.loads((tmp_path / "scenes.json").read_text())
    assert [image["name"] for image in content["images"]] == ["a.png", "b.png", "street/a.png"]
    for image in content["images"]:
        assert all((tmp_path / name).is_file() for name in image["files"].values())
        assert len(image["segments_3d"]) == 7
    assert [row["id"] for row in content["categories"]] == list(range(1, 13))
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "index.html").read_text().count('class="scene"') == 3


def test_a_process_that_left_nothing_is_named(tmp_path):
    with pytest.raises(StorageError, match="process 1 of 2 left no complete results"):
        write(tmp_path, world=2)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="results cannot be written there") as caught:
        write(tmp_path / "taken")
    assert "results_dir" in caught.value.hint


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        write(tmp_path)
    assert not [name for name in files(tmp_path) if "volumes" in name or name.endswith(".part")]
