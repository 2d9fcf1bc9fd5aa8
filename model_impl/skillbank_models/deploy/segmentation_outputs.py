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
from skillbank_models.ops.exported_masks import REQUIRED
from skillbank_models.ops.mask_rules import AREA_EPSILON

__all__ = ["OUTPUTS", "graph_outputs"]

# Names of the documented product, which results need, and three further ones.
OUTPUTS: Final[dict[str, tuple[str, ...]]] = {
    "semantic": REQUIRED["semantic"],
    "instance": (*REQUIRED["instance"], "pred_queries", "class_probs", "mask_logits"),
    "panoptic": (*REQUIRED["panoptic"], "class_probs", "mask_logits"),
}


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
          index (B, Q) of the best real class.
        - the last two besides: class probabilities (B, Q, K + 1), no-object last, and mask logits
          (B, Q, h, w). A query takes part in a panoptic result when its score exceeds that of no-object;
          and a class map needs all classes of a query.

    Raises:
        InvalidValueError: there is no such mode.

    Source: Cheng et al. 2022 (Mask2Former), published inference code (MIT), cut where thresholds begin.
    """
    probabilities = predictions.class_logits[-1].float().softmax(-1)  # (B, Q, K + 1)
    classes = probabilities[..., :-1]  # (B, Q, K)
    logits = predictions.mask_logits().float()  # (B, Q, h, w)
    if mode == "semantic":
        masks = _enlarged(logits, size).sigmoid()  # (B, Q, H, W)
        return (torch.einsum("bqk,bqhw->bkhw", classes, masks),)  # (B, K, H, W)
    if mode == "instance":
        return *_instances(classes, logits, size, topk), probabilities, logits
    if mode == "panoptic":
        scores, labels = classes.max(-1)  # (B, Q), (B, Q)
        masks = _enlarged(logits, size).sigmoid()  # (B, Q, H, W)
        return scores[..., None, None] * masks, masks, scores, labels, probabilities, logits
    raise InvalidValueError(
        f"model.mode: {mode!r} cannot be exported; use {', '.join(OUTPUTS)}",
        hint="model.mode=panoptic",
        key="model.mode",
        value=mode,
        allowed=list(OUTPUTS),
    )


def _instances(classes: Tensor, logits: Tensor, size: tuple[int, int], topk: int) -> tuple[Tensor, ...]:
    count = classes.shape[2]
    best, order = classes.flatten(1).topk(min(topk, classes.shape[1] * count))  # (B, T), (B, T)
    queries = torch.div(order, count, rounding_mode="floor")  # (B, T)
    labels = order - queries * count  # (B, T)
    places = queries[..., None, None].expand(-1, -1, *logits.shape[2:])  # (B, T, h, w)
    masks = _enlarged(logits.gather(1, places), size)  # (B, T, H, W)
    inside = (masks > 0).to(masks.dtype)  # (B, T, H, W)
    total = (masks.sigmoid() * inside).sum((2, 3))  # (B, T)
    return inside, best * total / (inside.sum((2, 3)) + AREA_EPSILON), labels, queries


def _enlarged(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)  # (B, Q, H, W)
