"""Settings of Mask2Former that change what it computes while no tensor tells them."""

from __future__ import annotations

from skillbank_models.weights.checkpoint_facts import CheckpointFacts

__all__ = ["SHAPELESS"]

SHAPELESS = CheckpointFacts(
    ("model.sem_seg_head.norm", "model.mask_former.pre_norm", "model.backbone.swin.qk_scale")
)
