"""Predictions of a batch to results of its images, by the thresholds and the mode of a spec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillbank_models.data.batch import SegmentationBatch
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.ops.image_result import ImageResult
from skillbank_models.ops.postprocess import segment_image

__all__ = ["segment_batch"]


def segment_batch(
    predictions: MaskPredictions, batch: SegmentationBatch, *, settings: Any, is_thing: Tensor
) -> list[ImageResult]:
    """The result of each image of a batch, at its stored size and on the CPU.

    Args:
        predictions: the last layer counts.
        batch: what was predicted for.
        settings: the `model` block of a spec.
        is_thing: (K,) bool.
    """
    full = MaskPredictions(*(tensor.detach().float() for tensor in predictions))
    classes = full.class_logits[-1]  # (B, Q, K + 1)
    with torch.autocast(classes.device.type, enabled=False):
        masks = full.mask_logits()  # (B, Q, h, w)
    height, width = batch.images.shape[-2:]
    return [
        segment_image(
            classes[place],
            masks[place],
            mode=settings.mode,
            padded=(height, width),
            content=content,
            original=original,
            is_thing=is_thing.to(classes.device),
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
            topk=settings.test_topk_per_image,
        )
        for place, (content, original) in enumerate(zip(batch.sizes, batch.original_sizes, strict=True))
    ]
