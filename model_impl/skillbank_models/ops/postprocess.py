"""From class and mask logits of queries to class maps, segments and instances of one image.

Mask logits are enlarged to the padded network input, cut to the image and resized to the size it is stored
in; then the rule of the mode is applied. Queries go through in blocks, which bounds memory whatever their
number. All numbers are float32, also under autocast.

Letters: `Q` queries, `K` classes, `H W` padded input, `h w` mask map, `H0 W0` image as stored.

Source: Cheng et al. 2022 (Mask2Former), section 3 and the published inference code (MIT). Differs: queries in
blocks; areas of all segments counted in one pass; scores and areas are reported; stuff of one class has one
entry; instances are sorted by score and never empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.ops.image_result import ImageResult, InstanceResult, PanopticResult, PredictedSegment
from skillbank_models.ops.mask_rules import InstanceRule, PanopticRule, SemanticSum, classes_of

__all__ = [
    "ImageResult",
    "InstanceResult",
    "Mode",
    "PanopticResult",
    "PredictedSegment",
    "instances",
    "panoptic",
    "resize_masks",
    "segment_image",
    "semantic_map",
    "semantic_scores",
]

Mode = Literal["panoptic", "instance", "semantic"]

# Values in one block of masks: a CPU is fastest with what its caches hold, a GPU with large blocks.
CPU_BLOCK = 1 << 22
DEVICE_BLOCK = 1 << 26
SCORE_VALUES = 1 << 28  # class scores held at once, 1 GiB; more classes are summed in further passes


class _Masks:
    """Masks of all queries, given out in blocks at the size of the stored image."""

    def __init__(
        self,
        logits: Tensor,
        *,
        padded: tuple[int, int],
        content: tuple[int, int],
        original: tuple[int, int],
    ) -> None:
        self.logits = logits
        self.padded, self.content, self.original = padded, content, original
        pixels = max(padded[0] * padded[1], original[0] * original[1], 1)
        block = CPU_BLOCK if logits.device.type == "cpu" else DEVICE_BLOCK
        self._count = max(1, block // pixels)

    def blocks(self, queries: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Position of the first; queries (q,); logits and probabilities, (q, H0, W0) float32."""
        queries = queries.to(self.logits.device)
        for start in range(0, len(queries), self._count):
            some = queries[start : start + self._count]
            logits = resize_masks(
                self.logits[some], padded=self.padded, content=self.content, original=self.original
            )
            yield start, some, logits, logits.sigmoid()


def resize_masks(
    mask_logits: Tensor, *, padded: tuple[int, int], content: tuple[int, int], original: tuple[int, int]
) -> Tensor:
    """Mask logits at the size of the stored image.

    Args:
        mask_logits: (Q, h, w).
        padded: (H, W) of the network input.
        content: height and width of the image inside the padded input.
        original: (H0, W0).

    Returns:
        (Q, H0, W0) float32.

    Raises:
        ShapeError: no (Q, h, w) tensor, or content larger than the padded input.
    """
    if mask_logits.ndim != 3 or content[0] > padded[0] or content[1] > padded[1]:
        raise ShapeError(
            f"masks of shape {tuple(mask_logits.shape)} for content {tuple(content)} in an input of "
            f"{tuple(padded)}: expected (queries, height, width) and content inside the input",
            value=list(mask_logits.shape),
        )
    masks = _resize(mask_logits.float(), padded)[:, : content[0], : content[1]]  # (Q, *content)
    return _resize(masks, original)  # (Q, H0, W0)


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]  # (Q, *size)


def _as_stored(mask_logits: Tensor) -> _Masks:
    """Masks that have the size of the stored image already."""
    size = (int(mask_logits.shape[-2]), int(mask_logits.shape[-1]))
    return _Masks(mask_logits, padded=size, content=size, original=size)


