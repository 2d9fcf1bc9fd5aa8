"""From outputs of the network to results of single images, in either stage.

Letters: `B` batch, `Q` queries, `K` classes, `H0 W0` image as stored, `h w` image plane of the 3D stage, `G`
side of the grid.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.assembly import assemble
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.merging import merge_image, segment_flat
from skillbank_models.nvpanoptix3d.model import NVPanoptix3D
from skillbank_models.nvpanoptix3d.outputs import FrustumOutput, ImageOutput, MergedImage, Scene
from skillbank_models.ops.image_result import ImageResult
from skillbank_models.ops.postprocess import resize_masks

__all__ = ["flat_results", "image_scenes", "volume_scenes"]

log = logging.getLogger(__name__)


@torch.no_grad()
def image_scenes(model: NVPanoptix3D, output: ImageOutput, batch: SceneBatch) -> list[Scene]:
    """Results of stage 1, at the size of each image as stored."""
    settings = model.lifting
    padded = model.padded_size(batch.images.shape[-2], batch.images.shape[-1])
    logits = output.predictions.class_logits[-1].float()  # (B, Q, K + 1)
    masks = _mask_logits(output)  # (B, Q, ., .)
    found = []
    for place, (content, original) in enumerate(zip(batch.sizes, batch.original_sizes, strict=True)):
        as_stored = partial(resize_masks, padded=padded, content=content, original=original)
        depth = as_stored(output.depth[place : place + 1])[0]  # (H0, W0)
        merged = merge_image(
            logits[place],
            masks[place],
            depth,
            resize=as_stored,
            is_thing=settings.is_thing,
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
            depth_scale=settings.depth_scale,
        )
        found.append(_scene(merged, _stored_matrix(batch.views[place], original)))
    return found


@torch.no_grad()
def volume_scenes(
    model: NVPanoptix3D,
    output: ImageOutput,
    merged: list[MergedImage],
    volume: FrustumOutput,
    batch: SceneBatch,
    *,
    truncation: float,
) -> list[Scene]:
    """Results of stage 2: maps of the image plane, and volumes."""
    volumes = assemble(
        volume,
        output.predictions.class_logits[-1],
        is_thing=model.lifting.is_thing,
        object_mask_threshold=model.lifting.object_mask_threshold,
        truncation=truncation,
    )
    found = []
    for place, assembled in enumerate(volumes):
        scene = _scene(merged[place], _stored_matrix(batch.views[place], batch.original_sizes[place]))
        scene.geometry = assembled.geometry
        scene.semantic_volume = assembled.semantic
        scene.panoptic_volume = assembled.panoptic
        scene.volume_segments = assembled.segments
        found.append(scene)
    return found


@torch.no_grad()
def flat_results(
    model: NVPanoptix3D, output: ImageOutput, batch: SceneBatch, *, mode: Any, topk: int
) -> list[ImageResult]:
    """Class maps, or instances, of stage 1, at the size of each image as stored."""
    padded = model.padded_size(batch.images.shape[-2], batch.images.shape[-1])
    masks = _mask_logits(output)  # (B, Q, ., .)
    return [
        segment_flat(
            output.predictions.class_logits[-1, place],
            masks[place],
            mode=mode,
            padded=padded,
            content=content,
            original=original,
            is_thing=model.lifting.is_thing,
            topk=topk,
        )
        for place, (content, original) in enumerate(zip(batch.sizes, batch.original_sizes, strict=True))
    ]


def _mask_logits(output: ImageOutput) -> Tensor:
    """(B, Q, ., .) float32."""
    with torch.autocast(output.depth.device.type, enabled=False):
        return MaskPredictions(*(part.float() for part in output.predictions)).mask_logits()


def _scene(merged: MergedImage, matrix: NDArray[np.float64]) -> Scene:
    return Scene(
        segment_map=merged.segment_map.cpu().numpy(),
        segments=merged.segments,
        depth=merged.depth.cpu().numpy(),
        intrinsics=matrix,
        geometry=None,
        semantic_volume=None,
        panoptic_volume=None,
        volume_segments=[],
    )


def _stored_matrix(view: View, original: tuple[int, int]) -> NDArray[np.float64]:
    height, width = original
    return view.camera.scaled(width, height).matrix()  # (3, 3)
