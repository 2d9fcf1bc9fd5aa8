"""Which query answers for which ground-truth mask: the cheapest one-to-one assignment.

Letters: `L` supervised predictions, `B` batch, `Q` queries, `K` classes, `C` mask width, `h w` mask map, `M`
ground-truth masks of one image, `P` points.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skillbank.errors import ShapeError
from skillbank_models.data.batch import MaskTarget
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.ops.point_sampling import (
    CHUNK,
    PointSource,
    sample_maps,
    sample_masks,
    uniform_points,
)

__all__ = ["HungarianMatcher", "Match", "pair_costs"]

log = logging.getLogger(__name__)

_LISTED = 10


class Match(NamedTuple):
    """The pairs of one image; every layer has n = min(Q, M) of them.

    Attributes:
        queries: (L, n) int64.
        rows: (L, n) int64, index of the ground-truth mask.
    """

    queries: Tensor
    rows: Tensor


class HungarianMatcher(nn.Module):
    """Assigns ground-truth masks to queries, for all layers and images with a single wait for the device.

    The cost of a pair is ``class_weight * -p(class) + mask_weight * BCE + dice_weight * dice``, the last two
    at random points that all layers, queries and masks of an image share. Full masks are never built.

    Args:
        class_weight: weight of the class probability.
        mask_weight: weight of the binary cross entropy.
        dice_weight: weight of the dice term.
        num_points: points for each image.
        points: where they come from.

    Source: Cheng et al. 2022, section 3.3 and appendix; Carion et al. 2020 for the assignment.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int,
        points: PointSource = uniform_points,
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.points = points

    @torch.no_grad()
    def forward(self, predictions: MaskPredictions, targets: Sequence[MaskTarget]) -> list[Match]:
        """Match every layer.

        A cost that is not a number is replaced by one above all others, with a warning; such a pair is taken
        only where nothing else is left.

        Args:
            predictions: of L layers.
            targets: one for each image; without masks, or with more masks than queries, is fine.

        Returns:
            One match for each image, on the device of the predictions; queries in increasing order.

        Raises:
            ShapeError: as many targets as images are needed, and as many labels as masks.
        """
        _check(predictions, targets)
        device = predictions.mask_embeds.device
        with torch.autocast(device.type, enabled=False):
            costs = [self._image_costs(predictions, image, target) for image, target in enumerate(targets)]
        # one transfer for everything: each is a wait for the device
        table = torch.cat(costs, dim=2).cpu().numpy()  # (L, Q, sum of M)
        ends = np.cumsum([cost.shape[2] for cost in costs])[:-1]
        tables = np.split(table, ends, axis=2)
        if not np.isfinite(table).all():
            _warn(tables)
            tables = [_finite(part) for part in tables]
        pairs = [_assign(part) for part in tables]  # each (2, L, n)
        counts = [found.shape[2] for found in pairs]
        moved = torch.from_numpy(np.concatenate(pairs, axis=2)).to(device)  # (2, L, sum of n)
        return [Match(found[0], found[1]) for found in torch.split(moved, counts, dim=2)]

    def _image_costs(self, predictions: MaskPredictions, image: int, target: MaskTarget) -> Tensor:
        """Cost of every query for every mask of one image, (L, Q, M)."""
        embeds = predictions.mask_embeds[:, image].float()  # (L, Q, C)
        layers, queries, _ = embeds.shape
        if len(target.labels) == 0:
            return embeds.new_zeros(layers, queries, 0)
        points = self.points(1, self.num_points, embeds.device)  # (1, P, 2)
        features = sample_maps(predictions.mask_features[image : image + 1].float(), points)[0]  # (C, P)
        truth = sample_masks(target.masks, points[0])  # (M, P)
        mask_cost = pair_costs(
            embeds.flatten(0, 1),
            features,
            truth,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
        ).view(layers, queries, -1)  # (L, Q, M)
        classes = predictions.class_logits[:, image].float().softmax(-1)  # (L, Q, K + 1)
        return mask_cost - self.class_weight * classes[..., target.labels]


def pair_costs(
    embeds: Tensor, features: Tensor, truth: Tensor, *, mask_weight: float, dice_weight: float
) -> Tensor:
    """Weighted BCE plus dice of every embedding with every mask, at points.

    BCE is ``softplus(x) - x t``, so that one sum over the points and one matrix product give all pairs.

    Args:
        embeds: (N, C).
        features: (C, P).
        truth: (M, P) in 0..1.
        mask_weight: weight of BCE, a mean over the points.
        dice_weight: weight of ``1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)``.

    Returns:
        (N, M).
    """
    count = truth.shape[1]
    by_mask = truth.t()  # (P, M)
    area = truth.sum(1)  # (M,)
    parts = []
    for part in torch.split(embeds, max(1, CHUNK // count)):
        logits = part @ features  # (n, P)
        cost = (F.softplus(logits).sum(1, keepdim=True) - logits @ by_mask) * (mask_weight / count)  # (n, M)
        share = logits.sigmoid_()  # (n, P)
        both = 2.0 * (share @ by_mask) + 1.0  # (n, M)
        parts.append(cost + dice_weight * (1.0 - both / (share.sum(1, keepdim=True) + area + 1.0)))
    return torch.cat(parts)  # (N, M)


def _assign(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Cheapest pairs of each layer, (2, L, n): queries, then rows."""
    from scipy.optimize import linear_sum_assignment

    layers, queries, rows = costs.shape
    out = np.empty((2, layers, min(queries, rows)), dtype=np.int64)
    for layer, cost in enumerate(costs):
        out[0, layer], out[1, layer] = linear_sum_assignment(cost)
    return out


def _finite(costs: NDArray[np.float32]) -> NDArray[np.float64]:
    """The costs with a number above all others for what is none.

    Just so large that one such pair outweighs any choice among the others: a far larger number would swallow
    the differences between those in rounding.
    """
    good = np.isfinite(costs)
    known = costs[good].astype(np.float64)
    spread = float(known.max() - known.min()) if known.size else 0.0
    worst = (float(known.max()) if known.size else 0.0) + (spread + 1.0) * (min(costs.shape[1:]) + 1)
    return np.where(good, costs, worst).astype(np.float64)


def _warn(tables: Sequence[NDArray[np.float32]]) -> None:
    places = []
    for image, table in enumerate(tables):
        bad = (~np.isfinite(table)).sum(axis=(1, 2))
        places += [
            f"layer {layer}, image {image} ({count} of {table[layer].size})"
            for layer, count in enumerate(bad)
            if count
        ]
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    log.warning(
        "matching: costs that are not finite in %s%s; these pairs are matched last. The predictions hold NaN "
        "or infinity: lower train.optim.lr, or use train.precision=bf16 or fp32 instead of fp16",
        "; ".join(places[:_LISTED]),
        more,
    )


def _check(predictions: MaskPredictions, targets: Sequence[MaskTarget]) -> None:
    images = predictions.mask_features.shape[0]
    if len(targets) != images:
        raise ShapeError(f"targets: {len(targets)} for a batch of {images} images; one for each is needed")
    for image, target in enumerate(targets):
        if target.masks.ndim != 3 or len(target.masks) != len(target.labels):
            raise ShapeError(
                f"targets[{image}]: masks of shape {tuple(target.masks.shape)} with {len(target.labels)} "
                "labels; masks are (M, H, W), labels (M,)"
            )
