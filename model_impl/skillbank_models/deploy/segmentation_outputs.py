"""What a deployed segmentation network answers: the part of post-processing that lies inside the graph.

Letters: `B` batch, `Q` queries, `K` classes, `C` mask width, `T` instances kept, `H W` input of the graph,
`h w` mask map.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from skillbank.errors import InvalidValueError
from skillbank_models.layers.predictions import MaskPredictions

__all__ = ["OUTPUTS", "graph_outputs"]

# Names are those of the documented product; `pred_queries` and `pred_no_object` are further ones.
OUTPUTS: Final[dict[str, tuple[str, ...]]] = {
    "semantic": ("pred_masks",),
    "instance": ("pred_masks", "pred_scores", "pred_classes", "pred_queries"),
    "panoptic": ("prob_masks", "pred_masks", "pred_scores", "pred_classes", "pred_no_object"),
}

_AREA_EPSILON = 1e-6  # official instance_inference


def graph_outputs(
    predictions: MaskPredictions, size: tuple[int, int], *, mode: str, topk: int
) -> tuple[Tensor, ...]:
    """Answers of the last layer, masks at the size of the input.

    Args:
        predictions: of the network.
        size: (H, W).
        mode: semantic, instance or panoptic.
        topk: instances T kept in instance mode; at most Q * K.

    Returns:
        In the order of `OUTPUTS`:

        - semantic: class scores (B, K, H, W), the sum over queries of class probability x mask probability.
        - instance: masks (B, T, H, W), 0 or 1; scores (B, T), class probability x mean mask probability
          inside; classes (B, T); queries (B, T), which with the class name an instance. Best class
          probability first.
        - panoptic: score x mask probability (B, Q, H, W); mask probability (B, Q, H, W); score (B, Q) and
          index (B, Q) of the best real class; probability of no-object (B, Q), which a query has to exceed to
          take part.

    Source: Cheng et al. 2022 (Mask2Former), published inference code (MIT), cut where thresholds begin.
    """
    probabilities = predictions.class_logits[-1].float().softmax(-1)  # (B, Q, K + 1)
    classes = probabilities[..., :-1]  # (B, Q, K)
    embeds = predictions.mask_embeds[-1]  # (B, Q, C)
    if mode == "semantic":
        masks = _masks(embeds, predictions.mask_features, size).sigmoid()  # (B, Q, H, W)
        return (torch.einsum("bqk,bqhw->bkhw", classes, masks),)  # (B, K, H, W)
    if mode == "instance":
        count = classes.shape[2]
        best, order = classes.flatten(1).topk(min(topk, classes.shape[1] * count))  # (B, T), (B, T)
        queries = torch.div(order, count, rounding_mode="floor")  # (B, T)
        labels = order - queries * count  # (B, T)
        chosen = embeds.gather(1, queries.unsqueeze(-1).expand(-1, -1, embeds.shape[2]))  # (B, T, C)
        logits = _masks(chosen, predictions.mask_features, size)  # (B, T, H, W)
        inside = (logits > 0).to(logits.dtype)  # (B, T, H, W)
        total = (logits.sigmoid() * inside).sum((2, 3))  # (B, T)
        return inside, best * total / (inside.sum((2, 3)) + _AREA_EPSILON), labels, queries
    if mode == "panoptic":
        scores, labels = classes.max(-1)  # (B, Q), (B, Q)
        masks = _masks(embeds, predictions.mask_features, size).sigmoid()  # (B, Q, H, W)
        return scores[..., None, None] * masks, masks, scores, labels, probabilities[..., -1]
    raise InvalidValueError(
        f"model.mode: {mode!r} cannot be exported; use {', '.join(OUTPUTS)}",
        hint="model.mode=panoptic",
        key="model.mode",
        value=mode,
        allowed=list(OUTPUTS),
    )


def _masks(embeds: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
    logits = torch.einsum("bqc,bchw->bqhw", embeds, features).float()  # (B, Q, h, w)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)  # (B, Q, H, W)
