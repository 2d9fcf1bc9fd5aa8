"""Binary cross entropy and dice of matched pairs at chosen points, without keeping what autograd would keep.

Letters: `N` pairs, `C` mask width, `h w` mask map, `M` ground-truth masks, `H W` their size, `P` points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skillbank_models.ops.point_sampling import sample_maps, sample_masks, spread_to_maps

__all__ = ["pair_losses"]


def pair_losses(
    embeds: Tensor,
    features: Tensor,
    masks: Tensor,
    rows: Tensor,
    *,
    choose: Callable[[Tensor], Tensor],
    at_once: int,
) -> tuple[Tensor, Tensor]:
    """Compare predicted masks with their ground truth.

    A few pairs are worked on at a time, and of each only points, logits and truth are kept for the backward
    pass: neither its map nor what lies between.

    Args:
        embeds: (N, C) float32, of the matched queries.
        features: (C, h, w) float32, of the image.
        masks: (M, H, W), bool or uint8 with 0 and 1.
        rows: (N,) int64, the mask each pair is about.
        choose: (n, h, w) mask logits -> (n, P, 2) points for them.
        at_once: pairs at a time.

    Returns:
        Mean binary cross entropy and dice loss of each pair, (N,) both; gradients flow to embeds, features.
    """
    found: tuple[Tensor, Tensor] = _PairLosses.apply(  # type: ignore[no-untyped-call]
        embeds, features, masks, rows, choose, at_once
    )
    return found


class _PairLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeds: Tensor,
        features: Tensor,
        masks: Tensor,
        rows: Tensor,
        choose: Callable[[Tensor], Tensor],
        at_once: int,
    ) -> tuple[Tensor, Tensor]:
        flat = features.flatten(1)  # (C, h * w)
        kept: list[Tensor] = []
        entropies, dices = [], []
        for part, owner in zip(torch.split(embeds, at_once), torch.split(rows, at_once), strict=True):
            maps = (part @ flat).view(-1, *features.shape[1:])  # (n, h, w)
            points = choose(maps)  # (n, P, 2)
            logits = sample_maps(maps.unsqueeze(1), points).squeeze(1)  # (n, P)
            truth = sample_masks(masks, points, owner)  # (n, P)
            entropies.append(F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1))
            both, either = _overlap(logits.sigmoid(), truth)
            dices.append(1.0 - both / either)
            kept += [points, logits, truth]
        ctx.at_once = at_once
        ctx.save_for_backward(embeds, features, *kept)
        return torch.cat(entropies), torch.cat(dices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_entropy: Tensor, for_dice: Tensor) -> tuple[Tensor | None, ...]:
        embeds, features, *kept = ctx.saved_tensors
        flat = features.flatten(1)  # (C, h * w)
        to_embeds, to_features = [], torch.zeros_like(flat)
        with torch.autocast(flat.device.type, enabled=False):
            for number, part in enumerate(torch.split(embeds, ctx.at_once)):
                points, logits, truth = kept[3 * number : 3 * number + 3]
                pairs = slice(number * ctx.at_once, number * ctx.at_once + len(part))
                slopes = _slopes(logits, truth, for_entropy[pairs], for_dice[pairs])  # (n, P)
                maps = spread_to_maps(slopes.unsqueeze(1), points, features.shape[1:]).flatten(
                    1
                )  # (n, h * w)
                to_embeds.append(maps @ flat.t())
                to_features.addmm_(part.t(), maps)
        return torch.cat(to_embeds), to_features.view_as(features), None, None, None, None


def _overlap(share: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of the dice fraction, (n,) both; the ones keep empty masks from a division by zero."""
    return 2.0 * (share * truth).sum(1) + 1.0, share.sum(1) + truth.sum(1) + 1.0


def _slopes(logits: Tensor, truth: Tensor, for_entropy: Tensor, for_dice: Tensor) -> Tensor:
    """Derivative of the two losses, weighted with their own gradients, by each logit; (n, P)."""
    share = logits.sigmoid()
    both, either = _overlap(share, truth)
    # dice = 1 - both / either, where each share adds 2 t to both and 1 to either
    level, slope = (for_dice * both / either.square())[:, None], (2.0 * for_dice / either)[:, None]
    of_dice = (level - slope * truth).mul_(share).mul_(1.0 - share)
    return (share - truth).mul_(for_entropy[:, None] / logits.shape[1]).add_(of_dice)
