"""The losses of both stages, as a spec weighs them."""

from __future__ import annotations

from typing import Any

from skillbank_models.nvpanoptix3d.frustum_criterion import FrustumCriterion
from skillbank_models.nvpanoptix3d.image_criterion import ImageCriterion

__all__ = ["build_image_criterion", "build_volume_criterion"]


def build_image_criterion(spec: Any) -> ImageCriterion:
    """Losses and matching of stage 1; stage 2 uses its matching."""
    settings = spec.model.mask_former
    return ImageCriterion(
        num_classes=spec.model.sem_seg_head.num_classes,
        class_weight=settings.class_weight,
        mask_weight=settings.mask_weight,
        dice_weight=settings.dice_weight,
        depth_weight=settings.depth_weight,
        occupancy_weight=settings.mp_occ_weight,
        no_object_weight=settings.no_object_weight,
        num_points=settings.train_num_points,
        oversample_ratio=settings.oversample_ratio,
        importance_sample_ratio=settings.importance_sample_ratio,
        deep_supervision=settings.deep_supervision,
        size_divisibility=settings.size_divisibility,
    )


def build_volume_criterion(spec: Any) -> FrustumCriterion:
    """Losses of stage 2."""
    settings = spec.model.frustum3d
    quarter, half = spec.dataset.occ_truncation_lvl
    return FrustumCriterion(
        occupancy_weights=tuple(settings.completion_weights),
        surface_weight=settings.surface_weight,
        panoptic_weight=settings.panoptic_weight,
        truncation=settings.truncation,
        occupied_below=(quarter, half, settings.truncation),
    )
