"""What post-processing says about one image, at the size the image is stored in and on the CPU.

Letters: `n` instances, `H0 W0` image as stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["ImageResult", "InstanceResult", "PanopticResult", "PredictedSegment"]


@dataclass(slots=True)
class PredictedSegment:
    """One segment of a panoptic result.

    Attributes:
        id: value of its pixels in the segment map, counted from 1.
        label: class index.
        score: class probability of its query; of the best one where stuff of several queries was merged.
        area: pixels.
    """

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


class PanopticResult(NamedTuple):
    """Every pixel in at most one segment.

    Attributes:
        segment_map: (H0, W0) int32, `VOID` or the id of a segment.
        segments: in order of id, which is the order of the queries; each has at least one pixel.
    """

    segment_map: Tensor
    segments: list[PredictedSegment]


class InstanceResult(NamedTuple):
    """Instances, best first; they may overlap.

    Attributes:
        labels: (n,) int64, class indices.
        scores: (n,) float32, class probability x mean mask probability inside the mask.
        masks: (n, H0, W0) bool, none empty.
        queries: (n,) int64, where a mask comes from; instances of one query share one mask.
    """

    labels: Tensor
    scores: Tensor
    masks: Tensor
    queries: Tensor


class ImageResult(NamedTuple):
    """All that is predicted for one image.

    Attributes:
        class_map: (H0, W0) int32, class index; `IGNORE` where no class is predicted.
        panoptic: in panoptic mode.
        instances: in instance mode.
    """

    class_map: Tensor
    panoptic: PanopticResult | None = None
    instances: InstanceResult | None = None
