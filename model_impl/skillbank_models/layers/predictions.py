"""What a mask decoder predicts, kept factored: masks are products of embeddings and one feature map.

Letters: `L` supervised predictions (the decoder's layers and its start), `B` batch, `Q` queries, `K` classes,
`C` mask width, `h w` mask map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MaskPredictions"]


class MaskPredictions(NamedTuple):
    """Class logits and masks of some or all layers, the last layer last.

    A mask is never stored for a layer that nobody looks at: sampling or resizing `mask_features` first gives
    the same logits, since both are linear.

    Attributes:
        class_logits: (L, B, Q, K + 1), no-object last.
        mask_embeds: (L, B, Q, C).
        mask_features: (B, C, h, w).
    """

    class_logits: Tensor
    mask_embeds: Tensor
    mask_features: Tensor

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Mask logits of one layer, (B, Q, h, w)."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_embeds[layer], self.mask_features)
