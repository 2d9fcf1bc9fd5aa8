"""From class and mask logits of queries to the segments of an image, their class scores, and depth.

All decisions are made where the logits are; a table with a row for each query is what the host waits for.
Masks of large images go through in blocks, which bounds memory whatever the number of queries.

Letters: `B` batch, `Q` queries, `K` classes, `C` channels, `H W` padded image, `h w` size of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.nvpanoptix3d.outputs import MergedImage, Segment
from skillbank_models.ops.image_result import ImageResult
from skillbank_models.ops.mask_rules import MASK_LEVEL
from skillbank_models.ops.postprocess import CPU_BLOCK, DEVICE_BLOCK, segment_image

__all__ = ["merge_image", "segment_flat", "to_plane", "without_void"]

_NOBODY = -1.0  # below every vote


def to_plane(
    maps: Tensor, *, padded: tuple[int, int], sizes: Sequence[tuple[int, int]], plane: tuple[int, int]
) -> Tensor:
    """Maps of padded images on the image plane of the 3D stage.

    They are resized to half the padded image, cut to half of each image, and resized to the plane where that
    has another size; bilinearly, in float32.

    Args:
        maps: (B, C, ., .), such as mask logits or depth.
        padded: (H, W) that the maps cover.
        sizes: height and width of each image inside H x W.
        plane: (h, w).

    Returns:
        (B, C, h, w).

    Raises:
        ShapeError: an image is larger than the padded one, or there are not as many sizes as images.
    """
    if len(sizes) != len(maps) or any(size[0] > padded[0] or size[1] > padded[1] for size in sizes):
        raise ShapeError(
            f"maps of {len(maps)} images that cover {tuple(padded)}, but sizes {[tuple(x) for x in sizes]}: "
            "one for each is needed, inside what the maps cover",
            hint="pass the size that the network pads to, ImageModel.padded_size",
        )
    half = _resize(maps.float(), (_half(padded[0]), _half(padded[1])))  # (B, C, H / 2, W / 2)
    first = sizes[0]
    if all(tuple(size) == tuple(first) for size in sizes):
        return _resize(half[..., : _half(first[0]), : _half(first[1])], plane)  # (B, C, h, w)
    parts = [
        _resize(one[None, :, : _half(height), : _half(width)], plane)
        for one, (height, width) in zip(half, sizes, strict=True)
    ]  # B x (1, C, h, w)
    return torch.cat(parts)  # (B, C, h, w)


@torch.no_grad()
def merge_image(
    class_logits: Tensor,
    mask_logits: Tensor,
    depth: Tensor,
    *,
    is_thing: Sequence[bool],
    object_mask_threshold: float,
    overlap_threshold: float,
    depth_scale: float,
    resize: Callable[[Tensor], Tensor] | None = None,
) -> MergedImage:
    """Give each pixel to one query, and what is left to the stuff around it.

    A pixel belongs to the query with the highest class score x mask probability, as far as it is inside that
    query's mask. Where any stuff was accepted, pixels of no segment go to the accepted stuff query that is
    highest there.

    Args:
        class_logits: (Q, K + 1), no-object last; class 0 means no object, too.
        mask_logits: (Q, h, w), at the size of the result; with `resize` of any size.
        depth: (h, w) metres.
        is_thing: for each class; stuff of one class becomes one segment.
        object_mask_threshold: queries that do not score higher are dropped.
        overlap_threshold: queries of whose mask a smaller share is their own are dropped.
        depth_scale: depth is limited to 0 to this, metres.
        resize: brings mask logits of some queries to the size of the result.

    Returns:
        Tensors on the device of the logits.

    Source: public documentation of NVPanoptix3D; the published inference code of Mask2Former (MIT). Differs
    from the former: class 0 is never a segment, and depth is limited in images without segments as well.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        scores, labels = class_logits.float().softmax(-1).max(-1)  # (Q,), (Q,)
        classes = class_logits.shape[1] - 1
        taking_part = labels.ne(0) & labels.ne(classes) & (scores > object_mask_threshold)  # (Q,)
        masks = _Masks(mask_logits, scores, (depth.shape[0], depth.shape[1]), resize)
        first = masks.vote(taking_part)
        queries = _accept(first, labels, is_thing, overlap_threshold)
        owner, value = _owners(first, masks.vote(queries.stuff), queries)  # (h, w), (h, w)
        found = owner >= 0
        chosen = owner.clamp(min=0)  # (h, w)
        segment_map = torch.where(found, queries.ids[chosen], 0).int()  # (h, w)
        label_map = torch.where(found, labels[chosen], 0)  # (h, w)
        class_scores = value.new_zeros(classes, *value.shape)  # (K, h, w)
        class_scores.scatter_(0, label_map[None], value[None])
        return MergedImage(
            segment_map=segment_map,
            segments=_segments(queries, labels, scores, is_thing),
            class_scores=class_scores,
            depth=depth.float().clamp(0.0, depth_scale),
        )


