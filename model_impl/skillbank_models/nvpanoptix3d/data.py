"""Data of NVPanoptix3D: from the block `dataset` of a spec to loaders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from skillbank.errors import ConflictError, MissingFilesError, MissingValueError, SkillBankError, collect
from skillbank_models.data.batch import MaskTarget
from skillbank_models.data.categories import Categories
from skillbank_models.data.loaders import build_loader
from skillbank_models.nvpanoptix3d.batch import SceneBatch, VolumeTarget
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA, STORED_SIDE, Grid
from skillbank_models.nvpanoptix3d.classes import load_classes
from skillbank_models.nvpanoptix3d.front3d import Front3dLayout
from skillbank_models.nvpanoptix3d.frustum_file import find_mask_file, read_frustum_mask
from skillbank_models.nvpanoptix3d.matterport import MatterportLayout
from skillbank_models.nvpanoptix3d.photo_folder import PhotoFolder, photo_folder
from skillbank_models.nvpanoptix3d.picture_variants import with_variants
from skillbank_models.nvpanoptix3d.scene_arrays import Rules
from skillbank_models.nvpanoptix3d.scene_augment import SceneSize, SceneTrainAugment
from skillbank_models.nvpanoptix3d.scene_collate import SceneCollate
from skillbank_models.nvpanoptix3d.scene_files import (
    Layout,
    SceneFiles,
    check_files,
    check_images,
    data_folder,
    read_split,
)
from skillbank_models.nvpanoptix3d.scene_set import SceneSet, SceneSettings
from skillbank_models.nvpanoptix3d.volume_copies import VolumeCopies

__all__ = ["NVPanoptix3DData", "categories_of", "grid_of"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_CROP = [240, 240]  # default of crop_size


class NVPanoptix3DData(pl.LightningDataModule):
    """Loaders of the splits of a spec, and of the picture folder of inference.

    Raises:
        DataError: in `setup`, when the files of a split cannot be used; tells all that was found.
        SpecError: in `setup`, when the spec does not name a file that is needed, or contradicts itself.
    """

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        self._categories: Categories | None = None
        self._sets: dict[str, SceneSet | PhotoFolder] = {}

    @property
    def categories(self) -> Categories:
        """The classes by their number; class 0 has no category."""
        if self._categories is None:
            self._categories = categories_of(self.spec)
        return self._categories

    def setup(self, stage: str) -> None:
        """Read and check what a stage needs."""
        _check_planes(self.spec.dataset)
        if stage == "fit":
            self._annotated("train", train=True)
            self._annotated("val", train=False)
        elif stage == "validate":
            self._annotated("val", train=False)
        elif stage == "test":
            self._annotated("test", train=False)
        elif stage == "predict" and "predict" not in self._sets:
            self._sets["predict"] = _photos(self.spec)

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        """Augmented images of the training split, shuffled."""
        return self._loader("train", batch_size=self.spec.dataset.train.batch_size, train=True)

    def val_dataloader(self) -> DataLoader[SceneBatch]:
        """Images of the validation split, with truths."""
        return self._loader("val", batch_size=self.spec.dataset.val.batch_size)

    def test_dataloader(self) -> DataLoader[SceneBatch]:
        """Images of the test split, with truths; `evaluate.batch_size` may give the batch."""
        return self._loader("test", batch_size=_batch_size(self.spec, "evaluate"))

    def predict_dataloader(self) -> DataLoader[SceneBatch]:
        """Pictures of `inference.images_dir`."""
        return self._loader("predict", batch_size=_batch_size(self.spec, "inference"))

    def transfer_batch_to_device(
        self, batch: SceneBatch, device: torch.device, dataloader_idx: int
    ) -> SceneBatch:
        """All tensors move; truths stay on the host, where they are measured."""

        def moved(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=True)

        def moved_if_there(part: Tensor | None) -> Tensor | None:
            return None if part is None else moved(part)

        return batch._replace(
            images=moved(batch.images),
            frusta=moved_if_there(batch.frusta),
            room_masks=moved_if_there(batch.room_masks),
            targets=[MaskTarget(*map(moved, target)) for target in batch.targets],
            depths=moved_if_there(batch.depths),
            planes=moved_if_there(batch.planes),
            plane_valid=moved_if_there(batch.plane_valid),
            volumes=[VolumeTarget(*map(moved, volume)) for volume in batch.volumes],
            weights=moved(batch.weights),
        )

    def _loader(self, name: str, *, batch_size: int, train: bool = False) -> DataLoader[SceneBatch]:
        dataset = self.spec.dataset
        divisor = int(dataset.augmentation.size_divisibility)
        return build_loader(
            self._sets[name],
            collate=SceneCollate(divisor=divisor if divisor > 0 else None),
            batch_size=batch_size,
            workers=dataset.workers if name == "predict" else getattr(dataset, name).num_workers,
            pin_memory=dataset.pin_memory,
            train=train,
            own_share=False,
        )

    def _annotated(self, split: str, *, train: bool) -> None:
        if split not in self._sets:
            log.info("%s split: %d classes", split, len(self.categories.used))  # read, so checked
            self._sets[split] = _scene_set(self.spec, split, train=train)


def categories_of(spec: Any) -> Categories:
    """The classes of a spec: of its label map, else those of 3D-Front and Matterport3D.

    Raises:
        DataError: the label map is missing or wrong, or does not fit `model.sem_seg_head.num_classes`.
    """
    dataset = spec.dataset
    return load_classes(
        dataset.label_map,
        num_classes=spec.model.sem_seg_head.num_classes,
        num_things=dataset.num_thing_classes,
        contiguous=dataset.contiguous_id,
        ignore_label=dataset.ignore_label,
    )


def grid_of(spec: Any) -> Grid:
    """The grid of a spec: the stored room, in voxels as large as its side asks for."""
    side = spec.model.frustum3d.grid_dimensions
    voxel = spec.model.projection.voxel_size * STORED_SIDE / side
    return Grid(side, voxel, spec.dataset.depth_min, spec.dataset.depth_max)


def _scene_set(spec: Any, split: str, *, train: bool) -> SceneSet:
    """A split, read and checked.

    Raises:
        DataError: everything that is wrong with it.
    """
    dataset, settings = spec.dataset, _settings(spec, with_planes=split != "test")
    base, json_path = _files_of(dataset, split)
    problems: list[SkillBankError] = []
    data = _tried(problems, lambda: data_folder(base, f"dataset.{split}.base_dir")) or base
    layout = _layout(spec, data)
    records = _tried(problems, lambda: read_split(json_path, layout, f"dataset.{split}.json_path")) or []
    frustum = None
    if settings.needs_volumes and layout.camera is not None:
        frustum = _tried(problems, lambda: _stored_frustum(spec, [base]))
        _tried(problems, lambda: settings.check_camera(FRONT3D_CAMERA, "the camera of 3D-Front"))
    if data.is_dir():
        weight = dataset.augmentation.gen_aug_weight
        if train and weight > 0 and layout.camera is not None:
            records = with_variants(records, data, weight)
        _tried(problems, lambda: check_files(split, records, layout, lambda files: _wanted(files, settings)))
        if not problems:
            _tried(problems, lambda: check_images(split, records, layout, settings.check_camera))
    if problems:
        raise collect(problems, f"the {split} split")
    augmentation = dataset.augmentation
    return SceneSet(
        records=records,
        layout=layout,
        settings=settings,
        resizing=_train_augment(dataset) if train else _eval_size(augmentation),
        frustum=frustum,
        copies=VolumeCopies(Path(dataset.cache_dir) / "volumes") if dataset.cache_dir else None,
        with_truth=not train,
    )


def _tried(problems: list[SkillBankError], work: Callable[[], Result]) -> Result | None:
    """The result of a piece of work; None when it fails, which is noted."""
    try:
        return work()
    except SkillBankError as error:
        problems.append(error)
        return None


def _photos(spec: Any) -> PhotoFolder:
    dataset, key = spec.dataset, "inference.images_dir"
    if not spec.inference.images_dir:
        raise MissingValueError(
            f"{key} is empty; inference needs a folder of images", hint=f"{key}=images", key=key
        )
    shared = dataset.name != "matterport"
    return photo_folder(
        Path(spec.inference.images_dir),
        key=key,
        intrinsics=spec.inference.intrinsics,
        size=_eval_size(dataset.augmentation),
        settings=_settings(spec, with_planes=False),
        shifted=shared,
        has_own_cameras=not shared,
        frustum=_frustum_of_photos(spec) if shared and dataset.enable_3d else None,
    )


def _frustum_of_photos(spec: Any) -> Tensor | None:
    """The stored mask for pictures with the camera of the data set; without the file it is computed."""
    dataset = spec.dataset
    if spec.inference.intrinsics != "dataset":
        return None
    splits = (dataset.test, dataset.val, dataset.train)
    try:
        found = _stored_frustum(spec, [Path(split.base_dir) for split in splits if split.base_dir])
    except MissingFilesError as error:
        log.info("the frustum is computed from the camera: %s", error.message)
        return None
    return None if found is None else torch.from_numpy(found)


def _stored_frustum(spec: Any, bases: Sequence[Path]) -> NDArray[np.bool_] | None:
    path = spec.dataset.frustum_mask_path
    if not path:
        return None
    return read_frustum_mask(find_mask_file(path, bases), spec.model.frustum3d.grid_dimensions)


def _settings(spec: Any, *, with_planes: bool) -> SceneSettings:
    dataset, model = spec.dataset, spec.model
    width, height = dataset.reduced_target_size
    planes = with_planes and dataset.enable_mp_occ and not dataset.enable_3d  # frozen in stage 2
    return SceneSettings(
        grid=grid_of(spec),
        rule=model.compat.voxel_rule,
        target_size=(dataset.target_size[0], dataset.target_size[1]),
        plane=(height, width),
        bins=model.occupancy_head.bins if planes else None,
        occupied_below=model.frustum3d.truncation,
        clip=dataset.truncation_range[1],
        num_classes=model.sem_seg_head.num_classes,
        num_things=dataset.num_thing_classes,
        min_pixels=dataset.min_instance_pixels,
        is_3d=dataset.enable_3d,
    )


def _layout(spec: Any, data: Path) -> Layout:
    dataset = spec.dataset
    rules = Rules(
        num_classes=spec.model.sem_seg_head.num_classes,
        ignore_label=dataset.ignore_label,
        near=dataset.depth_min,
        far=dataset.depth_max,
        bound=dataset.depth_bound,
    )
    return (MatterportLayout if dataset.name == "matterport" else Front3dLayout)(data, rules)


def _files_of(dataset: Any, split: str) -> tuple[Path, Path]:
    """Folder and list of a split.

    Raises:
        MissingValueError: all settings that are empty.
    """
    block = getattr(dataset, split)
    problems: list[SkillBankError] = [
        MissingValueError(
            f"dataset.{split}.{name} is empty; the {split} split needs it",
            hint=f"dataset.{split}.{name}=PATH",
            key=f"dataset.{split}.{name}",
        )
        for name in ("base_dir", "json_path")
        if not getattr(block, name)
    ]
    if problems:
        raise collect(problems, f"dataset.{split}")
    return Path(block.base_dir), Path(block.json_path)


def _wanted(files: SceneFiles, settings: SceneSettings) -> Iterable[Path]:
    """The files of an image that a stage reads and that must be there."""
    yield from (files.image, files.labels, files.depth)
    if files.camera is not None:
        yield files.camera
    if settings.needs_volumes:
        yield files.geometry
    if settings.is_3d:
        yield from (files.segmentation, files.weighting)


def _train_augment(dataset: Any) -> SceneTrainAugment:
    settings = dataset.augmentation
    crop = settings.crop_size if settings.crop_size != _CROP else settings.train_crop_size
    return SceneTrainAugment(
        min_sizes=settings.train_min_size,
        max_size=settings.train_max_size,
        crop_size=(crop[0], crop[1]) if settings.enable_crop else None,
        most_of_one_class=settings.single_category_max_area,
        jitter=settings.color_aug_ssd,
        channels=dataset.img_format,
        flip=settings.random_flip or None,
        flip_prob=settings.random_flip_prob,
    )


def _eval_size(settings: Any) -> SceneSize:
    return SceneSize(min_size=settings.test_min_size, max_size=settings.test_max_size)


def _batch_size(spec: Any, action: str) -> int:
    """Batch of an action; -1, or a spec without that action, takes that of the test split."""
    block = getattr(spec, action, None)
    chosen = -1 if block is None else block.batch_size
    return int(chosen if chosen > 0 else spec.dataset.test.batch_size)


def _check_planes(dataset: Any) -> None:
    plane = dataset.reduced_target_size
    if dataset.depth_size != plane[::-1]:
        height, width = dataset.depth_size
        raise ConflictError(
            f"dataset.depth_size: {height} x {width} (height x width) is not the plane of "
            f"dataset.reduced_target_size, {plane[1]} x {plane[0]}; depth, occupancy and lifting share one",
            hint=f"dataset.reduced_target_size=[{width},{height}]",
            key="dataset.depth_size",
            value=list(dataset.depth_size),
        )
