"""Cameras of pictures that came without one: told by the camera head, or assumed.

Letters: `B` batch, `G` side of the grid.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank.errors import DataError
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.camera import Camera, View
from skillbank_models.nvpanoptix3d.frustum import check_camera, frustum_mask
from skillbank_models.nvpanoptix3d.padding import padded_size
from skillbank_models.nvpanoptix3d.vggt.camera_head import intrinsics_of_pose
from skillbank_models.nvpanoptix3d.views import view_of

__all__ = ["locate"]

log = logging.getLogger(__name__)


def locate(
    batch: SceneBatch, pose: Tensor, spec: Any, *, camera_is_trained: bool, is_first: bool
) -> SceneBatch:
    """Fill in the cameras that are not known, and the frusta that follow from all of them.

    A trained camera head tells the fields of view; the principal point is the middle of the picture. Without
    one the stand-in of the data loader stays, and a warning says so. A picture that sees more than the grid
    holds loses what is at its sides.

    Args:
        batch: pictures for inference.
        pose: (B, 9) of the camera head.
        spec: of the inference.
        camera_is_trained: whether the camera head has weights that mean something.
        is_first: no batch before had unknown cameras; what holds for all of them is said once.
    """
    known = batch.cameras_known or (True,) * len(batch.views)
    views = list(batch.views)
    unknown = [place for place, is_known in enumerate(known) if not is_known]
    if unknown and not camera_is_trained:
        log.log(
            logging.WARNING if is_first else logging.DEBUG,
            "no camera matrix for %s, and the camera head of these weights never learnt: the camera of "
            "3D-Front is assumed (60 degrees across); inference.intrinsics=FILE names the real one",
            ", ".join(Path(batch.file_names[place]).name for place in unknown),
        )
    elif unknown:
        cameras = _told(batch, pose, spec)
        for place in unknown:
            views[place] = _view(cameras[place], views[place], spec, batch.file_names[place])
    if spec.dataset.enable_3d and batch.frusta is None:
        frusta = torch.stack([frustum_mask(view, batch.images.device) for view in views])  # (B, G, G, G)
        return batch._replace(views=views, frusta=frusta, cameras_known=())
    return batch._replace(views=views, cameras_known=())


def _told(batch: SceneBatch, pose: Tensor, spec: Any) -> list[Camera]:
    """What the camera head says, for the content of each image."""
    divisor = spec.model.mask_former.size_divisibility
    height, width = padded_size(batch.images.shape[-2], batch.images.shape[-1], divisor)
    matrices = intrinsics_of_pose(pose, height, width).cpu().double()  # (B, 3, 3)
    return [
        Camera(float(matrix[0, 0]), float(matrix[1, 1]), (across - 1) / 2, (down - 1) / 2, across, down)
        for matrix, (down, across) in zip(matrices, batch.sizes, strict=True)
    ]


def _view(camera: Camera, stand_in: View, spec: Any, name: str) -> View:
    if spec.dataset.enable_3d:
        try:
            check_camera(camera, stand_in.grid)
        except DataError as error:
            log.warning("%s: %s; what is outside the grid is left out", name, error.message)
    shifted = spec.dataset.name != "matterport"
    return view_of(camera, stand_in.grid, shifted=shifted, rule=stand_in.rule)
