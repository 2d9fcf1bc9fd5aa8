"""Cameras of pictures that came without one."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from scene_cases import tiny_spec

from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, Grid
from skillbank_models.nvpanoptix3d.frustum import frustum_mask
from skillbank_models.nvpanoptix3d.located import locate
from skillbank_models.nvpanoptix3d.views import view_of

GRID = Grid(64, 0.12, 0.4, 6.0)
STAND_IN = view_of(FRONT3D_CAMERA.scaled(160, 120), GRID, shifted=True, rule="measured")


def batch(known: tuple[bool, ...]) -> SceneBatch:
    count = len(known)
    return SceneBatch(
        images=torch.zeros(count, 3, 128, 160),
        sizes=[(120, 160)] * count,
        original_sizes=[(240, 320)] * count,
        views=[STAND_IN] * count,
        frusta=None,
        room_masks=None,
        targets=[],
        depths=None,
        planes=None,
        plane_valid=None,
        volumes=[],
        weights=torch.ones(count),
        file_names=[f"{place}.jpg" for place in range(count)],
        image_ids=[str(place) for place in range(count)],
        truths=[],
        cameras_known=known,
    )


def pose(across: float, down: float, count: int = 1) -> torch.Tensor:
    """Fields of view in degrees of the padded 128 x 160."""
    found = torch.zeros(count, 9)
    found[:, 7], found[:, 8] = np.radians(down), np.radians(across)
    return found


def spec(**changes: Any) -> Any:
    return tiny_spec("inference", **changes)


def test_a_trained_head_tells_the_camera() -> None:
    found = locate(
        batch((True, False)), pose(60, 50, 2), spec(dataset__enable_3d=True),
        camera_is_trained=True, is_first=True,
    )  # fmt: skip
    assert found.views[0] == STAND_IN
    camera = found.views[1].camera
    assert camera.fx == pytest.approx(80 / np.tan(np.radians(30)), rel=1e-5)
    assert camera.fy == pytest.approx(64 / np.tan(np.radians(25)), rel=1e-5)
    assert (camera.cx, camera.cy, camera.width, camera.height) == (79.5, 59.5, 160, 120)
    assert found.frusta is not None
    assert torch.equal(found.frusta[1], frustum_mask(found.views[1], "cpu"))


def test_an_untrained_head_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = locate(batch((False,)), pose(20, 20), spec(), camera_is_trained=False, is_first=True)
        locate(batch((False,)), pose(20, 20), spec(), camera_is_trained=False, is_first=False)
    assert found.views == [STAND_IN]
    assert found.frusta is None
    assert [record.message.count("0.jpg") for record in caplog.records] == [1]
    assert "inference.intrinsics=FILE" in caplog.text


def test_a_camera_wider_than_the_grid_loses_its_sides(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = locate(
            batch((False,)), pose(110, 90), spec(dataset__enable_3d=True),
            camera_is_trained=True, is_first=True,
        )  # fmt: skip
    assert "what is outside the grid is left out" in caplog.text
    assert found.frusta is not None
    assert found.frusta[0, 0].any()
    assert found.frusta[0, -1].any()
