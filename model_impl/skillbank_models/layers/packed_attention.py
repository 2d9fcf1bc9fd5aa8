"""Multi-head attention whose query, key and value projections can be asked for one by one.

Letters: `B` batch, `Q` queries, `S` keys, `M` heads, `C` channels, `d = C / M`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank.errors import InvalidValueError
from skillbank_models.layers.linear import Linear, linear

__all__ = ["PackedAttention"]


class PackedAttention(nn.Module):
    """Scaled dot-product attention with the parameters of `torch.nn.MultiheadAttention`.

    The projections are separate calls, so that what does not change from layer to layer is projected once.

    Args:
        dim: channels C.
        nheads: heads M; must divide `dim`.
        dropout: share of dropped attention weights while training.

    Raises:
        InvalidValueError: `nheads` does not divide `dim`.
    """

    def __init__(self, *, dim: int, nheads: int, dropout: float) -> None:
        super().__init__()
        if nheads < 1 or dim % nheads:
            raise InvalidValueError(
                f"attention: {nheads} heads do not divide {dim} channels; the number of channels must be a "
                "multiple of the number of heads.",
                hint="set hidden_dim and nheads so that hidden_dim % nheads == 0, e.g. 256 and 8",
                value=nheads,
            )
        self.nheads = nheads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: Tensor, first: int, count: int = 1) -> Tensor:
        """Project x (B, S, C) to (B, S, count * C).

        Args:
            x: (B, S, C).
            first: the first projection: 0 query, 1 key, 2 value.
            count: how many, from `first` on.
        """
        dim = x.shape[-1]
        rows = slice(first * dim, (first + count) * dim)
        return linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])  # (B, S, count * C)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        """Mix values.

        Args:
            query: (B, Q, C), projected, as key and value are.
            key: (B, S, C).
            value: (B, S, C).
            allowed: (B, Q, S) bool, False where a query must not look; no row may be all False.

        Returns:
            (B, Q, C), after the output projection.
        """
        mixed = F.scaled_dot_product_attention(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            attn_mask=None if allowed is None else allowed[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, M, Q, d)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # (B, Q, C)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        return x.view(batch, length, self.nheads, dim // self.nheads).transpose(1, 2)  # (B, M, S, d)
