"""Losses of the 3D part: occupancy of every level, distance, and masks of matched queries.

Letters: `B` batch, `N` voxels of a level, `Q` queries, `C` channels, `S` side of a level, `n` matched pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank.errors import ShapeError
from skillbank_models.layers.matcher import Match
from skillbank_models.nvpanoptix3d.batch import VolumeTarget
from skillbank_models.nvpanoptix3d.outputs import FrustumOutput
from skillbank_models.nvpanoptix3d.volume_targets import labelled_voxels, masks_at, values_at
from skillbank_models.nvpanoptix3d.voxel_losses import mask_loss
from skillbank_models.sparse.tensor import SparseTensor

__all__ = ["FrustumCriterion"]

# names of the losses, after the sides of the levels in the stored volumes, whatever the grid in use
QUARTER, HALF, FULL = "64", "128", "256"


class _Rows(NamedTuple):
    """Voxels of one image at a level.

    Attributes:
        values: (N, C) of each voxel.
        coords: (N, 3).
        side: S.
    """

    values: Tensor
    coords: Tensor
    side: int


class FrustumCriterion(nn.Module):
    """Measures what the frustum decoder predicts against annotated volumes.

    Computed in 32 bits whatever the precision of the model. Queries keep the matches of the 2D part, and only
    matched ones have their masks compared.

    Args:
        truncation: largest distance that is predicted, voxels of side G.
        occupied_below: distance, in voxels of side G, below which a voxel of side G/4, G/2 and G is occupied.
        occupancy_weights: weights of the occupancy losses at side G/4, G/2 and G.
        surface_weight: weight of the distance loss.
        panoptic_weight: weight of each of the three mask losses.

    Source: Uni-3D (Zhang et al. 2023).
    """

    def __init__(
        self,
        *,
        truncation: float,
        occupied_below: Sequence[float],
        occupancy_weights: Sequence[float],
        surface_weight: float,
        panoptic_weight: float,
    ) -> None:
        super().__init__()
        levels = (QUARTER, HALF, FULL)
        self.truncation = truncation
        self.limits = dict(zip(levels, occupied_below, strict=True))
        self.weights = {
            **{
                f"loss_occupancy_{name}": weight
                for name, weight in zip(levels, occupancy_weights, strict=True)
            },
            "loss_geometry": surface_weight,
            **{f"loss_panoptic_{name}": panoptic_weight for name in levels},
        }

    def forward(
        self,
        output: FrustumOutput,
        targets: Sequence[VolumeTarget],
        matches: Sequence[Match],
        weights: Tensor,
        counts: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Measure the losses.

        Args:
            output: of the frustum decoder.
            targets: one for each image, on the device of the output.
            matches: of the 2D part, one for each image; the last layer counts.
            weights: (B,), weight of each image.
            counts: masks of each image; None where all of them are matched.

        Returns:
            ``loss_occupancy_64``, ``_128``, ``_256``, ``loss_geometry`` and ``loss_panoptic_64``, ``_128``,
            ``_256``: unweighted scalars. An image without voxels or matches adds zero, and its gradients are
            zero.

        Raises:
            ShapeError: as many targets, matches, weights and counts as images are needed.
        """
        if counts is None:
            counts = [match.rows.shape[1] for match in matches]
        _check(output, targets, matches, weights, counts)
        with torch.autocast(weights.device.type, enabled=False):
            weights = weights.float()
            found = {
                f"loss_occupancy_{name}": self._occupancy(name, rows, targets, weights)
                for name, rows in (
                    (QUARTER, _inside(output.occupancy[:, None], output.frustum)),
                    (HALF, _by_image(output.half.occupancy)),
                    (FULL, _by_image(output.full.occupancy)),
                )
            }
            found["loss_geometry"] = self._geometry(_by_image(output.geometry), targets, weights)
            found.update(self._panoptic(output, targets, matches, weights, counts))
        return found

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum to minimise, of what `forward` returned."""
        return torch.stack([value * self.weights[name] for name, value in losses.items()]).sum()

    def _occupancy(
        self, name: str, levels: Iterable[_Rows], targets: Sequence[VolumeTarget], weights: Tensor
    ) -> Tensor:
        """Weighted binary cross entropy at predicted voxels, mean of an image, then of the images."""
        values = []
        for rows, target in zip(levels, targets, strict=True):
            distance = values_at(target.distance, rows.coords, rows.side)  # (N,)
            truth = (distance < self.limits[name]).float()
            error = F.binary_cross_entropy_with_logits(rows.values[:, 0].float(), truth, reduction="none")
            values.append(_mean(error * values_at(target.weighting, rows.coords, rows.side)))
        return _mean_of_images(values, weights)

    def _geometry(self, levels: Iterable[_Rows], targets: Sequence[VolumeTarget], weights: Tensor) -> Tensor:
        """Weighted absolute error of the distance, mean of an image, then of the images."""
        values = []
        for rows, target in zip(levels, targets, strict=True):
            truth = values_at(target.distance, rows.coords, rows.side).clamp(max=self.truncation)  # (N,)
            error = (rows.values[:, 0].float() - truth).abs()
            values.append(_mean(error * values_at(target.weighting, rows.coords, rows.side)))
        return _mean_of_images(values, weights)

    def _panoptic(
        self,
        output: FrustumOutput,
        targets: Sequence[VolumeTarget],
        matches: Sequence[Match],
        weights: Tensor,
        counts: Sequence[int],
    ) -> dict[str, Tensor]:
        """Mask losses of the three levels, over the weighted number of masks."""
        levels = {
            QUARTER: (output.queries, _inside(output.embeds, output.frustum)),
            HALF: (output.half.queries, _by_image(output.half.embeds)),
            FULL: (output.full.queries, _by_image(output.full.embeds)),
        }
        number = self._num_masks(weights, counts)
        labelled = [labelled_voxels(target) for target in targets]
        found = {}
        for name, (queries, images) in levels.items():
            # sums over nothing: zero, and a path for gradients when there is nothing to compare
            total = queries[:, :0].float().sum()
            for image, rows in enumerate(images):
                total = total + rows.values[:0].float().sum()
                match = matches[image]
                if match.rows.shape[1] == 0 or len(rows.coords) == 0:
                    continue
                loss = mask_loss(
                    queries[image, match.queries[-1]].float(),
                    rows.values.float(),
                    masks_at(labelled[image], rows.coords, rows.side, match.rows[-1]),
                    values_at(targets[image].weighting, rows.coords, rows.side),
                )
                total = total + weights[image] * loss
            found[f"loss_panoptic_{name}"] = total / number
        return found

    def _num_masks(self, weights: Tensor, counts: Sequence[int]) -> Tensor:
        """Weighted masks of a rank's share of the batch, the mean over ranks, at least 1."""
        count = (weights * torch.tensor(counts, dtype=weights.dtype, device=weights.device)).sum()
        # ranks may have different numbers of validation batches, so only training may wait for the others
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count /= torch.distributed.get_world_size()
        return count.clamp(min=1)


