"""Data sets of segmentation images, and how samples become a batch.

Letters: `B` batch, `M` targets of an image, `h w` its content, `H W` padded batch, `H0 W0` image as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from skillbank_models.data.annotations import Record
from skillbank_models.data.augment import EvalSize, padded_side, resize_image
from skillbank_models.data.batch import MaskTarget, SegmentationBatch, Truth
from skillbank_models.data.categories import Categories
from skillbank_models.data.checks import Reader
from skillbank_models.data.images import read_image
from skillbank_models.data.regions import Regions
from skillbank_models.data.targets import Task, build_targets, build_truth

__all__ = ["Collate", "ImageFolder", "Normalisation", "Sample", "SegmentationSet"]

Transform: TypeAlias = "Callable[[NDArray[np.uint8], Regions], tuple[NDArray[np.uint8], Regions]]"


@dataclass(slots=True)
class Sample:
    """One image on its way into a batch.

    Attributes:
        image: (h, w, 3) uint8, RGB, resized.
        labels: (M,) int64; None where nothing is annotated.
        masks: (M, h, w) bool; likewise.
        original_size: (H0, W0).
        truth: at (H0, W0), for measures; None while training.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    masks: NDArray[np.bool_] | None
    original_size: tuple[int, int]
    file_name: str
    image_id: int | str
    truth: Truth | None


class SegmentationSet(Dataset[Sample]):
    """Annotated images.

    Args:
        records: list or packed.
        image_folder: what the names of the images are relative to.
        transform: image and regions -> the same, resized, perhaps augmented.
        with_truth: keep the annotations at their own size too.
    """

    def __init__(
        self,
        *,
        records: Sequence[Record],
        reader: Reader,
        image_folder: Path,
        transform: Transform,
        task: Task,
        categories: Categories,
        with_truth: bool,
    ) -> None:
        self.records = records
        self.reader = reader
        self.image_folder = image_folder
        self.transform = transform
        self.task = task
        self.categories = categories
        self.with_truth = with_truth

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """The sample at a place.

        Raises:
            DataError: the image or its annotation cannot be used; the message names the file.
        """
        record = self.records[index]
        path = self.image_folder / record.image
        image = read_image(path)  # (H0, W0, 3)
        size = image.shape[0], image.shape[1]
        regions: Regions = self.reader.load(record, size)
        truth = None
        if self.with_truth:
            truth = build_truth(regions, task=self.task, categories=self.categories)
        image, regions = self.transform(image, regions)  # (h, w, 3)
        labels, masks = build_targets(regions, task=self.task, categories=self.categories)
        return Sample(image, labels, masks, size, str(path), record.image_id, truth)


class ImageFolder(Dataset[Sample]):
    """Images without annotations.

    Args:
        names: relative to the folder; they are the ids.
    """

    def __init__(self, *, folder: Path, names: Sequence[str], size: EvalSize) -> None:
        self.folder = folder
        self.names = list(names)
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The sample at a place.

        Raises:
            DataError: the image cannot be read.
        """
        name = self.names[index]
        path = self.folder / name
        image = read_image(path)  # (H0, W0, 3)
        original = image.shape[0], image.shape[1]
        resized = resize_image(image, self.size.window(original))  # (h, w, 3)
        return Sample(resized, None, None, original, str(path), name, None)


class Normalisation:
    """(pixel - mean) / std for each channel.

    Args:
        mean: of R, G, B; in 0 to 255 when a deviation is above 1, else in 0 to 1.
        std: likewise.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        unit = 1.0 if max(std) > 1 else 255.0
        self.mean = [np.float32(value * unit) for value in mean]
        self.std = [np.float32(value * unit) for value in std]

    def into(self, out: Tensor, image: NDArray[np.uint8]) -> None:
        """Write an image (h, w, 3), 0 to 255, into (3, h, w) float32, normalised."""
        planes = out.numpy()  # (3, h, w), the same memory
        for channel, plane in enumerate(planes):
            np.subtract(image[..., channel], self.mean[channel], out=plane)
            plane /= self.std[channel]


class Collate:
    """Samples -> batch, padded at right and bottom with zeros: after normalisation they are the mean colour.

    Args:
        fixed_size: (height, width) every batch is padded to at least; None pads to the largest image.
    """

    def __init__(self, *, normalisation: Normalisation, fixed_size: tuple[int, int] | None) -> None:
        self.normalisation = normalisation
        self.fixed_size = fixed_size

    def __call__(self, samples: Sequence[Sample]) -> SegmentationBatch:
        """A batch with sides that are multiples of 32."""
        sizes = [(sample.image.shape[0], sample.image.shape[1]) for sample in samples]
        least = self.fixed_size or (1, 1)
        height = padded_side(max(least[0], *(size[0] for size in sizes)))
        width = padded_side(max(least[1], *(size[1] for size in sizes)))
        images = torch.zeros(len(samples), 3, height, width)  # (B, 3, H, W)
        for place, (sample, (h, w)) in enumerate(zip(samples, sizes, strict=True)):
            self.normalisation.into(images[place, :, :h, :w], sample.image)
        return SegmentationBatch(
            images=images,
            targets=[
                MaskTarget(torch.from_numpy(sample.labels), _padded(sample.masks, height, width))
                for sample in samples
                if sample.labels is not None and sample.masks is not None
            ],
            sizes=sizes,
            original_sizes=[sample.original_size for sample in samples],
            file_names=[sample.file_name for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            truths=[sample.truth for sample in samples if sample.truth is not None],
        )


def _padded(masks: NDArray[np.bool_], height: int, width: int) -> Tensor:
    count, h, w = masks.shape
    if (h, w) == (height, width):
        return torch.from_numpy(np.ascontiguousarray(masks))  # (M, H, W)
    out = torch.zeros(count, height, width, dtype=torch.bool)
    out[:, :h, :w] = torch.from_numpy(np.ascontiguousarray(masks))
    return out  # (M, H, W)
