"""Volumes at the side of the grid, and their small copies."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from skillbank_models.nvpanoptix3d.scene_files import RoomGeometry, SceneFiles, VolumePart
from skillbank_models.nvpanoptix3d.volume_copies import VolumeCopies
from skillbank_models.nvpanoptix3d.volumes import (
    Room,
    VolumeLabels,
    pick_labels,
    reduce_distance,
    reduce_inside,
    reduce_weighting,
    spread_labels,
)


def blocks(volume: np.ndarray, r: int) -> np.ndarray:
    """The voxels of each block in the last axis."""
    g = len(volume) // r
    return volume.reshape(g, r, g, r, g, r).transpose(0, 2, 4, 1, 3, 5).reshape(g, g, g, -1)


@pytest.mark.parametrize("r", [2, 4])
def test_distance_is_the_mean_of_a_block_in_larger_voxels(r: int) -> None:
    z = np.arange(32, dtype=np.float32)
    distance = np.minimum(np.abs(z - 15.5), 12) * np.ones((32, 32, 1), np.float32)
    found = reduce_distance(distance, None, r)
    wanted = blocks(distance, r).mean(-1) / r
    near = wanted < 12 / r - 1
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[near], wanted[near], rtol=1e-6)  # float32 sums


@pytest.mark.parametrize("r", [2, 4])
def test_beyond_the_stored_end_distance_goes_on(r: int) -> None:
    # a wall far away: stored distances end at 12, true ones do not
    z = np.arange(64, dtype=np.float32)
    true = np.abs(z - 5.5)
    stored = np.minimum(true, 12) * np.ones((64, 64, 1), np.float32)
    found = reduce_distance(stored, None, r)[0, 0]
    wanted = true.reshape(-1, r).mean(1) / r
    # straight ahead the nearest known voxel is on the way, so nothing is lost but rounding
    np.testing.assert_allclose(found, wanted, atol=0.26)
    assert found.max() > 12 / r


def test_voxels_outside_the_frustum_do_not_enter_the_mean() -> None:
    distance = np.full((4, 4, 4), 12.0, np.float32)
    inside = np.zeros((4, 4, 4), bool)
    distance[0, 0, 0], inside[0, 0, 0] = 1.0, True
    found = reduce_distance(distance, inside, 2)
    assert found[0, 0, 0] == 0.5
    assert found[1, 1, 1] > 1.5


def test_weights_and_frustum_keep_what_a_block_has() -> None:
    draw = np.random.default_rng(0)
    weights = draw.integers(0, 255, (16, 16, 16)).astype(np.uint8)
    inside = draw.random((16, 16, 16)) < 0.05
    np.testing.assert_array_equal(reduce_weighting(weights, 4), blocks(weights, 4).max(-1))
    np.testing.assert_array_equal(reduce_inside(inside, 4), blocks(inside, 4).any(-1))
    assert reduce_inside(inside, 1) is inside


@pytest.mark.parametrize("r", [1, 2, 4])
def test_the_label_of_a_block_is_that_of_its_voxel_nearest_to_a_surface(r: int) -> None:
    draw = np.random.default_rng(r)
    semantic = (draw.integers(0, 13, (16, 16, 16)) * (draw.random((16, 16, 16)) < 0.1)).astype(np.int32)
    instance = (draw.integers(0, 99, (16, 16, 16)) * (semantic > 0)).astype(np.int32)
    distance = draw.random((16, 16, 16)).astype(np.float32)
    found = pick_labels(VolumePart(semantic, instance), distance, r)
    order = np.where(blocks(semantic, r) > 0, blocks(distance, r), np.inf)
    best = order.argmin(-1)[..., None]
    wanted = np.where(
        np.isfinite(order.min(-1)), np.take_along_axis(blocks(semantic, r), best, -1)[..., 0], 0
    )
    volume = np.zeros((16 // r) ** 3, np.int64)
    volume[found.places] = found.classes
    np.testing.assert_array_equal(volume.reshape(wanted.shape), wanted)
    ids = np.zeros((16 // r) ** 3, np.int64)
    ids[found.places] = found.instances
    picked = np.take_along_axis(blocks(instance, r), best, -1)[..., 0] * (wanted > 0)
    np.testing.assert_array_equal(ids.reshape(wanted.shape), picked)
    assert found.places.dtype == np.int32
    assert (np.diff(found.places) > 0).all()


def test_labels_of_a_reduced_grid_are_where_surfaces_are_near() -> None:
    draw = np.random.default_rng(4)
    distance = (draw.random((8, 8, 8)) * 3).astype(np.float32)
    places = np.sort(draw.choice(512, 20, replace=False)).astype(np.int32)
    classes = draw.integers(1, 13, 20).astype(np.uint8)
    found = spread_labels(VolumeLabels(places, classes, classes.astype(np.int32) * 7), distance, 1.0)
    np.testing.assert_array_equal(found.places, np.flatnonzero(distance < 1.0))
    np.testing.assert_array_equal(found.instances, found.classes.astype(np.int32) * 7)
    given = np.stack(np.unravel_index(places, distance.shape), 1)
    for place, label in zip(found.places, found.classes, strict=True):
        away = ((given - np.stack(np.unravel_index(place, distance.shape))) ** 2).sum(1)
        assert label in classes[away == away.min()]


def test_nothing_labelled_stays_so() -> None:
    empty = VolumeLabels(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int32))
    assert not len(spread_labels(empty, np.zeros((4, 4, 4), np.float32), 1.0).places)


class FormulaLayout:
    """A layout whose volumes come from a formula, and which counts what is read."""

    labelled_below = 1.0
    shifted = False
    camera = None

    def __init__(self) -> None:
        self.reads = 0
        draw = np.random.default_rng(0)
        self.distance = np.full((256, 256, 256), 12, np.float32)
        self.distance[100:140, 90:110, 50:60] = draw.random((40, 20, 10)) * 12.5
        self.semantic = ((self.distance < 1) * 300 % 256 // 4).astype(np.int32)

    def geometry(self, files: SceneFiles) -> RoomGeometry:
        self.reads += 1
        return RoomGeometry(self.distance, self.distance < 12)

    def volume_labels(self, files: SceneFiles) -> VolumePart:
        self.reads += 1
        return VolumePart(self.semantic, self.semantic * 70000)

    def weighting(self, files: SceneFiles) -> np.ndarray:
        self.reads += 1
        return (self.distance < 3).astype(np.uint8) * 10


@pytest.fixture(scope="module")
def layout() -> FormulaLayout:
    return FormulaLayout()


@pytest.fixture
def files(tmp_path: Path) -> SceneFiles:
    paths = [tmp_path / f"{name}.npz" for name in ("geometry", "segmentation", "weighting")]
    for path in paths:
        path.write_bytes(b"stands for the source")
    return SceneFiles(
        image=tmp_path, depth=tmp_path, labels=tmp_path, geometry=paths[0], segmentation=paths[1],
        weighting=paths[2], camera=None, room_mask=None,
    )  # fmt: skip


def test_copies_equal_what_they_are_made_of(layout: FormulaLayout, files: SceneFiles, tmp_path: Path) -> None:
    copies = VolumeCopies(tmp_path / "cache")
    plain = Room(files, layout, 256, None)
    Room(files, layout, 256, copies).geometry()
    Room(files, layout, 256, copies).labels()
    Room(files, layout, 256, copies).weighting()
    before = layout.reads
    room = Room(files, layout, 256, copies)
    copied = room.geometry()
    # half a step of 1/20 voxel; limits that are multiples of a step part the same voxels
    assert np.abs(copied.distance - layout.distance).max() <= 0.025 + 1e-6
    for limit in (1.0, 2.0, 3.0, 6.0, 8.0, 12.0):
        np.testing.assert_array_equal(copied.distance < limit, layout.distance < limit)
    np.testing.assert_array_equal(copied.inside, layout.distance < 12)
    labels = room.labels()
    np.testing.assert_array_equal(room.weighting(), layout.weighting(files))
    assert layout.reads == before + 1  # that of this test
    for found, wanted in zip(labels, plain.labels(), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    assert labels.instances.max() > 65535
    sizes = [path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(sizes) == 3
    assert sum(sizes) < 500_000


def test_a_changed_source_is_copied_anew(layout: FormulaLayout, files: SceneFiles, tmp_path: Path) -> None:
    copies = VolumeCopies(tmp_path / "cache")
    first = Room(files, layout, 64, copies).weighting()
    before = layout.reads
    Room(files, layout, 64, copies).weighting()
    assert layout.reads == before
    os.utime(files.weighting, ns=(1, 1))
    np.testing.assert_array_equal(Room(files, layout, 64, copies).weighting(), first)
    assert layout.reads == before + 1
    Room(files, layout, 128, copies).weighting()  # another side is another copy
    assert layout.reads == before + 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", None])
def test_a_damaged_copy_is_made_again(
    content: bytes | None,
    layout: FormulaLayout,
    files: SceneFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copies = VolumeCopies(tmp_path / "cache")
    first = Room(files, layout, 64, copies).weighting()
    (path,) = (tmp_path / "cache").rglob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Room(files, layout, 64, copies).weighting(), first)
    assert "is damaged and is made again" in caplog.text
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]  # no part of a file is left


def test_a_folder_that_cannot_be_written_is_told_once(
    layout: FormulaLayout, files: SceneFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, where the folder should be")
    copies = VolumeCopies(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert Room(files, layout, 64, copies).weighting().max() == 10
    assert caplog.text.count("no small copies of volumes can be kept") == 1