def _probabilities(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """(Q, K + 1) float32, once the shapes fit each other."""
    if class_logits.ndim != 2 or mask_logits.ndim != 3 or len(class_logits) != len(mask_logits):
        raise ShapeError(
            f"class logits {tuple(class_logits.shape)} and mask logits {tuple(mask_logits.shape)}: expected "
            "(queries, classes + 1) and (queries, height, width) of one image",
            hint="take the last layer and one image of the batch",
        )
    if class_logits.shape[1] < 2:
        raise ShapeError(f"class logits {tuple(class_logits.shape)}: expected one column more than classes")
    return class_logits.float().softmax(-1)  # (Q, K + 1)


def _exact(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


def _panoptic_rule(
    probabilities: Tensor, masks: _Masks, is_thing: Tensor, object_threshold: float, overlap: float
) -> PanopticRule:
    scores, labels = probabilities.cpu().max(-1)  # (Q,), (Q,)
    no_object = probabilities.shape[1] - 1
    queries = (labels.ne(no_object) & (scores > object_threshold)).nonzero()[:, 0]  # (n,)
    return PanopticRule(
        queries,
        labels[queries],
        scores[queries],
        is_thing=is_thing.tolist(),
        overlap_threshold=overlap,
        size=masks.original,
        device=masks.logits.device,
    )


def _instance_rule(probabilities: Tensor, masks: _Masks, topk: int, keep: Tensor | None) -> InstanceRule:
    classes = probabilities[:, :-1].cpu()  # (Q, K)
    return InstanceRule(classes, topk=topk, keep=None if keep is None else keep.cpu(), size=masks.original)


def _feed(
    masks: _Masks, rule: PanopticRule | InstanceRule | None, classes: SemanticSum | None, queries: int
) -> None:
    """Hand every mask that somebody needs to those who need it, once."""
    wanted = torch.zeros(0, dtype=torch.int64) if rule is None else rule.queries
    if rule is not None:
        for start, some, logits, probabilities in masks.blocks(wanted):
            if isinstance(rule, PanopticRule):
                rule.add(start, probabilities)
            else:
                rule.add(logits, probabilities)
            if classes is not None:
                classes.add(some, probabilities)
    if classes is not None:
        other = torch.ones(queries, dtype=torch.bool)
        other[wanted] = False
        for _, some, _, probabilities in masks.blocks(other.nonzero()[:, 0]):
            classes.add(some, probabilities)


@torch.no_grad()
def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum over queries of class probability x mask probability.

    Args:
        class_logits: (Q, K + 1), no-object last.
        mask_logits: (Q, H0, W0).

    Returns:
        (K, H0, W0) float32; where masks overlap the sum over classes can exceed 1.
    """
    with _exact(mask_logits.device):
        probabilities = _probabilities(class_logits, mask_logits)
        masks = _as_stored(mask_logits)
        total = SemanticSum(probabilities[:, :-1], masks.original)
        _feed(masks, None, total, len(mask_logits))
        return total.scores()  # (K, H0, W0)


def semantic_map(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Class of every pixel, (H0, W0) int64; arguments as `semantic_scores`.

    With a single class, pixels whose score is not above one half are `IGNORE`.
    """
    return classes_of(semantic_scores(class_logits, mask_logits))  # (H0, W0)


@torch.no_grad()
def instances(
    class_logits: Tensor, mask_logits: Tensor, *, topk: int, keep: Tensor | None = None
) -> InstanceResult:
    """The best (query, class) pairs as instances; one query can give several.

    Args:
        class_logits: (Q, K + 1), no-object last.
        mask_logits: (Q, H0, W0).
        topk: pairs to choose; what is empty or of a class outside `keep` is dropped afterwards.
        keep: (K,) bool, classes to report; None reports all.
    """
    with _exact(mask_logits.device):
        masks = _as_stored(mask_logits)
        rule = _instance_rule(_probabilities(class_logits, mask_logits), masks, topk, keep)
        _feed(masks, rule, None, len(mask_logits))
        return rule.result()


@torch.no_grad()
def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> PanopticResult:
    """One segment map without overlaps.

    Args:
        class_logits: (Q, K + 1), no-object last.
        mask_logits: (Q, H0, W0).
        is_thing: (K,) bool; stuff of one class becomes one segment.
        object_mask_threshold: queries whose best class is no-object, or does not score higher, are dropped.
        overlap_threshold: queries of whose mask a smaller share is visible are dropped.
    """
    with _exact(mask_logits.device):
        masks = _as_stored(mask_logits)
        probabilities = _probabilities(class_logits, mask_logits)
        rule = _panoptic_rule(probabilities, masks, is_thing, object_mask_threshold, overlap_threshold)
        _feed(masks, rule, None, len(mask_logits))
        return rule.result()


@torch.no_grad()
def segment_image(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    mode: Mode,
    padded: tuple[int, int],
    content: tuple[int, int],
    original: tuple[int, int],
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
    topk: int,
    things_only: bool = True,
) -> ImageResult:
    """The result of one image: the class map, which every mode reports, and what the mode adds to it.

    Args:
        class_logits: (Q, K + 1) of the last layer, no-object last.
        mask_logits: (Q, h, w) of the last layer.
        mode: task.
        padded: (H, W) of the network input.
        content: height and width of the image inside the padded input.
        original: (H0, W0).
        is_thing: (K,) bool.
        object_mask_threshold: see `panoptic`.
        overlap_threshold: see `panoptic`.
        topk: see `instances`.
        things_only: report instances of thing classes only.

    Returns:
        Tensors on the CPU.
    """
    masks = _Masks(mask_logits, padded=padded, content=content, original=original)
    with _exact(mask_logits.device):
        probabilities = _probabilities(class_logits, mask_logits)
        rule: PanopticRule | InstanceRule | None = None
        if mode == "panoptic":
            rule = _panoptic_rule(probabilities, masks, is_thing, object_mask_threshold, overlap_threshold)
        elif mode == "instance":
            rule = _instance_rule(probabilities, masks, topk, is_thing if things_only else None)
        class_map = _class_map(masks, probabilities[:, :-1], rule)
    found = rule.result() if rule is not None else None
    return ImageResult(
        class_map,
        panoptic=found if isinstance(found, PanopticResult) else None,
        instances=found if isinstance(found, InstanceResult) else None,
    )


def _class_map(masks: _Masks, classes: Tensor, rule: PanopticRule | InstanceRule | None) -> Tensor:
    """(H0, W0) int32 on the CPU; feeds `rule` on the way."""
    queries, count = classes.shape
    height, width = masks.original
    step = max(2, SCORE_VALUES // max(1, height * width))
    if count <= step:
        total = SemanticSum(classes, masks.original)
        _feed(masks, rule, total, queries)
        return classes_of(total.scores()).int().cpu()  # (H0, W0)
    best = torch.full(masks.original, -1.0, device=masks.logits.device)
    found = torch.zeros(masks.original, dtype=torch.int32, device=masks.logits.device)
    for first in range(0, count, step):
        total = SemanticSum(classes[:, first : first + step], masks.original)
        _feed(masks, rule if first == 0 else None, total, queries)
        scores, winner = total.scores().max(0)  # (H0, W0), (H0, W0)
        better = scores > best  # of equals the first class wins
        found = torch.where(better, (winner + first).int(), found)
        best = torch.where(better, scores, best)
    return found.cpu()  # (H0, W0)
