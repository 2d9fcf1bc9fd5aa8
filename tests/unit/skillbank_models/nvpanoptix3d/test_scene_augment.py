"""Augmentation moves picture, labels, depth, camera and volumes together."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skillbank_models.data.regions import Window
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Grid
from skillbank_models.nvpanoptix3d.scene_augment import (
    Change,
    SceneSize,
    SceneTrainAugment,
    mirrored,
    nearest,
    to_target_size,
)
from skillbank_models.nvpanoptix3d.scene_files import ScenePixels
from skillbank_models.nvpanoptix3d.views import backproject, view_of

GRID = Grid(256, 0.03, 0.4, 6.0)
VIEW = view_of(FRONT3D_CAMERA, GRID, shifted=True, rule="measured")
WHOLE = Window((240, 320), 0, 0, (240, 320))


def maps(height: int = 240, width: int = 320) -> ScenePixels:
    """Every pixel has a number of its own."""
    numbers = np.arange(height * width, dtype=np.int32).reshape(height, width)
    depth = 1.0 + numbers.astype(np.float32) / numbers.size * 3
    return ScenePixels(numbers, numbers + 1, depth, numbers % 2 == 0)


def augment(**changes: Any) -> SceneTrainAugment:
    settings: dict[str, Any] = {
        "min_sizes": [240], "max_size": 960, "crop_size": None, "most_of_one_class": 1.0, "jitter": False,
        "channels": "RGB", "flip": None, "flip_prob": 0.0, **changes,
    }  # fmt: skip
    return SceneTrainAugment(**settings)


def picture(pixels: ScenePixels) -> np.ndarray:
    return np.repeat((pixels.semantic % 251).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flipping_twice_changes_nothing(direction: Any) -> None:
    change = Change(WHOLE, direction)
    pixels = maps()
    twice = change.pixels(change.pixels(pixels))
    for name in ("semantic", "instance", "depth", "room"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(pixels, name))
    image = picture(pixels)
    np.testing.assert_array_equal(change.image(change.image(image)), image)
    assert change.view(change.view(VIEW)) == VIEW
    volume = np.random.default_rng(0).random((8, 8, 8))
    np.testing.assert_array_equal(mirrored(mirrored(volume, direction), direction), volume)
    assert not np.array_equal(mirrored(volume, direction), volume)


CHANGES = [
    Change(WHOLE, None),
    Change(WHOLE, "horizontal"),
    Change(WHOLE, "vertical"),
    Change(Window((240, 320), 30, 50, (150, 200)), None),
    Change(Window((240, 320), 31, 0, (150, 201)), "horizontal"),
    Change(Window((480, 640), 100, 200, (200, 300)), "vertical"),
    Change(Window((120, 160), 3, 5, (90, 121)), "horizontal"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_pixel_keeps_its_voxel(change: Change) -> None:
    """What a pixel shows is in the same voxel of the room, wherever the pixel went."""
    pixels = maps()
    stored = places(pixels.depth, VIEW)
    moved = change.pixels(pixels)
    found = places(moved.depth, change.view(VIEW))
    source = moved.semantic  # the number of the stored pixel that each one is
    wanted = stored.reshape(-1, 3)[torch.from_numpy(source).long()]
    if change.flip is not None:
        axis = 0 if change.flip == "horizontal" else 1
        wanted[..., axis] = GRID.side - 1 - wanted[..., axis]
    # a resized map shows the nearest pixel, half a pixel of it away; 1 px at 4 m is half a voxel
    resized = change.window.full != (240, 320)
    assert (found - wanted).abs().max() < (0.5 if resized else 1e-3)


def places(depth: np.ndarray, view: Any) -> torch.Tensor:
    points = backproject(torch.from_numpy(depth), view.camera).double()
    return points / view.grid.voxel + torch.tensor(view.origin)


def test_a_crop_changes_the_camera_and_not_its_place() -> None:
    change = Change(Window((240, 320), 30, 50, (150, 200)), None)
    view = change.view(VIEW)
    assert view.origin == VIEW.origin
    assert view.camera == replace(FRONT3D_CAMERA, cx=109.5, cy=89.5, width=200, height=150)
    assert change.is_cropped


def test_picture_and_labels_move_alike() -> None:
    pixels = maps()
    image = picture(pixels)
    for change in CHANGES[:5]:  # without a new size pixels stay what they are
        moved = change.pixels(pixels)
        np.testing.assert_array_equal(change.image(image)[..., 0], moved.semantic % 251)
        np.testing.assert_array_equal(moved.instance, moved.semantic + 1)
        np.testing.assert_array_equal(moved.room, moved.semantic % 2 == 0)


def test_sizes_follow_the_short_side() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    _, change = SceneSize(min_size=120, max_size=960).change(image, None, 120)
    assert change.window.full == change.window.size == (120, 160)
    _, change = augment(max_size=400).change(image, None, 480)
    assert change.window.full == (300, 400)
    np.random.seed(0)
    drawn = {augment(min_sizes=[96, 128]).draw_short_side() for _ in range(20)}
    assert drawn == {96, 128}


def test_flips_are_drawn() -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    np.random.seed(0)
    drawn = [
        augment(flip="vertical", flip_prob=0.5).change(image, None, 24)[1].flip == "vertical"
        for _ in range(200)
    ]
    assert 60 < sum(drawn) < 140
    assert augment(flip="horizontal", flip_prob=1.0).change(image, None, 24)[1].flip == "horizontal"
    assert augment(flip=None, flip_prob=1.0).change(image, None, 24)[1].flip is None


def test_crops_avoid_one_class_where_they_can() -> None:
    semantic = np.full((60, 80), 10, np.int32)
    semantic[:, 40:] = 11
    semantic[:, :20] = 0  # void does not count
    pixels = replace(maps(60, 80), semantic=semantic)
    image = np.zeros((60, 80, 3), np.uint8)
    np.random.seed(0)
    cropping = augment(crop_size=(30, 30), most_of_one_class=0.8)
    mixed = 0
    for _ in range(40):
        _, change = cropping.change(image, pixels, 60)
        part = change.pixels(pixels).semantic
        assert part.shape == (30, 30)
        areas = np.bincount(part.ravel(), minlength=12)[[10, 11]]
        mixed += areas.max() <= 0.8 * areas.sum()
    assert mixed >= 38  # one try in ten finds one here almost always
    _, change = augment(crop_size=(99, 99)).change(image, pixels, 60)
    assert change.window.size == (60, 80)


def test_jitter_draws_colours_and_nothing_else() -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    found = {}
    for channels in ("RGB", "BGR"):
        np.random.seed(3)
        found[channels], change = augment(jitter=True, channels=channels).change(image, None, 20)
        assert change == Change(Window((20, 30), 0, 0, (20, 30)), None)
    assert not np.array_equal(found["RGB"], image)
    assert not np.array_equal(found["RGB"], found["BGR"])
    np.testing.assert_array_equal(augment().change(image, None, 20)[0], image)


def test_pictures_come_to_the_target_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    assert to_target_size(image, (30, 20)) is image
    assert to_target_size(image, (16, 12)).shape == (12, 16, 3)


def test_nearest_takes_the_pixel_under_the_centre() -> None:
    values = np.arange(16).reshape(4, 4)
    assert nearest(values, (2, 2)).tolist() == [[5, 7], [13, 15]]
    assert nearest(values, (4, 4)).tolist() == values.tolist()
