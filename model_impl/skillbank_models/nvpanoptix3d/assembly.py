"""From predictions of the 3D part to the volumes of an image: distance, classes and segments.

Letters: `B` batch, `Q` queries, `K` classes, `C` channels, `N` voxels, `G` side of the grid, `n` accepted
queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillbank_models.nvpanoptix3d.outputs import FrustumOutput, Segment
from skillbank_models.ops.mask_rules import MASK_LEVEL

__all__ = ["AssembledVolume", "assemble"]

FILL_DISTANCE = 1.5  # voxels; nearer to a surface than this, weaker voxels follow; published merge
REACH = 3  # voxels over which a segment is carried on
PAIRS_AT_ONCE = 2**22  # logits of queries and voxels that exist at a time


class AssembledVolume(NamedTuple):
    """Result of one image in 3D, on the CPU.

    Attributes:
        geometry: (G, G, G) float32 distance to the nearest surface, voxels; the truncation where none is.
        semantic: (G, G, G) int32 classes, 0 = none.
        panoptic: (G, G, G) int32 segment ids, 0 = none.
        segments: those in `panoptic`; ids count from 1 in the order of queries.
    """

    geometry: NDArray[np.float32]
    semantic: NDArray[np.int32]
    panoptic: NDArray[np.int32]
    segments: list[Segment]


class _Owners(NamedTuple):
    """Which query has a voxel.

    Attributes:
        place: (N,) int64, place of the query among the accepted ones.
        share: (N,) mask probability of that query.
    """

    place: Tensor
    share: Tensor


@torch.no_grad()
def assemble(
    output: FrustumOutput,
    class_logits: Tensor,
    *,
    is_thing: Sequence[bool],
    object_mask_threshold: float,
    truncation: float,
) -> list[AssembledVolume]:
    """Merge masks on the voxels that are there; grids are filled at the end.

    A voxel belongs to the query with the highest product of class score and mask probability. Where that
    probability is at least 0.5 it is in the query's segment; near a surface a voxel without a segment follows
    the nearest one that has one. Stuff of one class is one segment. Class 0 and no-object make none.

    Args:
        output: of the frustum decoder.
        class_logits: (B, Q, K + 1) of the same queries, no-object last.
        is_thing: for each of the K classes.
        object_mask_threshold: queries need a higher class score.
        truncation: distance where no voxel is.

    Source: public documentation of NVPanoptix3D; merge of Uni-3D (Zhang et al. 2023). Differs: voxels near a
    surface where no mask is sure follow their neighbours; the published merge gives them to the least unsure
    query, which is arbitrary where masks were never taught.
    """
    with torch.autocast(class_logits.device.type, enabled=False):
        scores, labels = class_logits.float().softmax(-1).max(-1)  # (B, Q), (B, Q)
        nothing = class_logits.shape[-1] - 1
        accepted = (labels != 0) & (labels != nothing) & (scores > object_mask_threshold)  # (B, Q)
        sizes = output.geometry.sites.sizes
        distances = torch.split(output.geometry.features[:, 0].float(), sizes)
        places = torch.split(output.geometry.coords[:, 1:], sizes)
        embeds = torch.split(output.full.embeds.features.float(), sizes)
        # one transfer each: every one is a wait for the device
        table = zip(accepted.cpu(), scores.cpu(), labels.cpu(), strict=True)
        return [
            _assemble_image(
                _Voxels(distances[image], places[image].cpu().numpy(), embeds[image], output.geometry.side),
                output.full.queries[image].float(),
                *facts,
                is_thing=is_thing,
                truncation=truncation,
            )
            for image, facts in enumerate(table)
        ]


class _Voxels(NamedTuple):
    """Voxels of one image.

    Attributes:
        distances: (N,).
        places: (N, 3), on the CPU.
        embeds: (N, C).
        side: G.
    """

    distances: Tensor
    places: NDArray[np.int32]
    embeds: Tensor
    side: int


def _assemble_image(
    voxels: _Voxels,
    queries: Tensor,
    accepted: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    is_thing: Sequence[bool],
    truncation: float,
) -> AssembledVolume:
    chosen = accepted.nonzero()[:, 0]  # (n,), on the CPU as scores and labels
    distances = voxels.distances.cpu().numpy()
    if len(chosen) == 0 or len(distances) == 0:
        none = np.zeros(len(distances), dtype=np.int32)
        return _volumes(voxels, distances, none, none, [], truncation)
    on_device = chosen.to(queries.device)
    weights = scores[chosen].to(queries.device)
    owners = _owners(queries[on_device], weights, voxels.embeds)
    founded = owners.share >= MASK_LEVEL  # (N,)
    founders = torch.bincount(owners.place[founded], minlength=len(chosen)) > 0  # (n,)
    segments, ids = _segments(founders.cpu(), chosen, scores, labels, is_thing)
    id_of = torch.tensor(ids, dtype=torch.int32, device=queries.device)  # (n,), 0 without a segment
    sure = torch.where(founded, id_of[owners.place], 0).cpu().numpy()  # (N,)
    panoptic = _followed(sure, voxels.places, distances <= FILL_DISTANCE)
    class_of = np.zeros(len(segments) + 1, dtype=np.int32)
    class_of[[segment.id for segment in segments]] = [segment.label for segment in segments]
    return _volumes(voxels, distances, class_of[panoptic], panoptic, segments, truncation)


def _owners(queries: Tensor, weights: Tensor, embeds: Tensor) -> _Owners:
    """Queries (n, C) with scores (n,) and voxels (N, C): who has which."""
    places, shares = [], []
    for part in torch.split(embeds, max(1, PAIRS_AT_ONCE // len(queries))):
        share = (part @ queries.t()).sigmoid_()  # (m, n)
        place = (share * weights).argmax(1)  # (m,)
        places.append(place)
        shares.append(share.gather(1, place[:, None])[:, 0])  # (m,)
    return _Owners(torch.cat(places), torch.cat(shares))


def _followed(
    ids: NDArray[np.int32], places: NDArray[np.int32], near: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Ids (N,) in which voxels `near` a surface without a segment have that of the nearest voxel with one."""
    has_one, asks = ids > 0, (ids == 0) & near
    if not has_one.any() or not asks.any():
        return ids
    from scipy.spatial import cKDTree

    away, nearest = cKDTree(places[has_one]).query(places[asks], distance_upper_bound=REACH + 0.5)
    found = np.append(ids[has_one], 0)[nearest]  # the index behind the last says that none is in reach
    filled = ids.copy()
    filled[asks] = np.where(np.isfinite(away), found, 0)
    return filled


