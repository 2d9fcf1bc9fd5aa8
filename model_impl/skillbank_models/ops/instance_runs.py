"""Masks of instances as COCO run lengths, which take a hundredth of the memory."""

from __future__ import annotations

from typing import Any

from skillbank_models.data.run_lengths import encode_mask
from skillbank_models.ops.image_result import InstanceResult

__all__ = ["Rle", "encode_masks"]

Rle = dict[str, Any]


def encode_masks(result: InstanceResult) -> list[Rle]:
    """Compressed run lengths of every instance; the counts are text, as JSON needs it.

    Instances of one query share their mask, which is encoded once.
    """
    queries, masks = result.queries.tolist(), result.masks.numpy()  # (n, H0, W0)
    known: dict[int, Rle] = {}
    for place, query in enumerate(queries):
        if query not in known:
            known[query] = encode_mask(masks[place])
    return [known[query] for query in queries]
