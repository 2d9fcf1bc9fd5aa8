"""Queries that turn into classes and masks, each looking only at the pixels of its own last mask.

Letters: `B` batch, `C` channels, `h w` map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.layers.query_decoder import QueryDecoder

__all__ = ["MaskedAttentionDecoder"]


class MaskedAttentionDecoder(QueryDecoder):
    """Layers of masked cross-attention, self-attention and feed-forward; arguments as `QueryDecoder`.

    Source: Cheng et al. 2022 (Mask2Former), section 3.2. Names and start values as in
    facebookresearch/Mask2Former (MIT). Differs: attention masks come from mask features that are resized once
    for each level, which gives the same logits, since both are linear.
    """

    def forward(
        self, levels: Sequence[Tensor], mask_features: Tensor, *, all_layers: bool
    ) -> MaskPredictions:
        """Decode.

        Args:
            levels: `num_levels` maps (B, in_channels, h, w), coarse to fine.
            mask_features: (B, mask_dim, h, w) of any size.
            all_layers: predictions of all layers and of the start; False gives the last one only.

        Returns:
            `num_layers + 1` predictions, or one.
        """
        memory = self.memory(
            levels,
            projections=self.input_proj,
            level_embed=self.level_embed,
            layers=self.transformer_cross_attention_layers,
        )
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        return self.decode([memory], mask_features, sizes, all_layers=all_layers)[0]
