"""Training, evaluation and inference of NVPanoptix3D in both stages: wires the parts as the spec says."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from skillbank.jobs.files import write_json, write_text
from skillbank_models import optimisers
from skillbank_models.data.categories import Categories
from skillbank_models.data.images import read_image
from skillbank_models.data.results import ResultWriter
from skillbank_models.layers.deformable_encoder import DeformableEncoderLayer
from skillbank_models.layers.query_layers import FeedForwardLayer, SelfAttentionLayer
from skillbank_models.metrics.depth_panoptic import DepthPanoptic
from skillbank_models.metrics.reconstruction_quality import ReconstructionQuality
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.criteria import build_image_criterion, build_volume_criterion
from skillbank_models.nvpanoptix3d.data import categories_of
from skillbank_models.nvpanoptix3d.deployed import DeployedImage, ImageFile, open_image
from skillbank_models.nvpanoptix3d.image_cache import ImageCache
from skillbank_models.nvpanoptix3d.located import locate
from skillbank_models.nvpanoptix3d.model import build_model
from skillbank_models.nvpanoptix3d.outputs import FrustumOutput, ImageOutput, MergedImage, Scene
from skillbank_models.nvpanoptix3d.scene_results import flat_results, image_scenes, volume_scenes
from skillbank_models.nvpanoptix3d.scene_writer import SceneWriter
from skillbank_models.nvpanoptix3d.shapeless import OF_IMAGES, OF_VOLUMES, SCALE
from skillbank_models.nvpanoptix3d.vggt.blocks import Block
from skillbank_models.weights.checkpoint_facts import stored_categories
from skillbank_models.weights.files import FACTS

__all__ = ["NVPanoptix3DModule"]

log = logging.getLogger(__name__)

_Measures = DepthPanoptic | ReconstructionQuality


class NVPanoptix3DModule(pl.LightningModule):
    """The network with its losses, measures and results.

    Attributes:
        model: the network; its weights are all there is in a checkpoint.
        camera_is_trained: whether the camera head has weights that mean something, as the public ones do.
        engine: an ONNX file or engine that runs instead of the 2D part, or None.
    """

    shard_units: ClassVar[set[type[nn.Module]]] = {
        Block,
        DeformableEncoderLayer,
        SelfAttentionLayer,
        FeedForwardLayer,
    }

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        self.is_3d = bool(spec.dataset.enable_3d)
        self.camera_is_trained = False
        self.engine: ImageFile | None = None
        self._deployed: DeployedImage | None = None
        classes = spec.model.sem_seg_head.num_classes
        things = spec.dataset.num_thing_classes
        self.is_thing = tuple(1 <= index <= things for index in range(classes))
        self.model = build_model(spec, is_thing=self.is_thing)
        self.image_criterion = build_image_criterion(spec)
        self.volume_criterion = build_volume_criterion(spec) if self.is_3d else None
        if self.is_3d:
            for part in self._frozen():
                part.requires_grad_(False)
            self.train(self.training)
        self._cache: ImageCache | None = None
        self._categories: Categories | None = None
        self._measures: _Measures | None = None
        self._writer: SceneWriter | None = None
        self._flat_writer: ResultWriter | None = None
        self._told_of_cameras = False
        self._written: list[tuple[Path, str]] = []

    def _frozen(self) -> list[nn.Module]:
        return [self.model.backbone, self.model.sem_seg_head]

    def train(self, mode: bool = True) -> NVPanoptix3DModule:
        """Set the mode; the frozen 2D part of stage 2 always evaluates, so its norms stay as they are."""
        super().train(mode)
        if self.is_3d and self.engine is None:
            for part in self._frozen():
                part.eval()
        return self

    def setup(self, stage: str) -> None:
        """Open a deployed 2D part, take the classes from the data, find out if 2D outputs may be kept."""
        if self.engine is not None:
            device = self.trainer.strategy.root_device
            self._deployed = open_image(self.engine, spec=self.spec, device=device)
            self.camera_is_trained = self._deployed.camera_is_trained
        self._categories = self._find_categories()
        if stage == "fit" and self.is_3d:
            self._cache = self._image_cache(self.trainer.world_size)

    def _image_cache(self, world: int) -> ImageCache | None:
        """Kept 2D outputs, as the spec says; not with fsdp."""
        dataset, train = self.spec.dataset, self.spec.train
        if not dataset.cache_dir or train.distributed_strategy != "fsdp" or world == 1:
            return ImageCache.of(self.spec)
        # a process that reads a file while another computes would not bring that one its share of the weights
        log.warning(
            "dataset.cache_dir holds no 2D outputs with train.distributed_strategy=fsdp, whose processes "
            "need each other in every step; ddp can use them"
        )
        return None

    def _find_categories(self) -> Categories:
        if type(self.spec).action == "inference" and not self.spec.dataset.label_map:
            checkpoint, found = self.spec.inference.checkpoint, None
            if self._deployed is not None:
                found = self._deployed.categories
            elif checkpoint:
                found = stored_categories(Path(checkpoint), "inference.checkpoint")
            if found is not None:
                return found
        data: Any = getattr(self.trainer, "datamodule", None)
        return data.categories if data is not None else categories_of(self.spec)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the tensors do not tell."""
        more = {"stage": 2 if self.is_3d else 1, "camera_is_trained": self.camera_is_trained}
        facts = OF_IMAGES.of(self.spec, self.categories, **more)
        if self.is_3d:
            facts["settings"] |= OF_VOLUMES.of(self.spec, self.categories)["settings"]
            facts["settings"][SCALE] = self.spec.model.frustum3d.grid_dimensions
        checkpoint[FACTS] = facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what the tensors do not tell."""
        self.camera_is_trained = bool(checkpoint.get(FACTS, {}).get("camera_is_trained", False))

    @property
    def categories(self) -> Categories:
        """The classes of the data."""
        assert self._categories is not None, "setup has not run"
        return self._categories

    # --- training

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        if self.is_3d:
            image, _, volume = self._volume(batch, cache=self._cache)
            return self._log_losses(self._volume_losses(image, volume, batch), batch, "train_loss")
        image = self._image(batch, all_layers=self._deep())
        return self._log_losses(self.image_criterion(image, batch), batch, "train_loss")

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Loss and measures of a batch."""
        if self.is_3d:
            image, merged, volume = self._volume(batch, cache=None)
            self._log_losses(self._volume_losses(image, volume, batch), batch, "val_loss")
            self._measure(batch, self._volume_scenes(image, merged, volume, batch))
        else:
            image = self._image(batch, all_layers=self._deep())
            self._log_losses(self.image_criterion(image, batch), batch, "val_loss")
            self._measure(batch, image_scenes(self.model, image, batch))

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Measures of a batch."""
        batch, image = self._predict(batch)
        self._measure(batch, self._scenes(image, batch))

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Write the results of a batch."""
        batch, image = self._predict(batch)
        known = batch.cameras_known
        batch = locate(
            batch,
            image.pose,
            self.spec,
            camera_is_trained=self.camera_is_trained,
            is_first=not self._told_of_cameras,
        )
        self._told_of_cameras |= not all(known)
        names = zip(batch.file_names, batch.image_ids, strict=True)
        if self._flat_writer is not None:
            mode, topk = self.spec.inference.mode, self.spec.model.test_topk_per_image
            results = flat_results(self.model, image, batch, mode=mode, topk=topk)
            for (name, relative), result in zip(names, results, strict=True):
                self._flat_writer.add(name, relative, read_image(Path(name)), result)
            return
        assert self._writer is not None
        for (name, relative), scene, view in zip(names, self._scenes(image, batch), batch.views, strict=True):
            self._writer.add(name, relative, read_image(Path(name)), scene, view)

    def _deep(self) -> bool:
        return bool(self.spec.model.mask_former.deep_supervision)

    def _image(self, batch: SceneBatch, *, all_layers: bool) -> ImageOutput:
        found: ImageOutput = self.model(batch.images, all_layers=all_layers, sizes=batch.sizes)
        return found

    def _predict(self, batch: SceneBatch) -> tuple[SceneBatch, ImageOutput]:
        """Outputs for results, and the batch that they are about."""
        if self._deployed is not None:
            return self._deployed(batch)
        return batch, self._image(batch, all_layers=False)

    def _volume(
        self, batch: SceneBatch, *, cache: ImageCache | None
    ) -> tuple[ImageOutput, list[MergedImage], FrustumOutput]:
        with torch.no_grad():
            image = (
                self._image(batch, all_layers=False) if cache is None else cache.outputs(batch, self.model)
            )
            merged = self.model.merge(image, batch)
        return image, merged, self.model.complete(image, merged, batch)

    def _volume_losses(
        self, image: ImageOutput, volume: FrustumOutput, batch: SceneBatch
    ) -> dict[str, Tensor]:
        assert self.volume_criterion is not None
        matches = self.image_criterion.match(image, batch)
        counts = [len(target.labels) for target in batch.targets]
        found: dict[str, Tensor] = self.volume_criterion(
            volume, batch.volumes, matches, batch.weights, counts=counts
        )
        return found

    def _log_losses(self, losses: dict[str, Tensor], batch: SceneBatch, name: str) -> Tensor:
        criterion = self.volume_criterion or self.image_criterion
        total: Tensor = criterion.total(losses)
        size, in_training = len(batch.images), name == "train_loss"
        self.log(name, total, on_step=in_training, on_epoch=True, sync_dist=True, batch_size=size)
        if in_training:
            detached = {key: value.detach() for key, value in losses.items()}
            self.log_dict(detached, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        return total

    # --- results

    def _scenes(self, image: ImageOutput, batch: SceneBatch) -> list[Scene]:
        if not self.is_3d:
            return image_scenes(self.model, image, batch)
        merged = self.model.merge(image, batch)
        return self._volume_scenes(image, merged, self.model.complete(image, merged, batch), batch)

    def _volume_scenes(
        self, image: ImageOutput, merged: list[MergedImage], volume: FrustumOutput, batch: SceneBatch
    ) -> list[Scene]:
        truncation = self.spec.model.frustum3d.truncation
        return volume_scenes(self.model, image, merged, volume, batch, truncation=truncation)

    # --- measures

    def on_validation_epoch_start(self) -> None:
        """Start to count."""
        self._measures = self._new_measures("val")

    def on_test_epoch_start(self) -> None:
        """Start to count."""
        self._measures = self._new_measures("test")

    def on_validation_epoch_end(self) -> None:
        """Report."""
        self._report()

    def on_test_epoch_end(self) -> None:
        """Report, with a file and a table for each class."""
        measures = self._report()
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        per_class, table = folder / "per_class.json", folder / "metrics.txt"
        write_json(per_class, {"stage": 2 if self.is_3d else 1, "classes": measures.per_class()}, mode=0o644)
        write_text(table, measures.table() + "\n", mode=0o644)
        self._written += [(per_class, "metrics"), (table, "report")]
        log.info("by class:\n%s", measures.table())

    def _new_measures(self, prefix: Literal["val", "test"]) -> _Measures:
        dataset = self.spec.dataset
        if not self.is_3d:
            return DepthPanoptic(categories=self.categories, is_thing=self.is_thing, prefix=prefix)
        return ReconstructionQuality(
            categories=self.categories,
            is_thing=self.is_thing,
            iso_truth=dataset.iso_value,
            iso_prediction=self.spec.model.frustum3d.iso_recon_value,
            downsample=dataset.downsample_factor,
        )

    def _measure(self, batch: SceneBatch, scenes: list[Scene]) -> None:
        assert self._measures is not None
        for place, scene in enumerate(scenes):
            frustum = None if batch.frusta is None else batch.frusta[place]
            self._measures.update(scene, batch.truths[place], frustum, image_id=batch.image_ids[place])

    def _report(self) -> _Measures:
        assert self._measures is not None
        # summed over the processes already; the same number on all of them
        self.log_dict(self._measures.reduce_and_compute(), sync_dist=True)
        return self._measures

    # --- inference files

    def on_predict_start(self) -> None:
        """Open the result folders."""
        folder, mode = Path(self.trainer.default_root_dir), self.spec.inference.mode
        if mode != "panoptic" and not self.is_3d:
            self._flat_writer = ResultWriter(
                folder,
                mode=mode,
                categories=self.categories,
                rank=self.global_rank,
                world=self.trainer.world_size,
            )
            return
        if mode != "panoptic":
            log.warning("inference.mode %s is not read: results of stage 2 are panoptic", mode)
        self._writer = SceneWriter(
            folder,
            categories=self.categories,
            meshes=self.spec.inference.meshes,
            volumes=self.spec.inference.volumes,
            rank=self.global_rank,
            world=self.trainer.world_size,
        )

    def on_predict_end(self) -> None:
        """Finish the files that hold all images."""
        for writer in (self._writer, self._flat_writer):
            if writer is not None:
                self._written += writer.finish()

    def artifacts(self) -> Iterable[tuple[Path, str]]:
        """Files of evaluation or inference."""
        return self._written

    # --- optimiser

    def configure_optimizers(self) -> Any:
        """Groups by learning rate and decay, and the schedule."""
        optim = self.spec.train.optim
        optimizer = optimisers.build_optimiser(self.model, optim)
        schedule = optimisers.build_schedule(
            optimizer,
            optim,
            total_steps=optim.max_steps,
            warmup_steps=optim.warmup_iters,
            warmup_factor=optim.warmup_factor,
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}
