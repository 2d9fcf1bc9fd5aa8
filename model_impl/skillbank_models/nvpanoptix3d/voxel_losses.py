"""Binary cross entropy of mask queries at voxels, without keeping a logit for each pair.

Letters: `n` masks, `N` voxels, `C` channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["mask_loss"]

CHUNK = 2**21  # pairs of mask and voxel at a time


def mask_loss(queries: Tensor, embeds: Tensor, masks: Tensor, weighting: Tensor) -> Tensor:
    """Sum over masks of the weighted mean over voxels of the binary cross entropy.

    A logit is the inner product of a query and an embedding. Some voxels are worked on at a time; the
    derivatives are computed with them, so that of all pairs nothing is left for the backward pass.

    Args:
        queries: (n, C) float32.
        embeds: (N, C) float32, N > 0.
        masks: (n, N) bool.
        weighting: (N,) float32.

    Returns:
        Scalar; gradients flow to queries and embeds.
    """
    found: Tensor = _MaskLoss.apply(queries, embeds, masks, weighting)  # type: ignore[no-untyped-call]
    return found


class _MaskLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, embeds: Tensor, masks: Tensor, weighting: Tensor) -> Tensor:
        learns = any(ctx.needs_input_grad)
        count = max(1, CHUNK // max(1, len(queries)))
        scale = weighting / len(embeds)
        total = queries.new_zeros(())
        to_queries = torch.zeros_like(queries)
        to_embeds = []
        for start in range(0, len(embeds), count):
            part, truth = embeds[start : start + count], masks[:, start : start + count].float()
            weight = scale[start : start + count]
            logits = queries @ part.t()  # (n, m)
            total += (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight).sum()
            if learns:
                slopes = logits.sigmoid_().sub_(truth).mul_(weight)  # (n, m)
                to_queries.addmm_(slopes, part)
                to_embeds.append(slopes.t() @ queries)  # (m, C)
        if learns:
            ctx.save_for_backward(to_queries, torch.cat(to_embeds))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_embeds = ctx.saved_tensors
        return given * to_queries, given * to_embeds, None, None
