"""Losses of masks that queries predict: class, binary cross entropy and dice at points, for every layer.

Letters: `L` supervised predictions, `B` batch, `Q` queries, `K` classes, `C` mask width, `h w` mask map, `M`
ground-truth masks and `n` matched pairs of one image, `P` points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F

from skillbank_models.data.batch import MaskTarget
from skillbank_models.layers.matcher import HungarianMatcher, Match
from skillbank_models.layers.pair_losses import pair_losses
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.ops.point_sampling import CHUNK, PointSource, uncertain_points, uniform_points

__all__ = ["MaskCriterion"]


class MaskCriterion(nn.Module):
    """Matches queries with ground truth and measures class and mask losses of every layer.

    Computed in 32 bits whatever the precision of the model. Masks are built for matched queries only, and
    all layers of an image go through each step together.

    Args:
        num_classes: K; index K means no object.
        class_weight: weight of the class term, in matching and in `total`.
        mask_weight: weight of the binary cross entropy, likewise.
        dice_weight: weight of the dice term, likewise.
        no_object_weight: weight of the no-object class inside the class loss.
        num_points: points for each pair.
        oversample_ratio: candidates for each point that is chosen by uncertainty.
        importance_sample_ratio: share of the points that is chosen by uncertainty.
        deep_supervision: False looks at the last layer only.
        points: where points come from; the matcher asks first, image by image, then each image's pairs.

    Source: Cheng et al. 2022, section 3.3; facebookresearch/Mask2Former (MIT) for the normalisation.
    """

    class_weights: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool,
        points: PointSource = uniform_points,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.deep_supervision = deep_supervision
        self.points = points
        self.matcher = HungarianMatcher(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            num_points=num_points,
            points=points,
        )
        weights = torch.ones(num_classes + 1)
        weights[-1] = no_object_weight
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self,
        predictions: MaskPredictions,
        targets: Sequence[MaskTarget],
        *,
        image_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Measure the losses.

        Args:
            predictions: of one or more layers, the last layer last.
            targets: one for each image, on the device of the predictions; M = 0 is fine, and without any
                target the mask losses are zero with a gradient of zero.
            image_weights: (B,) float32, how much each image counts; None = all alike. An image counts as so
                many of its queries in the class loss, and as so many of its masks in the others.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer, and with an ending ``_0``, ``_1``
            and so on of those before it; unweighted scalars.

        Raises:
            ShapeError: as many targets as images are needed, and as many labels as masks.
        """
        if not self.deep_supervision:
            predictions = MaskPredictions(
                predictions.class_logits[-1:], predictions.mask_embeds[-1:], predictions.mask_features
            )
        with torch.autocast(predictions.mask_features.device.type, enabled=False):
            full = MaskPredictions(*(tensor.float() for tensor in predictions))
            matches = self.matcher(full, targets)
            masks, dices = self._mask_losses(full, targets, matches, image_weights)  # (L,), (L,)
            classes = self._class_losses(full.class_logits, targets, matches, image_weights)  # (L,)
        found = {"loss_ce": classes, "loss_mask": masks, "loss_dice": dices}
        last = len(classes) - 1
        return {
            name if layer == last else f"{name}_{layer}": value
            for name, values in found.items()
            for layer, value in enumerate(values.unbind())
        }

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum to minimise, of what `forward` returned."""
        weighted = [
            value * self.weights[name.rstrip("0123456789").rstrip("_")] for name, value in losses.items()
        ]
        return torch.stack(weighted).sum()

    def _class_losses(
        self,
        logits: Tensor,
        targets: Sequence[MaskTarget],
        matches: Sequence[Match],
        image_weights: Tensor | None,
    ) -> Tensor:
        """Cross entropy of all queries, those without a match taught no-object; (L,)."""
        layers, images, queries, _ = logits.shape
        labels = torch.full((layers, images, queries), self.num_classes, device=logits.device)  # (L, B, Q)
        for image, (target, match) in enumerate(zip(targets, matches, strict=True)):
            labels[:, image].scatter_(1, match.queries, target.labels[match.rows])
        losses = F.cross_entropy(
            logits.flatten(0, 2), labels.flatten(), weight=self.class_weights, reduction="none"
        ).view_as(labels)  # (L, B, Q)
        weights = self.class_weights[labels]  # (L, B, Q)
        if image_weights is not None:
            losses, weights = losses * image_weights[:, None], weights * image_weights[:, None]
        weight = weights.flatten(1).sum(1)  # (L,)
        # all weights are zero when nothing is matched and no_object_weight is 0
        return losses.flatten(1).sum(1) / torch.where(weight > 0, weight, 1.0)

    def _mask_losses(
        self,
        predictions: MaskPredictions,
        targets: Sequence[MaskTarget],
        matches: Sequence[Match],
        image_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Binary cross entropy and dice of the matched pairs: sums over the number of masks, (L,) both."""
        embeds, features = predictions.mask_embeds, predictions.mask_features
        # sums over nothing: zero, and a path for gradients when no image has a target
        nothing = embeds[:, :, :0].sum(dim=(1, 2, 3)) + features[:0].sum()  # (L,)
        masks, dices = [nothing], [nothing]
        for image, (target, match) in enumerate(zip(targets, matches, strict=True)):
            if match.rows.shape[1] == 0:
                continue
            index = match.queries.unsqueeze(2).expand(-1, -1, embeds.shape[3])
            matched = embeds[:, image].gather(1, index).flatten(0, 1)  # (L * n, C)
            entropy, dice = pair_losses(
                matched,
                features[image],
                target.masks,
                match.rows.flatten(),
                choose=self._choose_points,
                at_once=max(1, int(CHUNK / (self.num_points * self.oversample_ratio))),
            )  # (L * n,), (L * n,)
            weight = 1.0 if image_weights is None else image_weights[image]
            masks.append(entropy.view(match.rows.shape).sum(1) * weight)
            dices.append(dice.view(match.rows.shape).sum(1) * weight)
        count = self._num_masks(targets, features.device, image_weights)
        return torch.stack(masks).sum(0) / count, torch.stack(dices).sum(0) / count

    def _choose_points(self, maps: Tensor) -> Tensor:
        """(n, h, w) mask logits -> (n, P, 2)."""
        return uncertain_points(
            maps,
            num_points=self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_sample_ratio=self.importance_sample_ratio,
            source=self.points,
        )

    def _num_masks(
        self, targets: Sequence[MaskTarget], device: torch.device, image_weights: Tensor | None = None
    ) -> Tensor:
        """Masks of a rank's share of the batch by weight, the mean over ranks, at least 1."""
        counts = torch.tensor([float(len(target.labels)) for target in targets], device=device)  # (B,)
        count = (counts if image_weights is None else counts * image_weights).sum()
        # ranks may have different numbers of validation batches, so only training may wait for the others
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count /= torch.distributed.get_world_size()
        return count.clamp(min=1)
