"""What a change of the network costs: measures before and after, or agreement where nothing is annotated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch

from skillbank_models.data.batch import SegmentationBatch
from skillbank_models.data.categories import Categories
from skillbank_models.mask2former.data import Mask2FormerData, calibration_loader
from skillbank_models.mask2former.deployed import thing_flags
from skillbank_models.mask2former.model import Mask2Former
from skillbank_models.mask2former.segmenting import segment_batch
from skillbank_models.metrics.segmentation import SegmentationMeasures
from skillbank_models.ops.image_result import ImageResult

__all__ = ["Segmenter", "TorchSegmenter", "agreement", "measure", "sample_batches"]

Segmenter: TypeAlias = Callable[[SegmentationBatch], list[ImageResult]]

_NOISE_SIDE = 128  # of the random image that stands in where a spec names none


class TorchSegmenter:
    """The network with the post-processing of a spec.

    Args:
        network: in eval mode.
        spec: thresholds and mode are read from its `model` block.
        categories: class index -> category.
        device: where to run.
    """

    def __init__(
        self, network: Mask2Former, *, spec: Any, categories: Categories, device: torch.device
    ) -> None:
        self.network = network.to(device).eval()
        self.settings = spec.model
        self.device = device
        self.is_thing = thing_flags(categories, spec.model.sem_seg_head.num_classes)  # (K,)

    @torch.no_grad()
    def __call__(self, batch: SegmentationBatch) -> list[ImageResult]:
        """The result of each image of a batch, at its stored size and on the CPU."""
        predictions = self.network(batch.images.to(self.device), all_layers=False)
        return segment_batch(predictions, batch, settings=self.settings, is_thing=self.is_thing)


def measure(spec: Any, segment: Segmenter, *, check_stop: Callable[[], None]) -> dict[str, float]:
    """Numbers of the validation split, under the names of the specs; the same on every call.

    Args:
        check_stop: called between batches; may raise.
    """
    data = Mask2FormerData(spec)
    data.setup("validate")
    measures = SegmentationMeasures(
        mode=spec.model.mode, categories=data.categories, num_classes=spec.model.sem_seg_head.num_classes
    )
    for batch in data.val_dataloader():
        check_stop()
        for place, result in enumerate(segment(batch)):
            measures.update(batch.image_ids[place], batch.original_sizes[place], result, batch.truths[place])
    return measures.reduce_and_compute()


def agreement(batches: Iterable[SegmentationBatch], first: Segmenter, second: Segmenter) -> dict[str, float]:
    """Share of pixels, 0 to 1, to which two networks give the same class; mean and lowest over images."""
    shares: list[float] = []
    for batch in batches:
        for one, other in zip(first(batch), second(batch), strict=True):
            shares.append(float((one.class_map == other.class_map).float().mean()))
    return {
        "images": len(shares),
        "mean_pixel_agreement": sum(shares) / len(shares),
        "lowest_pixel_agreement": min(shares),
    }


def sample_batches(spec: Any, *, most: int) -> tuple[Iterator[SegmentationBatch], str]:
    """Up to `most` calibration images one by one, and what they are; noise where the spec names no folder."""
    if spec.dataset.quant_calibration_dataset.images_dir:
        loader = calibration_loader(spec, batch_size=1)
        return (batch for _, batch in zip(range(most), loader, strict=False)), "calibration images"
    side = (_NOISE_SIDE, _NOISE_SIDE)
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, *side, generator=draws)  # (1, 3, H, W)
    noise = SegmentationBatch(images, [], [side], [side], ["noise"], ["noise"], [])
    return iter([noise]), "one image of noise, for the spec names neither annotations nor calibration images"
