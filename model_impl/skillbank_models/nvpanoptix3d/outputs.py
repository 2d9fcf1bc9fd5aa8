"""What the network predicts: the contract between its 2D part, its 3D part, losses and results.

Letters: `B` batch, `Q` queries, `C` channels, `D` depth bins, `h w` image plane of the 3D stage, `G` side of
the grid, `N` voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.shared_features import SharedFeatures
from skillbank_models.sparse.tensor import SparseTensor

__all__ = ["FrustumInputs", "FrustumLevel", "FrustumOutput", "ImageOutput", "MergedImage", "Scene", "Segment"]


class ImageOutput(NamedTuple):
    """Output of the 2D part.

    Attributes:
        predictions: classes and masks; mask features are (B, C, h', w') of stride 4 of the resized image.
        queries: (B, Q, C) normalised queries of the last layer, which become 3D mask queries.
        depth: (B, H', W') metres, at the resized image.
        depth_features: (B, C, h'', w'') map of the depth head that the 3D part reads; no channels where
            `appearance` is there.
        pose: (B, 9) translation, quaternion (scalar last), vertical and horizontal field of view in radians.
        occupancy: (B, D, h, w) logits of a surface near the depth of a bin.
        levels: three maps (B, C, ., .), coarse to fine, of the pixel decoder.
        appearance: (B, C + C', h', w') mask features and projected depth features, where they were computed
            along with the rest; None = the 3D part makes them of `depth_features` and the mask features.
    """

    predictions: MaskPredictions
    queries: Tensor
    depth: Tensor
    depth_features: Tensor
    pose: Tensor
    occupancy: Tensor
    levels: list[Tensor]
    appearance: Tensor | None = None


class Segment(NamedTuple):
    """A predicted segment.

    Attributes:
        id: its number in the map, from 1.
        query: the query it came from; of merged stuff the first.
        label: class.
        is_thing: things are counted one by one, stuff is one segment.
        score: class probability, 0..1.
    """

    id: int
    query: int
    label: int
    is_thing: bool
    score: float


@dataclass(slots=True)
class MergedImage:
    """2D panoptic result of one image, at any size.

    Attributes:
        segment_map: (h, w) int32, 0 = no segment.
        segments: those in the map.
        class_scores: (K, h, w) float32: score x mask probability of the pixel's owner, in the channel of its
            class, zero elsewhere.
        depth: (h, w) float32 metres.
    """

    segment_map: Tensor
    segments: list[Segment]
    class_scores: Tensor
    depth: Tensor


class FrustumInputs(NamedTuple):
    """What is lifted into the grid; the first three share their coordinates.

    Attributes:
        distance: (N, 2) sign and magnitude of the distance to the visible surface along z, in voxels.
        appearance: (N, C) mask features and depth features of the voxel's pixel, shared by the voxels of one.
        classes: (N, K) class scores of the voxel's pixel.
        lifted: (N', K + 3) class scores, occupancy, sign and magnitude of the distance to the depth, metres.
        scales: appearance and pooled lifting at strides 2, 4 and 8, (N'', C + K + 3) each; empty without
            `use_multi_scale`.
    """

    distance: SparseTensor
    appearance: SparseTensor | SharedFeatures
    classes: SparseTensor
    lifted: SparseTensor
    scales: list[SparseTensor]


class FrustumLevel(NamedTuple):
    """Prediction of one sparse resolution, before pruning.

    Attributes:
        occupancy: (N, 1) logits.
        embeds: (N, C) mask embedding of a voxel.
        queries: (B, Q, C) queries in the same space; a mask logit is their inner product.
    """

    occupancy: SparseTensor
    embeds: SparseTensor
    queries: Tensor


class FrustumOutput(NamedTuple):
    """Output of the 3D part.

    Attributes:
        occupancy: (B, G/4, G/4, G/4) logits, -inf outside the frustum.
        embeds: (B, C, G/4, G/4, G/4) mask embedding.
        queries: (B, Q, C).
        frustum: (B, G/4, G/4, G/4) bool.
        half: side G/2.
        full: side G; `embeds` only at the voxels of `geometry`.
        geometry: (N, 1) unsigned distance in voxels, clamped to the truncation, at voxels kept as occupied.
    """

    occupancy: Tensor
    embeds: Tensor
    queries: Tensor
    frustum: Tensor
    half: FrustumLevel
    full: FrustumLevel
    geometry: SparseTensor


@dataclass(slots=True)
class Scene:
    """Result of one image, on the CPU.

    Attributes:
        segment_map: (h, w) int32, 0 = none.
        segments: of the 2D map.
        depth: (h, w) float32 metres.
        intrinsics: (3, 3) float64 camera matrix in pixels of the image as stored.
        geometry: (G, G, G) float32 unsigned distance in voxels, the truncation where nothing is; None in
            stage 1.
        semantic_volume: (G, G, G) int32 classes, 0 = none; None in stage 1.
        panoptic_volume: (G, G, G) int32 segment ids, 0 = none; None in stage 1.
        volume_segments: of the volume; ids are its own.
    """

    segment_map: NDArray[np.int32]
    segments: list[Segment]
    depth: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    geometry: NDArray[np.float32] | None
    semantic_volume: NDArray[np.int32] | None
    panoptic_volume: NDArray[np.int32] | None
    volume_segments: list[Segment]
