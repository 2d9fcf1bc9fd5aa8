"""Rooms that cannot be used: one clear error each, all that can be known before a run at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from front3d_files import make_front3d, make_matterport, save_npz, write_exr, write_json
from PIL import Image
from room_batches import first, matterport_spec, spec_of

from skillbank.errors import (
    AnnotationError,
    ConflictError,
    DataError,
    MissingFilesError,
    MissingValueError,
    ShapeError,
    SkillBankError,
)
from skillbank_models.nvpanoptix3d.data import NVPanoptix3DData

CUBE = (256, 256, 256)


@pytest.fixture(scope="module")
def front3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_front3d(tmp_path_factory.mktemp("front3d"), {"a": "0007", "b": "0012", "c": "0003"})


@pytest.fixture(scope="module")
def matterport(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_matterport(tmp_path_factory.mktemp("matterport"), volumes=False)


def refused(spec: Any, stage: str = "validate") -> SkillBankError:
    """What setup says, or else the first sample."""
    data = NVPanoptix3DData(spec)

    def run() -> None:
        data.setup(stage)
        next(iter(data.val_dataloader()))

    with pytest.raises(SkillBankError) as caught:
        run()
    assert caught.value.hint or caught.value.problems
    return caught.value


@pytest.fixture
def copy_of(front3d: Path, tmp_path: Path) -> Path:
    """One scene, whose files a test may spoil."""
    base = tmp_path / "copy"
    shutil.copytree(front3d, base, ignore=shutil.ignore_patterns("b", "c"))
    rows = json.loads((base / "meta" / "all.json").read_text())
    write_json(base / "meta" / "all.json", rows[:1])
    return base


def test_missing_files_are_told_all_at_once(front3d: Path, tmp_path: Path) -> None:
    base = tmp_path / "copy"
    shutil.copytree(front3d, base)
    for path in ("data/a/depth_0007.exr", "data/b/geometry_0012.npz", "data/c/rgb_0003.png"):
        (base / path).unlink()
    (base / "meta" / "frustum_mask.npz").unlink()
    refusal = refused(spec_of(base, dataset__enable_3d=True))
    text = str(refusal)
    assert isinstance(refusal, MissingFilesError)
    assert "3 of 18 files are not there" in text
    for name in ("depth_0007.exr", "geometry_0012.npz", "rgb_0003.png"):
        assert name in text
    assert "dataset.frustum_mask_path: there is no frustum mask meta/frustum_mask.npz; looked for" in text
    assert "dataset.frustum_mask_path=" in text  # what to do


def test_settings_and_folders_that_are_missing(front3d: Path, tmp_path: Path) -> None:
    spec = spec_of(front3d)
    bare = spec.model_copy(
        update={"dataset": spec.dataset.model_copy(update={"val": type(spec.dataset.val)()})}
    )
    refusal = refused(bare)
    assert isinstance(refusal, MissingValueError)
    assert "dataset.val.base_dir is empty" in str(refusal)
    assert "dataset.val.json_path is empty" in str(refusal)
    refusal = refused(spec_of(tmp_path / "none"))
    assert "dataset.val.base_dir: there is no folder" in str(refusal)
    assert "dataset.val.json_path: there is no split file" in str(refusal)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"scene_id": "a"}, "a split is a JSON list of images, this is a dict"),
        ([], "this is an empty list"),
        ([3], "image 1 is 3; each is an object with scene_id, image_id, height and width"),
        ([{"scene_id": "a", "image_id": 7, "height": 1, "width": 1}], "image 1 has image_id 7; it is a text"),
        (
            [{"scene_id": "../a", "image_id": "7", "height": 1, "width": 1}],
            "has scene_id '../a'; it is the name of",
        ),
        ([{"scene_id": "a", "image_id": "0007", "height": 0, "width": 160}], r"\(0007\) has height 0"),
        ("[{", "no valid JSON at line 1"),
    ],
)
def test_split_files_of_another_form(rows: Any, message: str, copy_of: Path) -> None:
    path = copy_of / "meta" / "all.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(AnnotationError, match=message):
        raise refused(spec_of(copy_of))


def test_all_wrong_rows_of_a_split_are_told(copy_of: Path) -> None:
    write_json(copy_of / "meta" / "all.json", [{"scene_id": "a"}, 3])
    assert "has 2 problems" in str(refused(spec_of(copy_of)))


def test_matterport_ids_have_three_parts(matterport: Path, tmp_path: Path) -> None:
    rows = [{"scene_id": "s", "image_id": "n_1", "height": 120, "width": 160}]
    refusal = refused(matterport_spec(matterport, json_path=write_json(tmp_path / "s.json", rows)))
    assert "it is <name>_<angle>_<rotation>" in str(refusal)


def test_images_of_another_size_than_the_split_says(copy_of: Path) -> None:
    Image.new("RGB", (80, 60)).save(copy_of / "data" / "a" / "rgb_0007.png")
    refusal = refused(spec_of(copy_of))
    assert isinstance(refusal, ShapeError)
    assert "rgb_0007.png: 60 x 80 pixels (height x width), but the split says 120 x 160 for a/0007" in str(
        refusal
    )


def filled(value: float, kind: Any, shape: tuple[int, ...] = CUBE) -> np.ndarray:
    """An array of one value that takes no memory."""
    return np.broadcast_to(np.asarray(value, kind), shape)


def labelled(label: int) -> np.ndarray:
    volume = np.zeros((2, *CUBE), np.int32)
    volume[0, 100, 100, 100] = label
    return volume


GEOMETRY, VOXELS, WEIGHTS = "geometry_0007.npz", "segmentation_0007.mapped.npz", "weighting_0007.npz"
PIXELS, MASK = "segmap_0007.mapped.npz", "../../meta/frustum_mask.npz"
# file, key, what makes its content, what is said, class of the error
CONTENTS: list[tuple[str, str, Callable[[], np.ndarray], str, type[DataError]]] = [
    (
        GEOMETRY, "data", lambda: filled(1, np.float32, (128, 128, 128)),
        "128 x 128 x 128 of type float32; it must be 256 x 256 x 256", ShapeError,
    ),
    (GEOMETRY, "data", lambda: filled(np.nan, np.float32), "infinite or no number", AnnotationError),
    (
        GEOMETRY, "arr_0", lambda: filled(1, np.float32, (3,)),
        "there is no key 'data'; the archive has key 'arr_0'", AnnotationError,
    ),
    (
        VOXELS, "data", lambda: labelled(0), "the room is empty, no voxel has a class above 0",
        AnnotationError,
    ),
    (
        VOXELS, "data", lambda: labelled(99), r"class 99 of a voxel; allowed are 0 \(void\) to 12",
        AnnotationError,
    ),
    (WEIGHTS, "data", lambda: filled(300, np.int16), "weights reach from 300 to 300", AnnotationError),
    (
        PIXELS, "data", lambda: filled(0, np.uint32, (120, 160, 2)),
        "the room is empty, no pixel has a class above 0", AnnotationError,
    ),
    (
        PIXELS, "data", lambda: filled(1, np.uint32, (60, 80, 2)),
        "60 x 80 x 2 of type uint32; it must be 120 x 160 x 2", ShapeError,
    ),
    (MASK, "data", lambda: filled(1, bool, (3,)), "there is no key 'mask'", AnnotationError),
    (
        MASK, "mask", lambda: filled(1, bool, (8, 8, 8)),
        "8 x 8 x 8 of type bool; it must be 256 x 256 x 256, true and false", ShapeError,
    ),
    (MASK, "mask", lambda: filled(0, bool), "no voxel is inside the frustum", AnnotationError),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "content", "message", "kind"), CONTENTS)
def test_files_with_the_wrong_content(
    name: str,
    key: str,
    content: Callable[[], np.ndarray],
    message: str,
    kind: type[DataError],
    copy_of: Path,
) -> None:
    save_npz(copy_of / "data" / "a" / name, **{key: content()})
    with pytest.raises(kind, match=message) as caught:
        raise refused(spec_of(copy_of, dataset__enable_3d=True))
    assert Path(name).name in str(caught.value)


@pytest.mark.parametrize("name", ["rgb_0007.png", "depth_0007.exr", PIXELS, GEOMETRY, VOXELS])
def test_truncated_files(name: str, copy_of: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = copy_of / "data" / "a" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refusal = refused(spec_of(copy_of, dataset__enable_3d=True))
    assert isinstance(refusal, DataError)
    assert name in str(refusal)
    assert "cannot be read" in str(refusal)
    capfd.readouterr()  # OpenEXR tells it on stderr too


@pytest.mark.parametrize(("value", "bound"), [(0.0, False), (np.nan, False), (-1.0, False), (9.0, True)])
def test_depth_without_a_valid_pixel(value: float, bound: bool, copy_of: Path) -> None:
    write_exr(copy_of / "data" / "a" / "depth_0007.exr", {"Z": np.full((120, 160), value, np.float32)})
    refusal = refused(spec_of(copy_of, dataset__depth_bound=bound))
    assert "depth_0007.exr: no pixel has a valid depth" in str(refusal)
    if value == 9.0:
        assert "valid is 0.4 to 6 m" in str(refusal)
        assert (first(spec_of(copy_of), "val").depths == 9.0).any()  # without the bound


def test_depth_of_another_size(copy_of: Path) -> None:
    write_exr(copy_of / "data" / "a" / "depth_0007.exr", {"Z": np.ones((60, 80), np.float32)})
    assert "depth_0007.exr: 60 x 80 pixels (height x width), but the image has 120 x 160" in str(
        refused(spec_of(copy_of))
    )


def test_cameras_wider_than_the_grid(front3d: Path, matterport: Path, tmp_path: Path) -> None:
    refusal = refused(spec_of(front3d, dataset__depth_max=9.0))
    assert "the camera of 3D-Front: camera: up to 9 m it sees" in str(refusal)
    base = tmp_path / "m"
    shutil.copytree(matterport, base)
    (base / "data" / "s" / "n_geometry1_4.npz").touch()  # not looked into before the camera
    np.save(base / "data" / "s" / "n_intrinsics_1.npy", [[80.0, 0, 80], [0, 80, 60], [0, 0, 1]])
    refusal = refused(matterport_spec(base))
    assert "n_i1_4.jpg: camera: up to 6 m it sees" in str(refusal)
    assert (
        first(matterport_spec(base, dataset__enable_mp_occ=False), "val").planes is None
    )  # 2D alone sees it all


def test_planes_that_differ(front3d: Path) -> None:
    refusal = refused(spec_of(front3d, dataset__depth_size=[30, 40]))
    assert isinstance(refusal, ConflictError)
    assert "dataset.depth_size: 30 x 40 (height x width) is not the plane" in str(refusal)


def test_a_missing_label_map(front3d: Path, tmp_path: Path) -> None:
    refusal = refused(spec_of(front3d, dataset__label_map=str(tmp_path / "none.json")))
    assert "dataset.label_map: there is no label map" in str(refusal)
