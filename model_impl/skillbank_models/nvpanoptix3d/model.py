"""NVPanoptix3D as one module: the 2D part, and in stage 2 the 3D part behind it.

Letters: `B` batch, `Q` queries, `C` channels, `K` classes, `D` depth bins, `H W` padded input, `h w` image
plane of the 3D stage, `G` side of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.depth_projector import StageTwoProjector
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder
from skillbank_models.nvpanoptix3d.image_model import ImageModel, build_image_model
from skillbank_models.nvpanoptix3d.lifting import lift
from skillbank_models.nvpanoptix3d.merging import merge_image, to_plane
from skillbank_models.nvpanoptix3d.outputs import FrustumInputs, FrustumOutput, ImageOutput, MergedImage
from skillbank_models.nvpanoptix3d.projection import multi_scale, project

__all__ = ["Lifting", "NVPanoptix3D", "build_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifting:
    """How images become voxels, as a spec says.

    Attributes:
        plane: (h, w).
        is_thing: for each class.
        object_mask_threshold: least class score of a query.
        overlap_threshold: least visible share of a mask.
        depth_scale: largest depth, metres.
        far: end of the frustum, metres.
        sign_channel: sign and magnitude of a distance as two channels.
        fill: extend stuff to the image border.
        multi_scale: None, or how coarse features are sampled.
    """

    plane: tuple[int, int]
    is_thing: tuple[bool, ...]
    object_mask_threshold: float
    overlap_threshold: float
    depth_scale: float
    far: float
    sign_channel: bool
    fill: bool
    multi_scale: Literal["aligned", "published"] | None


class NVPanoptix3D(ImageModel):
    """Images to depth, masks and occupancy (`forward`), and those to a volume.

    Args:
        image: backbone and head of the 2D part, which become those of this module.
        projector: depth features to the 3D part; None in stage 1.
        completion: the 3D part; None in stage 1.
        lifting: how images become voxels.

    Source: public documentation of NVPanoptix3D; Uni-3D (ICCV 2023) and BUOL (CVPR 2023) for the 3D part.
    """

    def __init__(
        self,
        *,
        image: ImageModel,
        projector: StageTwoProjector | None,
        completion: FrustumDecoder | None,
        lifting: Lifting,
    ) -> None:
        super().__init__(
            backbone=image.backbone,
            sem_seg_head=image.sem_seg_head,
            size_divisibility=image.size_divisibility,
            depth_features=image.depth_features,
        )
        self.projector = projector
        self.completion = completion
        self.lifting = lifting

    @torch.no_grad()
    def merge(self, output: ImageOutput, batch: SceneBatch) -> list[MergedImage]:
        """Segments and depth of each image on the plane of the 3D stage."""
        settings = self.lifting
        padded = self.padded_size(batch.images.shape[-2], batch.images.shape[-1])
        with torch.autocast(batch.images.device.type, enabled=False):
            logits = output.predictions.class_logits[-1].float()  # (B, Q, K + 1)
            masks = MaskPredictions(*(part.float() for part in output.predictions)).mask_logits()
            masks = to_plane(masks, padded=padded, sizes=batch.sizes, plane=settings.plane)  # (B, Q, h, w)
            depth = to_plane(
                output.depth.float()[:, None], padded=padded, sizes=batch.sizes, plane=settings.plane
            )[:, 0]  # (B, h, w)
            return [
                merge_image(
                    logits[place],
                    masks[place],
                    depth[place],
                    is_thing=settings.is_thing,
                    object_mask_threshold=settings.object_mask_threshold,
                    overlap_threshold=settings.overlap_threshold,
                    depth_scale=settings.depth_scale,
                )
                for place in range(len(batch.images))
            ]

    def complete(self, output: ImageOutput, merged: list[MergedImage], batch: SceneBatch) -> FrustumOutput:
        """The 3D part.

        Args:
            output: of `forward`, for this batch.
            merged: of `merge`.
            batch: with cameras and frusta.
        """
        assert self.completion is not None, "there is no 3D part in stage 1"
        assert batch.frusta is not None
        found: FrustumOutput = self.completion(self.lift(output, merged, batch), output.queries, batch.frusta)
        return found

    def lift(self, output: ImageOutput, merged: list[MergedImage], batch: SceneBatch) -> FrustumInputs:
        """What the 3D part starts from."""
        assert batch.frusta is not None
        settings = self.lifting
        padded = self.padded_size(batch.images.shape[-2], batch.images.shape[-1])
        depth = torch.stack([image.depth for image in merged])  # (B, h, w)
        classes = torch.stack([image.class_scores for image in merged])  # (B, K, h, w)
        distance, sampled, labels = project(
            depth,
            self._appearance(output),
            classes,
            views=batch.views,
            sizes=batch.sizes,
            padded=padded,
            sign_channel=settings.sign_channel,
        )
        lifted = lift(
            depth,
            classes,
            output.occupancy,
            views=batch.views,
            frusta=batch.frusta,
            room_masks=batch.room_masks,
            num_things=sum(settings.is_thing),
            fill=settings.fill,
            far=settings.far,
        )
        scales = []
        if settings.multi_scale is not None:
            scales = multi_scale(
                depth,
                output,
                lifted,
                views=batch.views,
                sizes=batch.sizes,
                padded=padded,
                sampling=settings.multi_scale,
            )
        return FrustumInputs(distance, sampled, labels, lifted, scales)

    def _appearance(self, output: ImageOutput) -> Tensor:
        """Mask and depth features, (B, C + C', h', w')."""
        if output.appearance is not None:
            return output.appearance
        assert self.projector is not None, "there is no 3D part in stage 1"
        features = output.predictions.mask_features  # (B, C, h', w')
        depth_features = self.projector(output.depth_features, features.shape[-2:])  # (B, C', h', w')
        return torch.cat([features, depth_features], 1)  # (B, C + C', h', w')

    def drop_image_part(self) -> None:
        """Free what `forward` needs, where its outputs come from elsewhere."""
        del self.backbone, self.sem_seg_head
        self.projector = None


def build_model(spec: Any, *, is_thing: tuple[bool, ...]) -> NVPanoptix3D:
    """The network of a spec, with initial weights; the 3D part only with `dataset.enable_3d`.

    Args:
        spec: of any action.
        is_thing: for each class.
    """
    recompute = spec.train.activation_checkpoint
    image = build_image_model(spec, activation_checkpoint=recompute)
    model, dataset = spec.model, spec.dataset
    projector = completion = None
    if dataset.enable_3d:
        projector = StageTwoProjector(
            in_channels=model.backbone.vggt.depth_features, out_channels=model.sem_seg_head.depth_dim
        )
        completion = _build_completion(spec, use_checkpoint=recompute)
    width, height = dataset.reduced_target_size
    return NVPanoptix3D(
        image=image,
        projector=projector,
        completion=completion,
        lifting=Lifting(
            plane=(height, width),
            is_thing=is_thing,
            object_mask_threshold=model.object_mask_threshold,
            overlap_threshold=model.overlap_threshold,
            depth_scale=dataset.depth_scale,
            far=dataset.depth_max,
            sign_channel=model.projection.sign_channel,
            fill=model.compat.lifting_fill,
            multi_scale=model.compat.multi_scale_sampling if model.frustum3d.use_multi_scale else None,
        ),
    )


def _build_completion(spec: Any, *, use_checkpoint: bool) -> FrustumDecoder:
    model, frustum = spec.model, spec.model.frustum3d
    head = model.sem_seg_head
    return FrustumDecoder(
        sign_channel=model.projection.sign_channel,
        appearance_channels=head.mask_dim + head.depth_dim,
        num_classes=head.num_classes,
        query_dim=model.mask_former.hidden_dim,
        features=frustum.unet_features,
        out_channels=frustum.unet_output_channels,
        side=frustum.grid_dimensions,
        truncation=frustum.truncation,
        norm=model.compat.sparse_norm,
        multi_scale=frustum.use_multi_scale,
        scale_channels=head.convs_dim,
        max_voxels=frustum.max_voxels,
        use_checkpoint=use_checkpoint,
    )