def _segments(
    founders: Tensor, chosen: Tensor, scores: Tensor, labels: Tensor, is_thing: Sequence[bool]
) -> tuple[list[Segment], list[int]]:
    """Segments in the order of queries, and the id of each accepted query, 0 where it has none."""
    segments: list[Segment] = []
    of_stuff: dict[int, int] = {}
    ids = [0] * len(chosen)
    for place, query in enumerate(chosen.tolist()):
        if not founders[place]:
            continue
        label, score = int(labels[query]), float(scores[query])
        if not is_thing[label] and label in of_stuff:
            ids[place] = number = of_stuff[label]
            earlier = segments[number - 1]
            segments[number - 1] = earlier._replace(score=max(earlier.score, score))
            continue
        number = len(segments) + 1
        segments.append(Segment(number, query, label, bool(is_thing[label]), score))
        ids[place] = number
        if not is_thing[label]:
            of_stuff[label] = number
    return segments, ids


def _volumes(
    voxels: _Voxels,
    distances: NDArray[np.float32],
    classes: NDArray[np.int32],
    ids: NDArray[np.int32],
    segments: list[Segment],
    truncation: float,
) -> AssembledVolume:
    shape = (voxels.side,) * 3
    geometry = np.full(shape, truncation, dtype=np.float32)
    semantic, panoptic = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    where = tuple(voxels.places.T)
    geometry[where], semantic[where], panoptic[where] = distances, classes, ids
    return AssembledVolume(geometry, semantic, panoptic, segments)
