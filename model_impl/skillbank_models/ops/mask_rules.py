"""The rules that turn masks of queries into class maps, segments and instances, fed a few queries at a time.

Each rule is given blocks of full-size masks through `add` and holds only what it needs of them, so the masks
of all queries are never in memory together. What decides is small and lives on the CPU; the only large thing
that leaves the device is the finished map.

Letters: `Q` queries, `q` queries of one block, `K` classes, `n` instances or kept queries, `H0 W0` image as
stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skillbank_models.data.batch import IGNORE, VOID
from skillbank_models.ops.image_result import InstanceResult, PanopticResult, PredictedSegment

__all__ = ["AREA_EPSILON", "MASK_LEVEL", "InstanceRule", "PanopticRule", "SemanticSum", "classes_of"]

MASK_LEVEL = 0.5  # a pixel is inside a mask from this probability on; official panoptic_inference
BINARY_LEVEL = 0.5  # a single class has nothing to be compared with, so its score must pass this
AREA_EPSILON = 1e-6  # official instance_inference


def classes_of(scores: Tensor) -> Tensor:
    """Class of each pixel, (H0, W0) int64, from scores (K, H0, W0).

    A single class is foreground where its score exceeds one half, and `IGNORE` elsewhere.
    """
    if scores.shape[0] == 1:
        return torch.where(scores[0] > BINARY_LEVEL, 0, IGNORE)  # (H0, W0)
    return scores.argmax(0)  # (H0, W0)


class SemanticSum:
    """Class scores: the sum over queries of class probability x mask probability.

    Args:
        class_probabilities: (Q, k), softmax without no-object; any slice of the classes.
        size: (H0, W0).
    """

    def __init__(self, class_probabilities: Tensor, size: tuple[int, int]) -> None:
        self._classes = class_probabilities
        self._size = size
        self._sum = class_probabilities.new_zeros(class_probabilities.shape[1], size[0] * size[1])

    def add(self, queries: Tensor, masks: Tensor) -> None:
        """Count in some `queries` (q,), whose mask probabilities are `masks` (q, H0, W0)."""
        self._sum.addmm_(self._classes[queries].t(), masks.flatten(1))  # (k, H0 W0)

    def scores(self) -> Tensor:
        """(k, H0, W0)."""
        return self._sum.view(-1, *self._size)  # (k, H0, W0)


class PanopticRule:
    """Each pixel goes to the query with the highest class score x mask probability.

    Args:
        queries: (n,) the queries that take part, in order.
        labels: (n,) their class indices.
        scores: (n,) their class scores.
        is_thing: for each class; stuff of one class becomes one segment.
        overlap_threshold: queries of whose mask a smaller share is visible are dropped.
        size: (H0, W0).
        device: where the masks are.
    """

    def __init__(
        self,
        queries: Tensor,
        labels: Tensor,
        scores: Tensor,
        *,
        is_thing: Sequence[bool],
        overlap_threshold: float,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.queries = queries
        self._labels: list[int] = labels.tolist()
        self._scores: list[float] = scores.tolist()
        self._is_thing = is_thing
        self._overlap = overlap_threshold
        self._weights = scores.to(device)
        self._best = torch.full(size, -1.0, device=device)
        self._owner = torch.zeros(size, dtype=torch.int32, device=device)  # 2 x position + inside its mask
        self._full_areas: list[Tensor] = []

    def add(self, start: int, masks: Tensor) -> None:
        """Let the queries from position `start` on vote; `masks` (q, H0, W0) are their probabilities."""
        inside = masks >= MASK_LEVEL
        self._full_areas.append(inside.flatten(1).sum(1))  # (q,)
        votes = masks * self._weights[start : start + len(masks), None, None]
        best, winner = votes.max(0)  # (H0, W0), (H0, W0)
        taken = inside.gather(0, winner[None])[0]  # (H0, W0)
        better = best > self._best  # of equals the first query wins
        self._owner = torch.where(better, ((winner + start) * 2 + taken).int(), self._owner)
        self._best = torch.where(better, best, self._best)

    def result(self) -> PanopticResult:
        """Drop what is mostly hidden, merge stuff of one class and number the rest from 1."""
        if not self._full_areas:
            return PanopticResult(torch.full(self._owner.shape, VOID, dtype=torch.int32), [])
        full = torch.cat(self._full_areas).tolist()
        owner = self._owner.cpu().numpy()  # (H0, W0)
        areas = np.bincount(owner.reshape(-1), minlength=2 * len(full)).reshape(-1, 2)  # (n, 2)
        owned, visible = areas.sum(1).tolist(), areas[:, 1].tolist()
        numbers = np.full(2 * len(full), VOID, dtype=np.int32)
        segments: list[PredictedSegment] = []
        stuff: dict[int, PredictedSegment] = {}
        for place, (label, score) in enumerate(zip(self._labels, self._scores, strict=True)):
            # visible > 0 means that the owned area and the full area are not empty either
            if not visible[place] or owned[place] / full[place] < self._overlap:
                continue
            segment = stuff.get(label)
            if segment is None:
                segment = PredictedSegment(len(segments) + 1, label, self._is_thing[label], score, 0)
                segments.append(segment)
                if not segment.is_thing:
                    stuff[label] = segment
            segment.area += visible[place]
            segment.score = max(segment.score, score)
            numbers[2 * place + 1] = segment.id
        return PanopticResult(torch.from_numpy(numbers[owner]), segments)  # (H0, W0)


class InstanceRule:
    """The best (query, class) pairs, each with the binary mask of its query.

    Args:
        class_probabilities: (Q, K) on the CPU, without no-object.
        topk: how many pairs; fewer where there are not as many.
        keep: (K,) bool on the CPU, classes to report; applied to the chosen pairs, as the authors do.
        size: (H0, W0).
    """

    def __init__(
        self, class_probabilities: Tensor, *, topk: int, keep: Tensor | None, size: tuple[int, int]
    ) -> None:
        flat = class_probabilities.flatten()  # (Q K,)
        scores, order = flat.topk(min(topk, len(flat)))  # (n,), (n,)
        classes = class_probabilities.shape[1]
        owners, labels = order // classes, order % classes
        if keep is not None:
            chosen = keep[labels]
            owners, labels, scores = owners[chosen], labels[chosen], scores[chosen]
        used, places = np.unique(owners.numpy(), return_inverse=True)
        self.queries, self._places = torch.from_numpy(used), torch.from_numpy(places)
        self._labels, self._scores = labels, scores
        self._size = size
        self._masks: list[Tensor] = []
        self._quality: list[Tensor] = []

    def add(self, logits: Tensor, masks: Tensor) -> None:
        """Take the masks of the next `queries`: `logits` and probabilities `masks`, (q, H0, W0)."""
        inside = logits > 0
        area = inside.flatten(1).sum(1)  # (q,)
        total = (masks * inside).flatten(1).sum(1)  # (q,)
        self._quality.append(total / (area + AREA_EPSILON))
        self._masks.append(inside)

    def result(self) -> InstanceResult:
        """Instances that are not empty, best first."""
        if not self._masks:
            none = torch.zeros(0, dtype=torch.int64)
            return InstanceResult(none, torch.zeros(0), torch.zeros(0, *self._size, dtype=torch.bool), none)
        quality = torch.cat(self._quality).cpu()  # (masks,); 0 where a mask is empty
        masks = torch.cat(self._masks).cpu()  # (masks, H0, W0)
        scores = self._scores * quality[self._places]  # (n,)
        order = scores.argsort(descending=True, stable=True)  # (n,)
        order = order[quality[self._places[order]] > 0]  # (n,)
        places = self._places[order]
        return InstanceResult(self._labels[order], scores[order], masks[places], self.queries[places])
