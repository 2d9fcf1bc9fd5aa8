"""Results from the outputs of an exported graph, whose masks are at the network input and are no logits.

The graph has applied the sigmoid, and for instances the threshold, before the masks are resized to the stored
image; `ops.postprocess` resizes logits. Edges can therefore differ by a pixel.

Letters: `Q` queries, `K` classes, `n` instances, `H W` padded input, `H0 W0` image as stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.data.batch import IGNORE
from skillbank_models.ops.image_result import ImageResult, InstanceResult, PanopticResult
from skillbank_models.ops.mask_rules import PanopticRule, classes_of
from skillbank_models.ops.postprocess import Mode, resize_masks

__all__ = [
    "REQUIRED",
    "instances_from_masks",
    "panoptic_from_probabilities",
    "segment_exported",
    "semantic_from_scores",
]

BLOCK = 16  # queries resized at a time
# outputs without which there is no result of a mode
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "semantic": ("pred_masks",),
    "instance": ("pred_masks", "pred_scores", "pred_classes"),
    "panoptic": ("prob_masks", "pred_masks", "pred_scores", "pred_classes"),
}


def _stored(maps: Tensor, content: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Maps (n, H, W) cut to the image and resized to (n, H0, W0), float32."""
    padded = (int(maps.shape[-2]), int(maps.shape[-1]))
    return resize_masks(maps, padded=padded, content=content, original=original)  # (n, H0, W0)


