"""Turns backbone maps into mask features and the maps that queries attend to.

Letters: `B` batch, `C` channels, `h w` feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from skillbank.errors import InvalidValueError
from skillbank_models.layers.deformable_encoder import DeformableEncoder
from skillbank_models.layers.norms import GROUPS, NormedConv

__all__ = ["PixelDecoder"]

LEVELS = 3  # maps handed to the mask decoder, as in the published models


class PixelDecoder(nn.Module):
    """Deformable encoder over the coarse maps, then top-down fusion up to the stride of the masks.

    Args:
        channels: width of each backbone map.
        strides: stride of each backbone map.
        convs_dim: width C of the decoder, a multiple of 32.
        mask_dim: width of the mask features.
        norm: of the fusion convolutions: GN, LN, SyncBN or empty.
        in_features: maps that the encoder mixes.
        num_layers: layers of the encoder.
        nheads: heads of the encoder; must divide `convs_dim`.
        dropout: of the encoder.
        dim_feedforward: hidden width of the encoder's feed-forward parts.
        common_stride: stride of the mask features.
        deterministic: bitwise repeatable deformable attention.
        use_checkpoint: compute the encoder layers again in the backward pass.

    Attributes:
        num_levels: maps that `forward` hands to the mask decoder; 3 unless fewer exist.

    Raises:
        InvalidValueError: a map that is needed is not among `channels`.

    Source: Cheng et al. 2022 (Mask2Former), section 4.2.1. Names and start values as in
    facebookresearch/Mask2Former (MIT).
    """

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        convs_dim: int,
        mask_dim: int,
        norm: str,
        in_features: Sequence[str],
        num_layers: int,
        nheads: int,
        dropout: float,
        dim_feedforward: int,
        common_stride: int,
        deterministic: bool,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.inputs, self.laterals = _plan(channels, strides, in_features, common_stride)
        # The encoder may have a map finer than common_stride, which the mask features do not come from.
        outputs = [strides[name] for name in (*self.inputs, *self.laterals)]
        self.mask_level = max(i for i, stride in enumerate(outputs) if stride >= common_stride or i == 0)
        self.num_levels = min(LEVELS, len(outputs))
        self.input_proj = nn.ModuleList(_input_projection(channels[name], convs_dim) for name in self.inputs)
        self.transformer = DeformableEncoder(
            dim=convs_dim,
            dim_feedforward=dim_feedforward,
            nheads=nheads,
            num_layers=num_layers,
            num_levels=len(self.inputs),
            dropout=dropout,
            deterministic=deterministic,
            use_checkpoint=use_checkpoint,
        )
        for name in self.laterals:
            lateral = NormedConv(channels[name], convs_dim, kernel=1, norm=norm, relu=False)
            fuse = NormedConv(convs_dim, convs_dim, kernel=3, norm=norm, relu=True)
            self.add_module(f"adapter_{self._number(name)}", lateral)
            self.add_module(f"layer_{self._number(name)}", fuse)
        self.mask_features = nn.Conv2d(convs_dim, mask_dim, 1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(_bias(self.mask_features))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode.

        Args:
            features: backbone maps by name, each (B, channels[name], h, w).

        Returns:
            mask features (B, mask_dim, h, w) and `num_levels` maps (B, C, h, w) from coarse to fine.
        """
        maps = [
            project(features[name]) for project, name in zip(self.input_proj, self.inputs, strict=True)
        ]  # L x (B, C, h, w)
        maps = self.transformer(maps)
        for name in self.laterals:
            lateral = self.get_submodule(f"adapter_{self._number(name)}")(features[name])  # (B, C, h, w)
            coarse = F.interpolate(maps[-1], lateral.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(self.get_submodule(f"layer_{self._number(name)}")(lateral + coarse))
        return self.mask_features(maps[self.mask_level]), maps[: self.num_levels]

    def _number(self, name: str) -> int:
        """Published weights count the fused maps from the finest, starting with 1."""
        return len(self.laterals) - self.laterals.index(name)


def _plan(
    channels: Mapping[str, int], strides: Mapping[str, int], in_features: Sequence[str], common_stride: int
) -> tuple[list[str], list[str]]:
    """Names of the encoder's maps and of those fused after it, both from coarse to fine."""
    missing = [name for name in in_features if name not in channels]
    if missing:
        key = "model.sem_seg_head.deformable_transformer_encoder_in_features"
        raise InvalidValueError(
            f"{key}: the backbone gives no {', '.join(missing)}; it gives {', '.join(channels)}.",
            hint="name these maps in out_features of the backbone too",
            key=key,
            value=list(in_features),
            allowed=list(channels),
        )
    inputs = sorted(set(in_features), key=lambda name: -strides[name])
    finest = strides[inputs[-1]]
    laterals = [
        name
        for name in sorted(channels, key=lambda name: -strides[name])
        if common_stride <= strides[name] < finest
    ]
    reached = min(strides[name] for name in (*inputs, *laterals))
    if reached > common_stride:
        key = "model.sem_seg_head.common_stride"
        raise InvalidValueError(
            f"{key}: the backbone gives no map of stride {common_stride}; the finest has {reached}.",
            hint=f"{key}={reached}, or name a finer map in out_features of the backbone",
            key=key,
            value=common_stride,
        )
    return inputs, laterals


def _input_projection(in_channels: int, dim: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, dim, 1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(_bias(conv))
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, dim))


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
