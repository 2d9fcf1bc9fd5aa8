"""Data of Mask2Former: from the block `dataset` of a spec to loaders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from skillbank.errors import AnnotationError, MissingFilesError, MissingValueError, SkillBankError, collect
from skillbank_models.data.augment import EvalSize, TrainAugment, padded_side
from skillbank_models.data.batch import MaskTarget, SegmentationBatch
from skillbank_models.data.categories import Categories
from skillbank_models.data.label_map import load_categories, numbered
from skillbank_models.data.loaders import build_loader
from skillbank_models.data.segmentation import Collate, ImageFolder, Normalisation, SegmentationSet
from skillbank_models.data.sources import SplitFiles, annotated_set, categories_from, folder_set

__all__ = ["Mask2FormerData", "calibration_loader", "categories_of", "is_annotated"]

log = logging.getLogger(__name__)

_OWN_KEY = {"coco_panoptic": "panoptic_json", "coco": "instance_json", "ade": "annot_file"}


class Mask2FormerData(pl.LightningDataModule):
    """Loaders of the splits of a spec.

    Training and validation splits are annotated; evaluation measures the validation split; inference reads
    only images, of the test split. A spec without a validation split trains without validation.

    Raises:
        DataError: in `setup`, when the files of a split cannot be used; tells all that was found.
        MissingValueError: in `setup`, when the spec does not name a file that is needed.
    """

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        self._categories: Categories | None = None
        self._sets: dict[str, SegmentationSet | ImageFolder] = {}

    @property
    def categories(self) -> Categories:
        """The classes; files are read for them once."""
        if self._categories is None:
            self._categories = categories_of(self.spec)
        return self._categories

    def setup(self, stage: str) -> None:
        """Read and check what a stage needs."""
        if stage == "fit":
            self._annotated("train", augment=True)
            if is_annotated(self.spec.dataset.val):
                self._annotated("val", augment=False)
            else:
                log.warning("dataset.val names no annotations: this run has no validation")
        elif stage in {"validate", "test"}:
            self._annotated("val", augment=False)
        elif stage == "predict" and "test" not in self._sets:
            self._sets["test"] = _test_images(self.spec.dataset)

    def train_dataloader(self) -> DataLoader[SegmentationBatch]:
        """Augmented images of the training split, shuffled."""
        dataset = self.spec.dataset
        height, width = (padded_side(side) for side in dataset.augmentation.train_crop_size)
        fixed = (height, width) if dataset.augmentation.fixed_padding else None
        return build_loader(
            self._sets["train"],
            collate=_collate(dataset, fixed),
            batch_size=dataset.train.batch_size,
            workers=_workers(dataset, "train"),
            pin_memory=dataset.pin_memory,
            train=True,
            own_share=self.spec.train.use_distributed_sampler,
        )

    def val_dataloader(self) -> DataLoader[SegmentationBatch] | list[Any]:
        """Images of the validation split, with truths; empty when there is none."""
        return self._in_order("val", self.spec.dataset.val.batch_size) if "val" in self._sets else []

    def test_dataloader(self) -> DataLoader[SegmentationBatch]:
        """The same for evaluation, whose batch size `evaluate.batch_size` may give."""
        return self._in_order("val", _batch_size(self.spec, "evaluate", "val"))

    def predict_dataloader(self) -> DataLoader[SegmentationBatch]:
        """Images of the test split, without annotations."""
        return self._in_order("test", _batch_size(self.spec, "inference", "test"))

    def transfer_batch_to_device(
        self, batch: SegmentationBatch, device: torch.device, dataloader_idx: int
    ) -> SegmentationBatch:
        """Images and targets move; truths stay on the host, where they are measured."""
        targets = [
            MaskTarget(*(part.to(device, non_blocking=True) for part in target)) for target in batch.targets
        ]
        return batch._replace(images=batch.images.to(device, non_blocking=True), targets=targets)

    def _in_order(self, split: str, batch_size: int) -> DataLoader[SegmentationBatch]:
        return _ordered_loader(self._sets[split], self.spec.dataset, split, batch_size)

    def _annotated(self, split: str, *, augment: bool) -> None:
        if split in self._sets:
            return
        dataset, task = self.spec.dataset, self.spec.model.mode
        files = _files(dataset, split)
        _check_there(files, split)
        if title := getattr(dataset, split).name:
            log.info("the %s split is %s", split, title)
        used = self.categories.used
        if task == "instance" and not any(self.categories.is_thing(index) for index in used):
            raise AnnotationError(
                f"{dataset.label_map or files.annotations}: no category is a thing, so model.mode instance "
                "has nothing to find",
                hint='"isthing": 1 in the label map, or model.mode=semantic',
                key="dataset.label_map",
            )
        self._sets[split] = annotated_set(
            split,
            files,
            categories=self.categories,
            task=task,
            storage=dataset.dataset_type,
            transform=_augmentation(dataset) if augment else _eval_size(dataset, split),
            with_truth=not augment,
        )


def categories_of(spec: Any) -> Categories:
    """The classes of a spec: of its label map, else of an annotation file, else numbered.

    Raises:
        DataError: a file is missing, wrong, or does not fit `model.sem_seg_head.num_classes`.
    """
    dataset, num_classes = spec.dataset, spec.model.sem_seg_head.num_classes
    contiguous = dataset.contiguous_id
    if dataset.label_map:
        if not Path(dataset.label_map).is_file():
            raise MissingFilesError(
                f"dataset.label_map: there is no label map {dataset.label_map}",
                hint=f"ls {Path(dataset.label_map).parent}; or empty, to take the classes from the data",
                key="dataset.label_map",
                value=dataset.label_map,
            )
        return load_categories(Path(dataset.label_map), contiguous=contiguous, num_classes=num_classes)
    for split in ("train", "val"):
        if is_annotated(getattr(dataset, split)):
            files = _files(dataset, split)
            if files.annotations.is_file():
                return categories_from(files, contiguous=contiguous, num_classes=num_classes)
    log.warning(
        "dataset.label_map is empty and no annotation file is there: classes are numbered, and each counts "
        "as a thing; give dataset.label_map for names, stuff and the ids of the dataset"
    )
    return Categories(tuple(numbered(range(1, num_classes + 1))))


def calibration_loader(spec: Any, *, batch_size: int) -> DataLoader[SegmentationBatch]:
    """Images of `dataset.quant_calibration_dataset`, in the size of the test split.

    Raises:
        MissingValueError: the spec names no folder.
        DataError: the folder has no images, or damaged ones.
    """
    dataset = spec.dataset
    key = "dataset.quant_calibration_dataset.images_dir"
    folder = dataset.quant_calibration_dataset.images_dir
    if not folder:
        raise MissingValueError(
            f"{key} is empty; calibration needs a folder of images", hint=f"{key}=images", key=key
        )
    images = folder_set(Path(folder), key=key, size=_eval_size(dataset, "test"))
    return _ordered_loader(images, dataset, "test", batch_size)


def _ordered_loader(
    images: SegmentationSet | ImageFolder, dataset: Any, split: str, batch_size: int
) -> DataLoader[SegmentationBatch]:
    return build_loader(
        images,
        collate=_collate(dataset, None),
        batch_size=batch_size,
        workers=_workers(dataset, split),
        pin_memory=dataset.pin_memory,
        train=False,
        own_share=False,
    )


def _collate(dataset: Any, fixed_size: tuple[int, int] | None) -> Collate:
    normalisation = Normalisation(mean=dataset.pixel_mean, std=dataset.pixel_std)
    return Collate(normalisation=normalisation, fixed_size=fixed_size)


def _test_images(dataset: Any) -> ImageFolder:
    split, key = dataset.test, "dataset.test.img_dir"
    if not split.img_dir and not split.root_dir:
        raise MissingValueError(
            f"{key} is empty; inference needs a folder of images", hint=f"{key}=images", key=key
        )
    return folder_set(_under(split.root_dir, split.img_dir), key=key, size=_eval_size(dataset, "test"))


def _files(dataset: Any, name: str) -> SplitFiles:
    """Files of a split.

    Raises:
        MissingValueError: all settings that are needed and empty.
    """
    split = getattr(dataset, name)
    kind = split.type or dataset.type
    own = _OWN_KEY[kind]
    annotations = getattr(split, own) or split.annot_file
    wanted = {own: annotations}
    if kind != "ade" and not split.root_dir:
        wanted["img_dir"] = split.img_dir
        if kind == "coco_panoptic":
            wanted["panoptic_dir"] = split.panoptic_dir
    problems: list[SkillBankError] = [
        MissingValueError(
            f"dataset.{name}.{key} is empty; data of type {kind} needs it",
            hint=f"dataset.{name}.{key}=PATH",
            key=f"dataset.{name}.{key}",
        )
        for key, value in wanted.items()
        if not value
    ]
    if problems:
        raise collect(problems, f"dataset.{name}")
    root = split.root_dir
    # JSON lines name their masks relative to the root, and the images too unless img_dir is given
    masks = _under(root, split.panoptic_dir) if kind == "coco_panoptic" else Path(root)
    return SplitFiles(kind, _under(root, annotations), _under(root, split.img_dir), masks)


def _check_there(files: SplitFiles, split: str) -> None:
    """Refuse a missing annotation file under the name of its setting.

    Raises:
        MissingFilesError: there is no such file.
    """
    if files.annotations.is_file():
        return
    key = f"dataset.{split}.{_OWN_KEY[files.kind]}"
    raise MissingFilesError(
        f"{key}: there is no annotation file {files.annotations}",
        hint=f"ls {files.annotations.parent}",
        key=key,
        value=str(files.annotations),
    )


def _under(root: str, path: str) -> Path:
    return Path(root) / path if root else Path(path)


def is_annotated(split: Any) -> bool:
    """Whether a split of a spec names annotations."""
    return bool(split.panoptic_json or split.instance_json or split.annot_file)


def _size(split: Any) -> tuple[int, int] | None:
    return (split.target_size[0], split.target_size[1]) if split.target_size else None


def _augmentation(dataset: Any) -> TrainAugment:
    sizes = dataset.augmentation
    return TrainAugment(
        target_size=_size(dataset.train),
        min_sizes=sizes.train_min_size,
        max_size=sizes.train_max_size,
        crop_size=(sizes.train_crop_size[0], sizes.train_crop_size[1]),
        flip_prob=sizes.random_flip_prob,
        jitter=sizes.color_aug_ssd,
    )


def _eval_size(dataset: Any, split: str) -> EvalSize:
    sizes = dataset.augmentation
    return EvalSize(
        target_size=_size(getattr(dataset, split)), min_size=sizes.test_min_size, max_size=sizes.test_max_size
    )


def _workers(dataset: Any, split: str) -> int:
    own = getattr(dataset, split).num_workers
    return int(dataset.workers if own is None else own)


def _batch_size(spec: Any, action: str, split: str) -> int:
    """Batch of an action; -1, or a spec without that action, takes the split's own."""
    block = getattr(spec, action, None)
    chosen = -1 if block is None else block.batch_size
    return int(chosen if chosen > 0 else getattr(spec.dataset, split).batch_size)
