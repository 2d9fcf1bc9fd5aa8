"""Losses of stage 1: classes and masks of queries, depth, and occupancy along the rays of the image plane.

Letters: `B` batch, `M` ground-truth masks of an image, `D` depth bins, `H W` image as the loader pads it,
`H' W'` resized image, `h w` image plane of the 3D stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.data.batch import MaskTarget
from skillbank_models.layers.mask_criterion import MaskCriterion
from skillbank_models.layers.matcher import Match
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.outputs import ImageOutput
from skillbank_models.nvpanoptix3d.padding import pad_to, padded_size
from skillbank_models.ops.point_sampling import PointSource, uniform_points

__all__ = ["ImageCriterion", "depth_loss", "occupancy_loss", "room_pixels"]


class ImageCriterion(nn.Module):
    """All losses of the 2D part, in 32 bits whatever the precision of the network.

    Images count by their weight in every term. Terms without anything to compare are zero, with a gradient
    of zero for everything that they could have taught.

    Args:
        num_classes: classes, without no-object.
        class_weight: weight of the class term, in matching and in `total`.
        mask_weight: weight of the binary cross entropy of masks, likewise.
        dice_weight: weight of the dice term, likewise.
        depth_weight: weight of the depth term in `total`.
        occupancy_weight: weight of the occupancy term in `total`.
        no_object_weight: weight of the no-object class inside the class loss.
        num_points: points for each pair of masks.
        oversample_ratio: candidates for each point that is chosen by uncertainty.
        importance_sample_ratio: share of the points that is chosen by uncertainty.
        deep_supervision: False looks at the last layer only.
        size_divisibility: what the network pads images to, which truth is padded to as well.
        points: where points come from.

    Source: public documentation of NVPanoptix3D. Differs: the class loss is a weighted mean, the occupancy
    loss a mean over bins, and unknown depth never blends into known depth.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        depth_weight: float,
        occupancy_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool,
        size_divisibility: int,
        points: PointSource = uniform_points,
    ) -> None:
        super().__init__()
        self.size_divisibility = size_divisibility
        self.weights = {"loss_depth": depth_weight, "loss_mp_occ": occupancy_weight}
        self.masks = MaskCriterion(
            num_classes=num_classes,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            no_object_weight=no_object_weight,
            num_points=num_points,
            oversample_ratio=oversample_ratio,
            importance_sample_ratio=importance_sample_ratio,
            deep_supervision=deep_supervision,
            points=points,
        )

    def forward(self, output: ImageOutput, batch: SceneBatch) -> dict[str, Tensor]:
        """Measure the losses.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` (and ``_0``, ``_1``, ... of earlier layers),
            ``loss_depth``, ``loss_mp_occ``; unweighted scalars.
        """
        weights = batch.weights.float()  # (B,)
        losses: dict[str, Tensor] = self.masks(
            output.predictions, self._targets(batch), image_weights=weights
        )
        with torch.autocast(output.depth.device.type, enabled=False):
            losses["loss_depth"] = self._depth(output.depth.float(), batch, weights)
            losses["loss_mp_occ"] = occupancy_loss(
                output.occupancy.float(), batch.planes, batch.plane_valid, weights
            )
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum to minimise, of what `forward` returned."""
        own = [value * self.weights[name] for name, value in losses.items() if name in self.weights]
        others = {name: value for name, value in losses.items() if name not in self.weights}
        return torch.stack([self.masks.total(others), *own]).sum()

    @torch.no_grad()
    def match(self, output: ImageOutput, batch: SceneBatch) -> list[Match]:
        """The pairs of the last layer, one layer in each match."""
        given = output.predictions
        last = MaskPredictions(given.class_logits[-1:], given.mask_embeds[-1:], given.mask_features)
        with torch.autocast(given.mask_features.device.type, enabled=False):
            found: list[Match] = self.masks.matcher(
                MaskPredictions(*(tensor.float() for tensor in last)), self._targets(batch)
            )
        return found

    def _padded(self, batch: SceneBatch) -> tuple[int, int]:
        return padded_size(batch.images.shape[-2], batch.images.shape[-1], self.size_divisibility)

    def _targets(self, batch: SceneBatch) -> list[MaskTarget]:
        """Targets whose masks cover what the predicted masks cover."""
        size = self._padded(batch)
        return [MaskTarget(target.labels, pad_to(target.masks, size)) for target in batch.targets]

    def _depth(self, depth: Tensor, batch: SceneBatch, weights: Tensor) -> Tensor:
        if batch.depths is None:
            return _nothing(depth)
        truth = batch.depths.float()  # (B, H, W)
        if batch.room_masks is not None:
            truth = truth * room_pixels(batch.room_masks, batch.sizes, truth.shape[-2:])
        return depth_loss(depth, pad_to(truth, self._padded(batch)), weights)


def depth_loss(depth: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error of each image where depth is known, averaged over the images where it is.

    The truth is read at the nearest pixel, so that a pixel is either known or not.

    Args:
        depth: (B, H', W') metres.
        truth: (B, H, W) metres, 0 where unknown; covers the same area.
        weights: (B,), how much each image counts.
    """
    truth = F.interpolate(truth[:, None], depth.shape[-2:], mode="nearest-exact")[:, 0]  # (B, H', W')
    known = truth > 0
    errors = torch.where(known, (depth - truth).abs(), 0.0)  # (B, H', W')
    return _mean_of_images(errors.flatten(1).sum(1), known.flatten(1).sum(1), weights)


def occupancy_loss(logits: Tensor, planes: Tensor | None, valid: Tensor | None, weights: Tensor) -> Tensor:
    """Binary cross entropy over the bins of each image's valid pixels, averaged over images that have any.

    Args:
        logits: (B, D, h, w).
        planes: (B, D, h, w) bool, bins near a surface; None where they were not loaded.
        valid: (B, h, w) bool, pixels that count; None counts all.
        weights: (B,), how much each image counts.
    """
    if planes is None:
        return _nothing(logits)
    errors = F.binary_cross_entropy_with_logits(logits, planes.to(logits.dtype), reduction="none")
    errors = errors.mean(1)  # (B, h, w)
    if valid is None:
        valid = torch.ones_like(errors, dtype=torch.bool)
    errors = torch.where(valid, errors, 0.0)
    return _mean_of_images(errors.flatten(1).sum(1), valid.flatten(1).sum(1), weights)


def room_pixels(room_masks: Tensor, sizes: Sequence[tuple[int, int]], padded: Sequence[int]) -> Tensor:
    """Pixels of padded images that belong to the room.

    Args:
        room_masks: (B, h, w) bool, over the image without its padding.
        sizes: height and width of each image inside the padded one.
        padded: height and width of the result.

    Returns:
        (B, H, W) bool, False in the padding.
    """
    parts = [
        pad_to(
            F.interpolate(mask[None, None].float(), tuple(size), mode="nearest-exact")[0, 0],
            (padded[0], padded[1]),
        )
        for mask, size in zip(room_masks, sizes, strict=True)
    ]  # B x (H, W)
    return torch.stack(parts) > 0.5  # (B, H, W)


def _mean_of_images(sums: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over images of their means; those with a count of zero do not take part."""
    weights = weights * (counts > 0)  # (B,)
    total = weights.sum()
    return (weights * sums / counts.clamp(min=1)).sum() / torch.where(total > 0, total, 1.0)


def _nothing(x: Tensor) -> Tensor:
    """Zero, with a gradient of zero for `x`."""
    return x.flatten()[:0].sum()