def without_void(class_logits: Tensor) -> Tensor:
    """Class logits (..., K + 1) in which class 0 has become a part of no-object."""
    kept = class_logits.float().clone()
    kept[..., -1] = torch.logaddexp(class_logits[..., 0].float(), class_logits[..., -1].float())
    kept[..., 0] = -torch.inf
    return kept


def segment_flat(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    mode: Literal["instance", "semantic"],
    padded: tuple[int, int],
    content: tuple[int, int],
    original: tuple[int, int],
    is_thing: Sequence[bool],
    topk: int,
) -> ImageResult:
    """Class map, and instances in their mode, of one image; class 0 is never predicted.

    Args:
        class_logits: (Q, K + 1), no-object last.
        mask_logits: (Q, ., .), covering the padded image.
        mode: what to find beside the class map.
        padded: (H, W) that the masks cover.
        content: height and width of the image inside H x W.
        original: height and width of the result.
        is_thing: for each class; instances are things.
        topk: instances that are kept.
    """
    return segment_image(
        without_void(class_logits),
        mask_logits,
        mode=mode,
        padded=padded,
        content=content,
        original=original,
        is_thing=torch.tensor(list(is_thing)),
        object_mask_threshold=0.0,
        overlap_threshold=0.0,
        topk=topk,
    )


class _Votes(NamedTuple):
    """What came of the votes for each pixel.

    Attributes:
        winner: (h, w) the query with the highest vote.
        vote: (h, w) that vote; `_NOBODY` where no query voted.
        share: (h, w) mask probability of the winner.
        areas: (Q,) pixels inside the mask of each query that voted, 0 for the others.
    """

    winner: Tensor
    vote: Tensor
    share: Tensor
    areas: Tensor


