"""Mask queries that look at appearance and at depth in every layer.

Letters: `B` batch, `Q` queries, `C` channels, `h w` map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.layers.query_decoder import QueryDecoder
from skillbank_models.layers.query_layers import CrossAttentionLayer

__all__ = ["JointDepthDecoder"]


class JointDepthDecoder(QueryDecoder):
    """Layers that look at an appearance map, at the depth map of that level, and at the other queries.

    Both maps are looked at through one mask, that of the prediction before.

    Args:
        in_channels: width of the appearance maps; depth maps have `hidden_dim` channels.
        hidden_dim: width C of the queries, a multiple of 4.
        mask_dim: width of the mask features.
        num_classes: classes, without no-object.
        num_queries: queries Q.
        nheads: attention heads; must divide `hidden_dim`.
        dim_feedforward: hidden width of the feed-forward parts.
        num_layers: layers; there is one prediction more than layers.
        dropout: share of dropped activations and attention weights while training.
        pre_norm: normalise before each step instead of after it.
        num_levels: maps of each kind.
        use_checkpoint: keep only the inputs of each layer for the backward pass and compute the rest again.

    Source: public documentation of NVPanoptix3D; Cheng et al. 2022 (Mask2Former) for all but the second
    cross-attention.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_dim: int,
        mask_dim: int,
        num_classes: int,
        num_queries: int,
        nheads: int,
        dim_feedforward: int,
        num_layers: int,
        dropout: float,
        pre_norm: bool,
        num_levels: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            hidden_dim=hidden_dim,
            mask_dim=mask_dim,
            num_classes=num_classes,
            num_queries=num_queries,
            nheads=nheads,
            dim_feedforward=dim_feedforward,
            num_layers=num_layers,
            dropout=dropout,
            pre_norm=pre_norm,
            num_levels=num_levels,
            use_checkpoint=use_checkpoint,
        )
        self.depth_level_embed = nn.Embedding(num_levels, hidden_dim)
        self.depth_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(dim=hidden_dim, nheads=nheads, dropout=dropout, pre_norm=pre_norm)
            for _ in range(num_layers)
        )

    def looks(self) -> list[nn.ModuleList]:
        """Appearance first, then depth."""
        return [self.transformer_cross_attention_layers, self.depth_cross_attention_layers]

    def forward(
        self,
        levels: Sequence[Tensor],
        depth_levels: Sequence[Tensor],
        mask_features: Tensor,
        *,
        all_layers: bool,
    ) -> tuple[MaskPredictions, Tensor]:
        """Decode.

        Args:
            levels: `num_levels` appearance maps (B, in_channels, h, w), coarse to fine.
            depth_levels: depth maps (B, C, h, w) of the same sizes; no more than there are layers are needed.
            mask_features: (B, mask_dim, h, w) of any size.
            all_layers: predictions of all layers and of the start; False gives the last one only.

        Returns:
            `num_layers + 1` predictions, or one; normalised queries of the last layer, (B, Q, C).
        """
        appearance = self.memory(
            levels,
            projections=self.input_proj,
            level_embed=self.level_embed,
            layers=self.transformer_cross_attention_layers,
        )
        depth = self.memory(
            depth_levels,
            projections=None,
            level_embed=self.depth_level_embed,
            layers=self.depth_cross_attention_layers,
        )
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        return self.decode([appearance, depth], mask_features, sizes, all_layers=all_layers)
