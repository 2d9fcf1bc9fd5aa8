"""Masks of instances as COCO run lengths, which take a hundredth of the memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from skillbank_models.ops.image_result import InstanceResult

__all__ = ["Rle", "encode_masks"]

Rle = dict[str, Any]


def encode_masks(result: InstanceResult) -> list[Rle]:
    """Compressed COCO run lengths of every instance; the counts are text, as JSON needs it.

    Instances of one query share their mask, which is encoded once.
    """
    from pycocotools import mask as coco

    queries, masks = result.queries.tolist(), result.masks.numpy()
    known: dict[int, Rle] = {}
    for place, query in enumerate(queries):
        if query not in known:
            rle = coco.encode(np.asfortranarray(masks[place].view(np.uint8)))
            known[query] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    return [known[query] for query in queries]