class _Masks:
    """Masks of all queries, which are given out in blocks at the size of the result."""

    def __init__(
        self,
        logits: Tensor,
        scores: Tensor,
        size: tuple[int, int],
        resize: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._logits, self._scores, self._size, self._resize = logits, scores, size, resize
        block = CPU_BLOCK if logits.device.type == "cpu" else DEVICE_BLOCK
        self._count = max(1, block // max(1, size[0] * size[1]))

    def vote(self, voters: Tensor) -> _Votes:
        """Let the queries (Q,) bool vote on each pixel, with class score x mask probability."""
        device, queries = self._logits.device, len(self._logits)
        vote = torch.full(self._size, _NOBODY, device=device)  # (h, w)
        found = _Votes(
            torch.zeros(self._size, dtype=torch.int64, device=device),
            vote,
            torch.zeros_like(vote),
            torch.zeros(queries, dtype=torch.int64, device=device),
        )
        numbers = torch.arange(queries, device=device)
        if queries > self._count:
            numbers = numbers[voters]  # a wait for the device, which spares work on what does not vote
        for start in range(0, len(numbers), self._count):
            some = numbers[start : start + self._count]
            found = self._with(found, some, voters[some])
        return found

    def _with(self, before: _Votes, some: Tensor, voting: Tensor) -> _Votes:
        """The votes of a block (q,) of queries beside those before it; of equal ones the first wins."""
        logits = self._logits[some]
        masks = (logits if self._resize is None else self._resize(logits)).float().sigmoid()  # (q, h, w)
        areas = (masks >= MASK_LEVEL).flatten(1).sum(1) * voting  # (q,)
        votes = torch.where(_over_pixels(voting), masks * _over_pixels(self._scores[some]), _NOBODY)
        vote, place = votes.max(0)  # (h, w), (h, w)
        better = vote > before.vote
        return _Votes(
            torch.where(better, some[place], before.winner),
            torch.where(better, vote, before.vote),
            torch.where(better, masks.gather(0, place[None])[0], before.share),
            before.areas.index_copy(0, some, areas),
        )


class _Accepted(NamedTuple):
    """What became of each query.

    Attributes:
        ids: (Q,) id of its segment, 0 = none.
        first: (Q,) the query whose segment it is part of; itself but for merged stuff.
        stuff: (Q,) bool, accepted stuff.
    """

    ids: Tensor
    first: Tensor
    stuff: Tensor


def _accept(votes: _Votes, labels: Tensor, is_thing: Sequence[bool], overlap_threshold: float) -> _Accepted:
    """Which queries own enough of their mask, and the numbers of their segments."""
    is_owned = votes.vote > _NOBODY  # (h, w)
    both = is_owned & (votes.share >= MASK_LEVEL)  # (h, w)
    owned, visible = (_count(votes.winner, chosen, len(labels)) for chosen in (is_owned, both))  # (Q,) each
    # visible > 0 means that the other two areas are not empty either
    accepted = (visible > 0) & (owned / votes.areas.clamp(min=1) >= overlap_threshold)  # (Q,)
    things = torch.tensor([*is_thing, False]).to(labels.device, non_blocking=True)  # (K + 1,)
    stuff = accepted & ~things[labels]  # (Q,)
    numbers = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels) & stuff  # (Q, Q)
    first = torch.where(stuff, same.int().argmax(1), numbers)  # (Q,)
    counted = accepted & (first == numbers)
    ids = torch.where(accepted, counted.cumsum(0)[first], 0)  # (Q,)
    return _Accepted(ids, first, stuff)


def _owners(all_votes: _Votes, stuff: _Votes, queries: _Accepted) -> tuple[Tensor, Tensor]:
    """The query whose segment each pixel belongs to, (h, w), -1 where there is none; and its vote, else 0."""
    inside = (all_votes.vote > _NOBODY) & (all_votes.share >= MASK_LEVEL)  # (h, w)
    taken = inside & (queries.ids[all_votes.winner] > 0)
    is_filled = stuff.vote > _NOBODY  # (h, w)
    owner = torch.where(taken, all_votes.winner, torch.where(is_filled, stuff.winner, -1))  # (h, w)
    value = torch.where(taken, all_votes.vote, stuff.vote.clamp(min=0.0))  # (h, w)
    return owner, value


def _segments(queries: _Accepted, labels: Tensor, scores: Tensor, is_thing: Sequence[bool]) -> list[Segment]:
    """Segments in the order of their ids; the only wait for the device."""
    table = torch.stack([queries.ids, queries.first, labels]).double()  # (3, Q)
    found: list[list[float]] = torch.cat([table, scores.double()[None]]).t().tolist()
    segments: dict[int, Segment] = {}
    for query, (number, first, label, score) in enumerate(found):
        if not number:
            continue
        if int(first) == query:
            place = int(label)
            segments[int(number)] = Segment(int(number), query, place, bool(is_thing[place]), score)
        else:
            earlier = segments[int(number)]
            segments[int(number)] = earlier._replace(score=max(earlier.score, score))
    return list(segments.values())


def _count(owner: Tensor, chosen: Tensor, queries: int) -> Tensor:
    """Pixels of each query among the chosen ones, (Q,)."""
    counts = owner.new_zeros(queries)
    return counts.index_add_(0, owner.flatten(), chosen.flatten().to(owner.dtype))


def _over_pixels(values: Tensor) -> Tensor:
    return values[:, None, None]  # (Q, 1, 1)


def _half(length: int) -> int:
    return -(-length // 2)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)  # (B, C, *size)
