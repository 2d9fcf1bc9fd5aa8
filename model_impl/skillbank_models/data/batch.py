"""What a batch of segmentation data holds, and the pixel rules that all readers and measures share.

Letters: `B` batch, `M` ground-truth segments of one image, `H W` padded input, `H0 W0` image as stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["IGNORE", "VOID", "MaskTarget", "SegmentTruth", "SegmentationBatch", "Truth"]

IGNORE = -1  # class map: pixel without a label
VOID = 0  # segment map: pixel of no segment


class MaskTarget(NamedTuple):
    """What one image teaches.

    Attributes:
        labels: (M,) int64, class indices 0..K-1.
        masks: (M, H, W) bool at the padded size of the batch; they may overlap; padding is False.
    """

    labels: Tensor
    masks: Tensor


@dataclass(slots=True)
class SegmentTruth:
    """One annotated segment or instance.

    Attributes:
        id: value of its pixels in the segment map; annotation id for instances.
        label: class index.
        is_crowd: a region of many objects, which is ignored rather than matched.
        area: in pixels; of an instance as annotated, not always whole, else counted.
        rle: compressed COCO run-length mask at (H0, W0), for instances, which may overlap.
    """

    id: int
    label: int
    is_crowd: bool
    area: float
    rle: dict[str, Any] | None = None


@dataclass(slots=True)
class Truth:
    """Annotations of one image at the size it is stored in, for measures.

    Attributes:
        class_map: (H0, W0) int32, class index or `IGNORE`.
        segment_map: (H0, W0) int32, `VOID` or the id of a segment; None where the data has no such map.
        segments: of `segment_map`, or the instances.
    """

    class_map: NDArray[np.int32] | None
    segment_map: NDArray[np.int32] | None
    segments: list[SegmentTruth]


class SegmentationBatch(NamedTuple):
    """Images of one step.

    Attributes:
        images: (B, 3, H, W) float32, normalised RGB; H and W multiples of 32, padded at right and bottom.
        targets: one for each image; empty list where nothing is annotated (inference).
        sizes: (height, width) of the content inside the padded image.
        original_sizes: (H0, W0) after EXIF orientation.
        file_names: path of each image.
        image_ids: id in the annotation file, or the path relative to the image folder.
        truths: for measures; empty list while training and in inference.
    """

    images: Tensor
    targets: list[MaskTarget]
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    file_names: list[str]
    image_ids: list[int | str]
    truths: list[Truth]