def semantic_from_scores(scores: Tensor, *, content: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Class of every pixel, (H0, W0) int64, from class scores (K, H, W)."""
    if scores.shape[0] == 1:
        return classes_of(_stored(scores, content, original))  # (H0, W0)
    best = torch.full(original, -torch.inf, device=scores.device)
    found = torch.zeros(original, dtype=torch.int64, device=scores.device)
    for start in range(0, len(scores), BLOCK):
        value, winner = _stored(scores[start : start + BLOCK], content, original).max(0)  # (H0, W0) each
        better = value > best
        found = torch.where(better, winner + start, found)
        best = torch.where(better, value, best)
    return found  # (H0, W0)


def instances_from_masks(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    content: tuple[int, int],
    original: tuple[int, int],
    keep: Tensor | None = None,
    queries: Tensor | None = None,
) -> InstanceResult:
    """Instances from binary masks.

    Args:
        masks: (n, H, W), 0 or 1.
        scores: (n,) final scores.
        labels: (n,) class indices.
        content: height and width of the image inside the padded input.
        original: (H0, W0).
        keep: (K,) bool, classes to report; None reports all.
        queries: (n,) where a mask comes from; None takes every mask for one of its own.
    """
    labels, scores = labels.long().cpu(), scores.float().cpu()
    order = scores.argsort(descending=True, stable=True)  # (n,)
    if keep is not None:
        order = order[keep.cpu()[labels[order]]]  # (n,)
    binary = torch.zeros(len(order), *original, dtype=torch.bool)  # (n, H0, W0)
    for start in range(0, len(order), BLOCK):
        some = order[start : start + BLOCK].to(masks.device)
        binary[start : start + BLOCK] = (_stored(masks[some], content, original) > 0.5).cpu()
    filled = binary.flatten(1).any(1)  # (n,)
    order, binary = order[filled], binary[filled]
    owners = order if queries is None else queries.long().cpu()[order]
    return InstanceResult(labels[order], scores[order], binary, owners)


def panoptic_from_probabilities(
    probabilities: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    content: tuple[int, int],
    original: tuple[int, int],
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
    keep: Tensor | None = None,
) -> PanopticResult:
    """One segment map without overlaps, by the same rule as `ops.postprocess.panoptic`.

    Args:
        probabilities: (Q, H, W), mask probabilities that are not weighted by the class score.
        scores: (Q,) class scores.
        labels: (Q,) class indices; K or more means no-object.
        content: height and width of the image inside the padded input.
        original: (H0, W0).
        is_thing: (K,) bool.
        object_mask_threshold: queries that do not score higher are dropped.
        overlap_threshold: queries of whose mask a smaller share is visible are dropped.
        keep: (Q,) bool, False where no-object is the most likely class of a query.
    """
    labels, scores = labels.long().cpu(), scores.float().cpu()
    chosen = labels.lt(len(is_thing)) & (scores > object_mask_threshold)  # (Q,)
    if keep is not None:
        chosen &= keep.bool().cpu()
    queries = chosen.nonzero()[:, 0]  # (n,)
    rule = PanopticRule(
        queries,
        labels[queries],
        scores[queries],
        is_thing=is_thing.tolist(),
        overlap_threshold=overlap_threshold,
        size=original,
        device=probabilities.device,
    )
    for start in range(0, len(queries), BLOCK):
        some = queries[start : start + BLOCK].to(probabilities.device)
        rule.add(start, _stored(probabilities[some], content, original))
    return rule.result()


@torch.no_grad()
def segment_exported(
    outputs: Mapping[str, Tensor],
    *,
    mode: Mode,
    content: tuple[int, int],
    original: tuple[int, int],
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
    things_only: bool = True,
) -> ImageResult:
    """The result of one image from the named outputs of an exported graph.

    A class map is always filled. In instance mode each pixel takes the class of the best instance on it; in
    panoptic mode a class scores the sum of the weighted masks of the queries that have it.

    Args:
        outputs: those of one image, without batch axis: semantic ``pred_masks`` (K, H, W); instance
            ``pred_masks`` (n, H, W), ``pred_scores`` (n,), ``pred_classes`` (n,) and, where the graph has
            it, ``pred_queries`` (n,); panoptic ``prob_masks`` and
            ``pred_masks`` (Q, H, W), ``pred_scores`` (Q,), ``pred_classes`` (Q,) and, where the graph has it,
            ``keep`` (Q,).
        mode: task that the graph was exported for.
        content: height and width of the image inside the padded input.
        original: (H0, W0).
        is_thing: (K,) bool.
        object_mask_threshold: see `panoptic_from_probabilities`.
        overlap_threshold: see `panoptic_from_probabilities`.
        things_only: report instances of thing classes only.

    Raises:
        ShapeError: an output of this mode is missing.
    """
    missing = [name for name in REQUIRED[mode] if name not in outputs]
    if missing:
        raise ShapeError(
            f"exported graph: {', '.join(missing)} missing for mode {mode}; it gives "
            f"{', '.join(sorted(outputs))}",
            hint=f"export the model again with -o model.mode={mode}",
        )
    masks = outputs["pred_masks"]
    if mode == "semantic":
        return ImageResult(semantic_from_scores(masks, content=content, original=original).int().cpu())
    scores, labels = outputs["pred_scores"], outputs["pred_classes"].long()
    if mode == "instance":
        keep = is_thing if things_only else None
        found = instances_from_masks(
            masks,
            scores,
            labels,
            content=content,
            original=original,
            keep=keep,
            queries=outputs.get("pred_queries"),
        )
        return ImageResult(_painted(found, original), instances=found)
    segments = panoptic_from_probabilities(
        masks,
        scores,
        labels,
        content=content,
        original=original,
        is_thing=is_thing,
        object_mask_threshold=object_mask_threshold,
        overlap_threshold=overlap_threshold,
        keep=outputs.get("keep"),
    )
    weighted = _by_class(outputs["prob_masks"], labels, len(is_thing))
    return ImageResult(
        semantic_from_scores(weighted, content=content, original=original).int().cpu(), panoptic=segments
    )


def _painted(found: InstanceResult, original: tuple[int, int]) -> Tensor:
    """(H0, W0) int32, the class of the best instance on each pixel."""
    class_map = torch.full(original, IGNORE, dtype=torch.int32)
    for place in range(len(found.labels) - 1, -1, -1):
        class_map[found.masks[place]] = int(found.labels[place])
    return class_map


def _by_class(masks: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, H, W): the masks (Q, H, W) summed by class; no-object is left out."""
    total = masks.new_zeros(classes + 1, *masks.shape[1:], dtype=torch.float32)  # (K + 1, H, W)
    total.index_add_(0, labels.clamp(max=classes), masks.float())
    return total[:-1]  # (K, H, W)
