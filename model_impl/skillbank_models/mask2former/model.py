"""Mask2Former as one module, and its assembly from the `model` block of a spec.

Letters: `B` batch, `H W` image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skillbank.errors import ShapeError
from skillbank_models.layers.backbones import build_backbone
from skillbank_models.layers.mask_decoder import MaskedAttentionDecoder
from skillbank_models.layers.pixel_decoder import PixelDecoder
from skillbank_models.layers.predictions import MaskPredictions

__all__ = ["Mask2Former", "build_model"]

SIZE_STEP = 32  # the coarsest stride
ENCODER_FEEDFORWARD = 1024  # of all published models; not a spec key


class _Head(nn.Module):
    """Holds both decoders under the name that published weights have for them."""

    def __init__(self, pixel_decoder: PixelDecoder, predictor: MaskedAttentionDecoder) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor


class Mask2Former(nn.Module):
    """Images to class logits and masks.

    Args:
        backbone: images to maps by name, as `skillbank_models.layers.backbones` builds them.
        pixel_decoder: maps to mask features and the levels of the predictor.
        predictor: queries to classes and mask embeddings.

    Source: Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation"; parameter
    names as in facebookresearch/Mask2Former (MIT).
    """

    def __init__(
        self, *, backbone: nn.Module, pixel_decoder: PixelDecoder, predictor: MaskedAttentionDecoder
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = _Head(pixel_decoder, predictor)

    def forward(self, images: Tensor, *, all_layers: bool) -> MaskPredictions:
        """Predict.

        Args:
            images: (B, 3, H, W), normalised RGB; H and W are multiples of 32.
            all_layers: predictions of all decoder layers (for losses) or of the last one only.

        Returns:
            Class logits and masks at `common_stride`.

        Raises:
            ShapeError: the images have another form.
        """
        _check_images(images)
        mask_features, levels = self.sem_seg_head.pixel_decoder(self.backbone(images))
        predictions: MaskPredictions = self.sem_seg_head.predictor(
            levels, mask_features, all_layers=all_layers
        )
        return predictions


def build_model(model_spec: Any, *, activation_checkpoint: bool) -> Mask2Former:
    """The network of a spec, with initial weights.

    Args:
        model_spec: the `model` block of a spec.
        activation_checkpoint: compute backbone blocks, encoder layers and decoder layers again in the
            backward pass instead of keeping what they computed. `use_checkpoint` of a backbone does so for
            the backbone alone.

    Raises:
        InvalidValueError: the backbone lacks a map that the pixel decoder needs.
    """
    head, former = model_spec.sem_seg_head, model_spec.mask_former
    backbone: Any = build_backbone(model_spec.backbone, use_checkpoint=activation_checkpoint)
    pixel_decoder = PixelDecoder(
        channels=backbone.channels,
        strides=backbone.strides,
        convs_dim=head.convs_dim,
        mask_dim=head.mask_dim,
        norm=head.norm,
        in_features=head.deformable_transformer_encoder_in_features,
        num_layers=head.transformer_enc_layers,
        nheads=former.nheads,
        dropout=former.dropout,
        dim_feedforward=ENCODER_FEEDFORWARD,
        common_stride=head.common_stride,
        deterministic=model_spec.precise_msda,
        use_checkpoint=activation_checkpoint,
    )
    predictor = MaskedAttentionDecoder(
        in_channels=head.convs_dim,
        hidden_dim=former.hidden_dim,
        mask_dim=head.mask_dim,
        num_classes=head.num_classes,
        num_queries=former.num_object_queries,
        nheads=former.nheads,
        dim_feedforward=former.dim_feedforward,
        num_layers=former.dec_layers - 1,
        dropout=former.dropout,
        pre_norm=former.pre_norm,
        num_levels=pixel_decoder.num_levels,
        use_checkpoint=activation_checkpoint,
    )
    return Mask2Former(backbone=backbone, pixel_decoder=pixel_decoder, predictor=predictor)


def _check_images(images: Tensor) -> None:
    if torch.compiler.is_compiling():
        return  # sizes are symbolic; the exporter checks them
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] % SIZE_STEP or shape[3] % SIZE_STEP:
        raise ShapeError(
            f"images: shape {shape} cannot be segmented; allowed is (batch, 3, height, width) with height "
            f"and width multiples of {SIZE_STEP}.",
            hint="pad images at right and bottom, as the data loaders do",
            value=shape,
        )
