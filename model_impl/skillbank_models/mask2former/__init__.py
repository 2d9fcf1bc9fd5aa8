"""Mask2Former: semantic, instance and panoptic segmentation."""

from __future__ import annotations

from skillbank_models.mask2former import weights
from skillbank_models.mask2former.data import Mask2FormerData
from skillbank_models.mask2former.export import export, gen_trt_engine, quantize
from skillbank_models.mask2former.module import Mask2FormerModule, load_engine
from skillbank_models.protocol import Implementation

__all__ = ["NETWORK"]

NETWORK = Implementation(
    build_data=Mask2FormerData,
    build_module=Mask2FormerModule,
    actions={"export": export, "gen_trt_engine": gen_trt_engine, "quantize": quantize},
    start_weights=weights.start_weights,
    load_weights=weights.load_weights,
    load_engine=load_engine,
    weights=weights.WEIGHT_FORMATS,
    sample_names=lambda batch: batch.file_names,
    memory_keys=("dataset.augmentation.train_crop_size", "model.mask_former.train_num_points"),
)
