"""NVPanoptix3D: one RGB image to depth, 2D panoptic segments, 3D geometry and 3D panoptic segments."""

from __future__ import annotations

from skillbank_models.nvpanoptix3d import weights
from skillbank_models.nvpanoptix3d.data import NVPanoptix3DData
from skillbank_models.nvpanoptix3d.deployed import engine_is_part, load_engine
from skillbank_models.nvpanoptix3d.export import export, gen_trt_engine
from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule
from skillbank_models.protocol import Implementation

__all__ = ["NETWORK"]

NETWORK = Implementation(
    build_data=NVPanoptix3DData,
    build_module=NVPanoptix3DModule,
    actions={"export": export, "gen_trt_engine": gen_trt_engine},
    start_weights=weights.start_weights,
    load_weights=weights.load_weights,
    load_engine=load_engine,
    engine_is_part=engine_is_part,
    sample_names=lambda batch: batch.file_names,
    memory_keys=(
        "model.frustum3d.max_voxels",
        "model.frustum3d.grid_dimensions",
        "model.mask_former.train_num_points",
    ),
)
