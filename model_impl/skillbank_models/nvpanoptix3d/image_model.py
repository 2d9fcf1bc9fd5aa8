"""The 2D part of NVPanoptix3D: images to depth, masks, camera and occupancy; and its assembly from a spec.

Letters: `B` batch, `C` channels, `D` depth bins, `H W` image as the loader pads it, `H' W'` resized image,
`h w` image plane of the 3D stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from skillbank.errors import InvalidValueError, SkillBankError, collect
from skillbank_models.layers.norms import GROUPS
from skillbank_models.layers.pixel_decoder import PixelDecoder
from skillbank_models.nvpanoptix3d.adapter import MAPS, TokenAdapter
from skillbank_models.nvpanoptix3d.depth_projector import DepthProjector
from skillbank_models.nvpanoptix3d.joint_decoder import JointDepthDecoder
from skillbank_models.nvpanoptix3d.occupancy_head import OccupancyHead, Share
from skillbank_models.nvpanoptix3d.outputs import ImageOutput
from skillbank_models.nvpanoptix3d.padding import pad_to, padded_size
from skillbank_models.nvpanoptix3d.vggt.build import build_vggt
from skillbank_models.nvpanoptix3d.vggt.model import Vggt

__all__ = ["ImageModel", "SceneHead", "build_image_model"]

_HEAD = "model.sem_seg_head"


class SceneHead(nn.Module):
    """Everything between backbone and outputs.

    Args:
        adapter: tokens to maps.
        pixel_decoder: maps to mask features and levels.
        depth_projector: maps of the depth head to depth levels.
        predictor: queries to classes and masks.
        occupancy: maps to the occupancy of the plane.
        in_features: maps that the pixel decoder reads.
    """

    def __init__(
        self,
        *,
        adapter: TokenAdapter,
        pixel_decoder: PixelDecoder,
        depth_projector: DepthProjector,
        predictor: JointDepthDecoder,
        occupancy: OccupancyHead,
        in_features: Sequence[str],
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.pixel_decoder = pixel_decoder
        self.depth_projector = depth_projector
        self.predictor = predictor
        self.occupancy = occupancy
        self.in_features = tuple(in_features)


class ImageModel(nn.Module):
    """Images to all that is known about them in 2D.

    Args:
        backbone: images to tokens, depth and camera.
        sem_seg_head: tokens and depth maps to masks and occupancy.
        size_divisibility: images are padded to a multiple of it.
        depth_features: which map of the depth head the 3D part reads.

    Source: public documentation of NVPanoptix3D.
    """

    def __init__(
        self,
        *,
        backbone: Vggt,
        sem_seg_head: SceneHead,
        size_divisibility: int,
        depth_features: Literal["fine", "coarse"],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.size_divisibility = size_divisibility
        self.depth_features = depth_features

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """What an image of a loader is padded to; all outputs but occupancy cover this size."""
        return padded_size(height, width, self.size_divisibility)

    def forward(
        self, images: Tensor, *, all_layers: bool, sizes: Sequence[tuple[int, int]] | None = None
    ) -> ImageOutput:
        """Predict.

        Args:
            images: (B, 3, H, W), RGB 0..255; padded here, with black, where the loader has not.
            all_layers: predictions of all decoder layers (for losses) or of the last one only.
            sizes: height and width of each image inside H x W, which the occupancy is about; None where
                nothing is padded.

        Returns:
            Depth and masks of the padded image; occupancy of the image alone.
        """
        height, width = images.shape[-2:]
        padded = self.padded_size(height, width)
        small = self.backbone.resize(pad_to(images, padded))  # (B, 3, H', W')
        features = self.backbone(small)
        depth, depth_maps = self.backbone.depth(features, (small.shape[-2], small.shape[-1]))  # (B, H', W')
        head = self.sem_seg_head
        maps = head.adapter(features.taps, features.grid)
        mask_features, levels = head.pixel_decoder({name: maps[name] for name in head.in_features})
        depth_levels = head.depth_projector(depth_maps, [level.shape[-2:] for level in levels])
        predictions, queries = head.predictor(levels, depth_levels, mask_features, all_layers=all_layers)
        shares = _shares(sizes or [(height, width)], padded)  # one stands for all images
        return ImageOutput(
            predictions=predictions,
            queries=queries,
            depth=depth,
            depth_features=depth_maps[0] if self.depth_features == "fine" else depth_maps[-1],
            pose=self.backbone.pose(features),
            occupancy=head.occupancy([maps[name] for name in MAPS], shares),
            levels=levels,
        )


def build_image_model(spec: Any, *, activation_checkpoint: bool) -> ImageModel:
    """The 2D part of a spec, with initial weights.

    Args:
        spec: of any action that has the blocks `model` and `dataset`.
        activation_checkpoint: compute transformer blocks, encoder and decoder layers and the adapter again in
            the backward pass instead of keeping what they computed.

    Raises:
        InvalidValueError: widths or maps that do not fit each other; lists all of them.
    """
    model, head, former = spec.model, spec.model.sem_seg_head, spec.model.mask_former
    _check(head, former)
    block = model.backbone
    backbone = build_vggt(
        block,
        frozen=bool(block.pretrained_model_path) if block.freeze is None else block.freeze,
        use_checkpoint=activation_checkpoint,
    )
    adapter = TokenAdapter(
        token_dim=2 * block.vggt.embed_dim,
        dim=head.adapter_dim,
        channels=head.adapter_channels,
        use_checkpoint=activation_checkpoint,
    )
    pixel_decoder = PixelDecoder(
        channels={name: adapter.channels[name] for name in MAPS if name in head.in_features},
        strides=adapter.strides,
        convs_dim=head.convs_dim,
        mask_dim=head.mask_dim,
        norm=head.norm,
        in_features=head.deformable_transformer_encoder_in_features,
        num_layers=head.transformer_enc_layers,
        nheads=former.nheads,
        dropout=former.dropout,
        dim_feedforward=former.transformer_dim_feedforward,
        common_stride=head.common_stride,
        deterministic=model.precise_msda,
        use_checkpoint=activation_checkpoint,
    )
    sem_seg_head = SceneHead(
        adapter=adapter,
        pixel_decoder=pixel_decoder,
        depth_projector=DepthProjector(
            in_channels=block.vggt.depth_features,
            out_channels=former.hidden_dim,
            num_levels=min(pixel_decoder.num_levels, former.dec_layers - 1),  # later ones are not looked at
        ),
        predictor=_predictor(head, former, pixel_decoder.num_levels, activation_checkpoint),
        occupancy=_occupancy(spec),
        in_features=[name for name in MAPS if name in head.in_features],
    )
    return ImageModel(
        backbone=backbone,
        sem_seg_head=sem_seg_head,
        size_divisibility=former.size_divisibility,
        depth_features=model.compat.depth_features,
    )


def _predictor(head: Any, former: Any, num_levels: int, use_checkpoint: bool) -> JointDepthDecoder:
    return JointDepthDecoder(
        in_channels=head.convs_dim,
        hidden_dim=former.hidden_dim,
        mask_dim=head.mask_dim,
        num_classes=head.num_classes,
        num_queries=former.num_object_queries,
        nheads=former.nheads,
        dim_feedforward=former.dim_feedforward,
        num_layers=former.dec_layers - 1,
        dropout=0.0,  # mask_former.dropout is that of the pixel decoder, as documented
        pre_norm=former.pre_norm,
        num_levels=num_levels,
        use_checkpoint=use_checkpoint,
    )


def _occupancy(spec: Any) -> OccupancyHead:
    model = spec.model
    width, height = spec.dataset.reduced_target_size
    return OccupancyHead(
        in_channels=model.sem_seg_head.adapter_channels,
        channels=model.occupancy_head.channels,
        fusion_channels=model.occupancy_head.fusion_channels,
        bins=model.occupancy_head.bins,
        plane=(height, width),
        variant=model.compat.occupancy_head,
    )


def _shares(sizes: Sequence[tuple[int, int]], padded: tuple[int, int]) -> list[Share]:
    return [(height / padded[0], width / padded[1]) for height, width in sizes]


def _check(head: Any, former: Any) -> None:
    """Widths that norms and position codes cannot take, and maps that are read but not made."""
    steps = {
        f"{_HEAD}.convs_dim": (head.convs_dim, GROUPS, f"its norms have {GROUPS} groups"),
        f"{_HEAD}.adapter_dim": (head.adapter_dim, 4, "position waves come in fours"),
        "model.mask_former.hidden_dim": (former.hidden_dim, 4, "position codes come in fours"),
    }
    problems: list[SkillBankError] = [
        InvalidValueError(
            f"{key}: {value} is not a multiple of {step}; {reason}.",
            hint=f"-o {key}={-(-value // step) * step}",
            key=key,
            value=value,
        )
        for key, (value, step, reason) in steps.items()
        if value % step
    ]
    missing = [
        name for name in head.deformable_transformer_encoder_in_features if name not in head.in_features
    ]
    if missing:
        problems.append(
            InvalidValueError(
                f"{_HEAD}.in_features: {', '.join(missing)} is not among {', '.join(head.in_features)}, but "
                f"{_HEAD}.deformable_transformer_encoder_in_features names it.",
                hint=f"-o '{_HEAD}.in_features=[{', '.join(MAPS)}]'",
                key=f"{_HEAD}.in_features",
                value=list(head.in_features),
                allowed=list(MAPS),
            )
        )
    if problems:
        raise collect(problems, "model")
