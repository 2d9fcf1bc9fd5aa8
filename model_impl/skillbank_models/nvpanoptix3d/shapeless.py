"""Settings of NVPanoptix3D that change what it computes while no tensor tells them."""

from __future__ import annotations

from skillbank_models.weights.checkpoint_facts import CheckpointFacts

__all__ = ["OF_IMAGES", "OF_VOLUMES", "SCALE"]

OF_IMAGES = CheckpointFacts(
    (
        "model.backbone.vggt.image_width",
        "model.backbone.vggt.num_heads",
        "model.backbone.vggt.intermediate_layers",
        "model.backbone.vggt.camera_rounds",
        "model.sem_seg_head.norm",
        "model.mask_former.nheads",
        "model.mask_former.pre_norm",
        "model.mask_former.size_divisibility",
        "dataset.depth_max",
    )
)
OF_VOLUMES = CheckpointFacts(
    (
        "model.projection.voxel_size",
        "model.frustum3d.truncation",
        "model.compat.depth_features",
        "model.compat.voxel_rule",
        "model.compat.multi_scale_sampling",
        "model.compat.lifting_fill",
        "model.compat.sparse_norm",
    )
)
# another grid is allowed, to go on with what a coarser one taught, though distances are learnt in its voxels
SCALE = "model.frustum3d.grid_dimensions"