def _by_image(x: SparseTensor) -> list[_Rows]:
    """Voxels of each image."""
    sizes = x.sites.sizes
    parts = zip(torch.split(x.features, sizes), torch.split(x.coords[:, 1:], sizes), strict=True)
    return [_Rows(values, coords, x.side) for values, coords in parts]


def _inside(grid: Tensor, frustum: Tensor) -> list[_Rows]:
    """Cells of each image inside the frustum; grid (B, C, S, S, S), frustum (B, S, S, S)."""
    found = []
    for values, mask in zip(grid, frustum, strict=True):
        coords = mask.nonzero()  # (N, 3)
        x, y, z = coords.unbind(1)
        found.append(_Rows(values[:, x, y, z].t(), coords, mask.shape[-1]))  # (N, C)
    return found


def _mean(values: Tensor) -> Tensor:
    """The mean, or zero with a path for gradients."""
    return values.sum() / max(1, values.numel())


def _mean_of_images(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The mean weighted by image; zero where all weights are."""
    return (torch.stack(list(values)) * weights).sum() / weights.sum().clamp(
        min=torch.finfo(weights.dtype).tiny
    )


def _check(
    output: FrustumOutput,
    targets: Sequence[VolumeTarget],
    matches: Sequence[Match],
    weights: Tensor,
    counts: Sequence[int],
) -> None:
    images = len(output.occupancy)
    given = {
        "targets": len(targets),
        "matches": len(matches),
        "weights": len(weights),
        "counts": len(counts),
    }
    wrong = [f"{number} {name}" for name, number in given.items() if number != images]
    if wrong:
        raise ShapeError(
            f"losses in 3D: {', '.join(wrong)} for a batch of {images} images; one for each is needed",
            hint="pass the lists of the same batch",
        )
