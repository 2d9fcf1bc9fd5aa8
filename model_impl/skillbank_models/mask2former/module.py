"""Training, evaluation and inference of Mask2Former: wires the parts of the network as the spec says."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor, nn

from skillbank.jobs.files import write_json, write_text
from skillbank_models import optimisers
from skillbank_models.data.batch import SegmentationBatch
from skillbank_models.data.categories import Categories
from skillbank_models.data.images import read_image
from skillbank_models.data.results import ResultWriter
from skillbank_models.layers.deformable_encoder import DeformableEncoderLayer
from skillbank_models.layers.mask_criterion import MaskCriterion
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.layers.query_layers import FeedForwardLayer, SelfAttentionLayer
from skillbank_models.layers.swin import SwinBlock
from skillbank_models.mask2former.data import categories_of
from skillbank_models.mask2former.deployed import DeployedSegmenter, open_segmenter, thing_flags
from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.segmenting import segment_batch
from skillbank_models.mask2former.shapeless import SHAPELESS
from skillbank_models.metrics.segmentation import SegmentationMeasures
from skillbank_models.ops.image_result import ImageResult
from skillbank_models.weights.checkpoint_facts import stored_categories
from skillbank_models.weights.files import FACTS

__all__ = ["Mask2FormerModule", "load_engine"]

log = logging.getLogger(__name__)


class Mask2FormerModule(pl.LightningModule):
    """The network with its losses, measures and results.

    Attributes:
        model: the network; its weights are all there is in a checkpoint.
        engine: an ONNX file or engine that runs instead of `model`, or None.
    """

    # not the cross-attention: its keys and values are projected from outside, for several layers at once
    shard_units: ClassVar[set[type[nn.Module]]] = {
        SwinBlock,
        DeformableEncoderLayer,
        SelfAttentionLayer,
        FeedForwardLayer,
    }

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        self.model = build_model(spec.model, activation_checkpoint=spec.train.activation_checkpoint)
        settings = spec.model.mask_former
        self.criterion = MaskCriterion(
            num_classes=spec.model.sem_seg_head.num_classes,
            class_weight=settings.class_weight,
            mask_weight=settings.mask_weight,
            dice_weight=settings.dice_weight,
            no_object_weight=settings.no_object_weight,
            num_points=settings.train_num_points,
            oversample_ratio=settings.oversample_ratio,
            importance_sample_ratio=settings.importance_sample_ratio,
            deep_supervision=settings.deep_supervision,
        )
        self.engine: Path | None = None
        self._deployed: DeployedSegmenter | None = None
        self._categories: Categories | None = None
        self._measures: SegmentationMeasures | None = None
        self._writer: ResultWriter | None = None
        self._written: list[tuple[Path, str]] = []

    def setup(self, stage: str) -> None:
        """Take the classes from the data, and open the engine where one runs instead of the network."""
        self._categories = self._find_categories()
        count = self.spec.model.sem_seg_head.num_classes
        self._is_thing = thing_flags(self._categories, count)  # (K,)
        if self.engine is not None:
            device = self.trainer.strategy.root_device
            self._deployed = open_segmenter(
                self.engine, spec=self.spec, categories=self._categories, device=device
            )

    def _find_categories(self) -> Categories:
        action = type(self.spec).action
        checkpoint = getattr(getattr(self.spec, action, None), "checkpoint", None)
        if action == "inference" and not self.spec.dataset.label_map and checkpoint and self.engine is None:
            found = stored_categories(Path(checkpoint), "inference.checkpoint")
            if found is not None:
                return found
        data: Any = getattr(self.trainer, "datamodule", None)
        return data.categories if data is not None else categories_of(self.spec)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the tensors do not tell."""
        checkpoint[FACTS] = SHAPELESS.of(self.spec, self.categories)

    @property
    def categories(self) -> Categories:
        """The classes of the data."""
        assert self._categories is not None, "setup has not run"
        return self._categories

    # --- training

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        return self._losses(batch, self._supervised(batch), "train_loss", on_step=True)

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Loss and measures of a batch."""
        predictions = self._supervised(batch)
        self._losses(batch, predictions, "val_loss", on_step=False)
        self._measure(batch, self._segment(batch, predictions))

    def test_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Measures of a batch."""
        self._measure(batch, self._results(batch))

    def predict_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Write the results of a batch."""
        assert self._writer is not None
        results = self._results(batch)
        for name, relative, result in zip(batch.file_names, batch.image_ids, results, strict=True):
            self._writer.add(name, str(relative), read_image(Path(name)), result)

    def _supervised(self, batch: SegmentationBatch) -> MaskPredictions:
        found: MaskPredictions = self.model(
            batch.images, all_layers=self.spec.model.mask_former.deep_supervision
        )
        return found

    def _losses(
        self, batch: SegmentationBatch, predictions: MaskPredictions, name: str, *, on_step: bool
    ) -> Tensor:
        losses = self.criterion(predictions, batch.targets)
        total: Tensor = self.criterion.total(losses)
        size = len(batch.images)
        self.log(name, total, on_step=on_step, on_epoch=True, sync_dist=True, batch_size=size)
        if on_step:
            detached = {key: value.detach() for key, value in losses.items()}
            self.log_dict(detached, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        return total

    # --- results

    def _results(self, batch: SegmentationBatch) -> list[ImageResult]:
        if self._deployed is not None:
            return self._deployed(batch)
        return self._segment(batch, self.model(batch.images, all_layers=False))

    def _segment(self, batch: SegmentationBatch, predictions: MaskPredictions) -> list[ImageResult]:
        return segment_batch(predictions, batch, settings=self.spec.model, is_thing=self._is_thing)

    # --- measures

    def on_validation_epoch_start(self) -> None:
        """Start to count."""
        self._measures = self._new_measures()

    def on_test_epoch_start(self) -> None:
        """Start to count."""
        self._measures = self._new_measures()

    def on_validation_epoch_end(self) -> None:
        """Report."""
        self._report()

    def on_test_epoch_end(self) -> None:
        """Report, with a file and a table for each class."""
        measures = self._report()
        self.log_dict(measures.class_kpis(), sync_dist=True)
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        per_class, table = folder / "per_class.json", folder / "metrics.txt"
        write_json(per_class, {"mode": self.spec.model.mode, "classes": measures.per_class()}, mode=0o644)
        write_text(table, measures.table() + "\n", mode=0o644)
        self._written += [(per_class, "metrics"), (table, "report")]
        log.info("by class:\n%s", measures.table())

    def _new_measures(self) -> SegmentationMeasures:
        return SegmentationMeasures(
            mode=self.spec.model.mode,
            categories=self.categories,
            num_classes=self.spec.model.sem_seg_head.num_classes,
        )

    def _measure(self, batch: SegmentationBatch, results: list[ImageResult]) -> None:
        assert self._measures is not None
        for index, result in enumerate(results):
            self._measures.update(
                batch.image_ids[index], batch.original_sizes[index], result, batch.truths[index]
            )

    def _report(self) -> SegmentationMeasures:
        assert self._measures is not None
        # summed over the processes already; the same number on all of them
        self.log_dict(self._measures.reduce_and_compute(), sync_dist=True)
        return self._measures

    # --- inference files

    def on_predict_start(self) -> None:
        """Open the result folders."""
        self._writer = ResultWriter(
            Path(self.trainer.default_root_dir),
            mode=self.spec.model.mode,
            categories=self.categories,
            rank=self.global_rank,
            world=self.trainer.world_size,
        )

    def on_predict_end(self) -> None:
        """Finish the files that hold all images."""
        assert self._writer is not None
        self._written += self._writer.finish()

    def artifacts(self) -> Iterable[tuple[Path, str]]:
        """Files of evaluation or inference."""
        return self._written

    # --- optimiser

    def configure_optimizers(self) -> Any:
        """Groups by learning rate and decay, and the schedule."""
        optim = self.spec.train.optim
        optimizer = optimisers.build_optimiser(self.model, optim)
        total = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": optimisers.build_schedule(optimizer, optim, total_steps=total),
        }


def load_engine(module: pl.LightningModule, path: Path, spec: Any) -> None:
    """Make the module run an ONNX file or engine instead of its own weights; it is opened in `setup`."""
    assert isinstance(module, Mask2FormerModule)
    module.engine = path
