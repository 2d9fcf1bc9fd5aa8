"""Made-up rooms as files: the layout of the public samples, and geometry that is right."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from front3d_files import FRONT3D_SAMPLE, MATTERPORT_SAMPLE
from numpy.typing import NDArray
from PIL import Image
from room_data import make_rooms

from skillbank.errors import DataError, UsageError
from skillbank_models.data.exr import read_exr
from skillbank_models.nvpanoptix3d.camera import Camera
from skillbank_models.nvpanoptix3d.classes import ROOM_CLASSES, load_classes
from skillbank_models.nvpanoptix3d.front3d import Front3dLayout
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.frustum_file import read_frustum_mask
from skillbank_models.nvpanoptix3d.matterport import MatterportLayout
from skillbank_models.nvpanoptix3d.rooms.annotated import STORED_GRID
from skillbank_models.nvpanoptix3d.rooms.making import Task, make_all
from skillbank_models.nvpanoptix3d.scene_arrays import Rules
from skillbank_models.nvpanoptix3d.scene_files import Layout, SceneFiles, read_split
from skillbank_models.nvpanoptix3d.synthetic import FORMATS, split_scenes
from skillbank_models.nvpanoptix3d.views import view_of

RULES = Rules(num_classes=13, ignore_label=255, near=0.4, far=6.0, bound=False)


@pytest.fixture(scope="module")
def front3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms") / "front3d"
    told = make_rooms(root, "front3d")
    assert (told["scenes"], told["images"], told["format"]) == (2, 2, "front3d")
    assert sum(told["things"].values()) >= 6
    return root


@pytest.fixture(scope="module")
def matterport(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms") / "matterport"
    make_rooms(root, "matterport", count=1, seed=4)
    return root


def images(
    root: Path, kind: type[Front3dLayout] | type[MatterportLayout]
) -> list[tuple[Layout, SceneFiles, Camera]]:
    layout = kind(root / "data", RULES)
    records = [
        record
        for split in ("train", "val")
        for record in read_split(root / "meta" / f"{split}.json", layout, split)
    ]
    assert all((record.height, record.width) == (120, 160) for record in records)
    return [
        (layout, files, layout.camera_of(record, files))
        for record in records
        for files in [layout.files(record)]
    ]


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def test_every_file_of_the_layouts(front3d: Path, matterport: Path) -> None:
    volumes = ("geometry_0000.npz", "segmentation_0000.mapped.npz", "weighting_0000.npz")
    kinds = ("campose_0000.npz", "depth_0000.exr", "rgb_0000.png", "segmap_0000.mapped.npz", *volumes)
    meta = {
        f"meta/{name}"
        for name in ("train.json", "val.json", "test.json", "frustum_mask.npz", "colormap.json")
    }
    wanted = {f"data/{scene}/{kind}" for scene in ("room_00000", "room_00001") for kind in kinds}
    assert set(digests(front3d)) == wanted | meta | {"images/room_00001_0000.png"}
    names = {
        re.sub(
            r"\d_\d(?=\.)|\d_\d(?=\.mapped)|(?<=intrinsics_)\d", "V", re.sub(r"[0-9a-f]{32}", "NAME", name)
        )
        for name in digests(matterport)
    }
    data = (
        "iV.jpg",
        "segmapV.mapped.npz",
        "intrinsics_V.npy",
        "geometryV.npz",
        "segmentationV.mapped.npz",
        "weightingV.npz",
    )
    scene = "room_00000"
    others = {
        f"depth_gen/{scene}/NAME_dV.png",
        f"room_mask/{scene}/NAME_rmV.png",
        f"images/{scene}_NAME_V.jpg",
    }
    assert names == {f"data/{scene}/NAME_{name}" for name in data} | others | meta


def mode(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def same_form(ours: Path, theirs: Path) -> None:
    """Keys, types and sizes of a file; sizes of maps are those of their image."""
    found, wanted = arrays(ours), arrays(theirs)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype, (ours.name, key)
        assert found[key].ndim == value.ndim
        if 256 in value.shape:
            assert found[key].shape == value.shape
        else:
            assert (value.shape[:2], found[key].shape[:2]) == ((240, 320), (120, 160))
            assert found[key].shape[2:] == value.shape[2:]


def test_front3d_files_have_the_form_of_the_real_ones(front3d: Path) -> None:
    if not FRONT3D_SAMPLE.is_dir():
        pytest.skip("the sample data is not there: ../shared/data/front3d_sample")
    compared = 0
    for real in sorted((FRONT3D_SAMPLE / "data" / "sample").glob("*.npz")):
        same_form(front3d / "data" / "room_00000" / real.name.replace("0007", "0000"), real)
        compared += 1
    assert compared == 4
    same_form(front3d / "meta" / "frustum_mask.npz", FRONT3D_SAMPLE / "meta" / "frustum_mask.npz")
    ours, theirs = front3d / "data/room_00000/rgb_0000.png", FRONT3D_SAMPLE / "data/sample/rgb_0007.png"
    assert mode(ours) == mode(theirs)
    import OpenEXR

    heads = []
    for path in (ours.parent / "depth_0000.exr", theirs.parent / "depth_0007.exr"):
        with OpenEXR.File(str(path)) as file:
            heads.append({name: channel.pixels.dtype for name, channel in file.channels().items()})
    assert heads[0] == heads[1]


def test_matterport_files_have_the_form_of_the_real_ones(matterport: Path) -> None:
    if not MATTERPORT_SAMPLE.is_dir():
        pytest.skip("the sample data is not there: ../shared/data/matterport_sample")
    ((_, files, _),) = images(matterport, MatterportLayout)[:1]
    compared = 0
    for kind in ("segmap", "geometry", "segmentation", "weighting"):
        (real,) = MATTERPORT_SAMPLE.glob(f"*_{kind}1_4*")
        (ours,) = files.image.parent.glob(f"*_{kind}*")
        same_form(ours, real)
        compared += 1
    assert compared == 4
    assert files.camera is not None
    assert files.room_mask is not None
    (real,) = MATTERPORT_SAMPLE.glob("*_intrinsics_1.npy")
    assert np.load(files.camera).dtype == np.load(real).dtype
    assert np.load(files.camera).shape == (4, 4)
    (real,) = MATTERPORT_SAMPLE.glob("*_d1_4.png")
    assert mode(files.depth) == mode(real)
    assert mode(files.room_mask) == "L"
    assert mode(files.image) == "RGB"


@pytest.mark.parametrize("layout", FORMATS)
def test_depth_lands_on_labelled_surfaces(layout: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    found = images(root, Front3dLayout if layout == "front3d" else MatterportLayout)
    assert found
    for reader, files, camera in found:
        pixels, part, geometry = (
            reader.pixels(files, (120, 160)),
            reader.volume_labels(files),
            reader.geometry(files),
        )
        view = view_of(camera, STORED_GRID, shifted=reader.shifted, rule="measured")
        rows, columns = np.nonzero(pixels.depth)
        depth = pixels.depth[rows, columns]
        points = np.stack(
            [(columns - camera.cx) / camera.fx * depth, (rows - camera.cy) / camera.fy * depth, depth], 1
        )
        place = tuple(np.rint(points / 0.03 + np.array(view.origin)).astype(int).T)
        landed = part.semantic[place] > 0
        inside = frustum_mask(view, "cpu").numpy()
        # only where rounding leads out of the frustum, at the border of the picture, is no label
        assert (landed == inside[place]).all()
        assert landed.mean() > 0.99
        assert geometry.distance[place][landed].mean() < 0.4
        assert geometry.distance[place].mean() < 0.5
        assert (part.semantic[place] == pixels.semantic[rows, columns])[landed].mean() > 0.98
        assert pixels.depth.max() < 6
        assert depth.min() > 0.4
        assert (camera.width, camera.height) == (160, 120)


def test_what_front3d_volumes_hold(front3d: Path) -> None:
    inside = arrays(front3d / "meta" / "frustum_mask.npz")["mask"]
    folder = front3d / "data" / "room_00001"
    distance = arrays(folder / "geometry_0000.npz")["data"]
    classes, ids = arrays(folder / "segmentation_0000.mapped.npz")["data"]
    weights = arrays(folder / "weighting_0000.npz")["data"]
    maps = arrays(folder / "segmap_0000.mapped.npz")["data"]
    assert distance.min() >= 0
    assert distance.max() == 12
    assert (distance[~inside] == 12).all()
    assert np.array_equal(classes > 0, distance < 1)
    assert np.array_equal(ids > 0, (classes > 0) & (classes < 10))
    assert set(np.unique(ids[ids > 0])) <= set(np.unique(maps[..., 1]))
    assert (maps[..., 1] > 0).all()
    assert set(np.unique(weights)) == {1, 2, 5, 10}
    assert (weights[~inside] == 1).all()
    assert np.array_equal(np.isin(weights, (5, 10)), distance < 3)
    for number in np.unique(ids[ids > 0]):
        assert (
            np.unique(classes[ids == number]).tolist()
            == np.unique(maps[maps[..., 1] == number][:, 0]).tolist()
        )
    # in the order of the files x runs against the picture: what is left in the picture is at high numbers
    used = np.argwhere(inside)
    assert used[:, 2].max() - used[:, 2].min() == pytest.approx(5.6 / 0.03, abs=1.5)
    camera = Front3dLayout(front3d / "data", RULES).camera_of(*_first(front3d))
    view = view_of(camera, STORED_GRID, shifted=True, rule="measured")
    assert np.array_equal(inside[::-1, ::-1], frustum_mask(view, "cpu").numpy())
    assert read_frustum_mask(front3d / "meta" / "frustum_mask.npz", 64).any()


def _first(root: Path) -> Any:
    layout = Front3dLayout(root / "data", RULES)
    record = read_split(root / "meta" / "train.json", layout, "train")[0]
    return record, layout.files(record)


def test_what_matterport_volumes_hold(matterport: Path) -> None:
    ((_, files, camera),) = images(matterport, MatterportLayout)[:1]
    stored = arrays(files.geometry)
    distance, inside = stored["data"], ~stored["mask"]
    classes, ids = arrays(files.segmentation)["data"]
    weights = arrays(files.weighting)["data"]
    view = view_of(camera, STORED_GRID, shifted=False, rule="measured")
    assert np.array_equal(inside, frustum_mask(view, "cpu").numpy())
    assert (distance[~inside] == -12).all()
    assert (distance[inside] < 0).any()
    assert np.array_equal(classes > 0, inside & (np.abs(distance) < 3))
    assert np.array_equal(ids > 0, classes > 0)
    assert set(np.unique(weights)) == {1, 2, 25, 50}
    assert np.array_equal(weights >= 25, inside & (distance < 3) & (distance > -1))
    depth = np.array(Image.open(files.depth))
    assert files.room_mask is not None
    room = np.array(Image.open(files.room_mask))
    assert np.array_equal(depth == 0, room == 0)
    assert set(np.unique(room)) <= {0, 255}
    assert (depth > 0).mean() > 0.8


def test_meta_files(front3d: Path) -> None:
    found = load_classes(
        str(front3d / "meta" / "colormap.json"),
        num_classes=13,
        num_things=9,
        contiguous=True,
        ignore_label=255,
    )
    assert [found.name(number) for number in range(1, 13)] == [category.name for category in ROOM_CLASSES]
    rows = json.loads((front3d / "meta" / "test.json").read_text())
    assert rows == [{"scene_id": "room_00001", "image_id": "0000", "height": 120, "width": 160}]
    depth = read_exr(front3d / "data" / "room_00001" / "depth_0000.exr")
    assert depth.dtype == np.float32
    pose = arrays(front3d / "data" / "room_00001" / "campose_0000.npz")["camera2world"]
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
    assert np.linalg.det(pose) == pytest.approx(1)
    assert 1 < pose[2, 3] < 1.7  # eye level


@pytest.mark.parametrize(
    ("count", "held_out", "sizes"),
    [
        (1, 0.1, (1, 1, 1)),
        (2, 0.1, (1, 1, 1)),
        (3, 0.1, (1, 1, 1)),
        (20, 0.1, (16, 2, 2)),
        (10, 0.0, (10, 10, 10)),
        (5, 0.4, (1, 2, 2)),
        (50, 0.2, (30, 10, 10)),
    ],
)
def test_splits(count: int, held_out: float, sizes: tuple[int, int, int]) -> None:
    found = split_scenes(count, held_out)
    assert tuple(len(found[name]) for name in ("train", "val", "test")) == sizes
    if held_out and count > 1:
        assert not set(found["train"]) & (set(found["val"]) | set(found["test"]))
    if held_out and count > 2:
        assert sorted(number for scenes in found.values() for number in scenes) == list(range(count))


def test_processes_make_the_same_files(front3d: Path, tmp_path: Path) -> None:
    done: list[int] = []
    tasks = [Task(tmp_path, "front3d", 3, scene, 0, (120, 160), False) for scene in range(2)]
    made = make_all(tasks, workers=2, progress=done.append)
    assert done == [1, 2]
    assert [one.picture for one in made] == [f"data/room_0000{scene}/rgb_0000.png" for scene in range(2)]
    assert digests(tmp_path / "data") == digests(front3d / "data")


def test_other_numbers_give_other_pictures(front3d: Path, tmp_path: Path) -> None:
    told = make_rooms(tmp_path / "rooms", "front3d", count=1, images_per_scene=2, empty=1, size=(48, 64))
    assert told["images"] == 2
    assert told["splits"] == {"train": 2, "val": 2, "test": 2}
    assert set(told["things"].values()) == {0}
    folder = tmp_path / "rooms" / "data" / "room_00000"
    first, second = (np.array(Image.open(folder / f"rgb_000{number}.png")) for number in range(2))
    assert first.shape == (48, 64, 3)
    assert np.abs(first.astype(int) - second).mean() > 3
    labels = arrays(folder / "segmentation_0000.mapped.npz")["data"][0]
    assert set(np.unique(labels)) <= {0, 10, 11, 12}


def test_a_stopped_attempt_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_rooms(tmp_path / "rooms", "front3d", size=(48, 64), progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_wrong_orders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="front3d, matterport do not fit into one folder"):
        make_rooms(tmp_path / "rooms", "front3d", formats=list(FORMATS))
    with pytest.raises(UsageError, match="--scenes: 100001 are too many; at most 100000"):
        make_rooms(tmp_path / "rooms", "front3d", count=100_001)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(DataError, match="nothing is overwritten"):
        make_rooms(tmp_path, "front3d")
