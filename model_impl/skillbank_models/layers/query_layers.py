"""The three steps of a query decoder layer: look at a map, look at each other, transform.

Letters: `B` batch, `Q` queries, `S` pixels of one level, `C` channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.layers.linear import Linear
from skillbank_models.layers.packed_attention import PackedAttention

__all__ = ["CrossAttentionLayer", "FeedForwardLayer", "SelfAttentionLayer"]


class _Residual(nn.Module):
    """What the steps share: one norm, before or after the step, dropout, and the sum with the input."""

    def __init__(self, *, dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = dropout
        self.pre_norm = pre_norm

    def before(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, change: Tensor) -> Tensor:
        x = x + self.drop(change)
        return x if self.pre_norm else self.norm(x)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class CrossAttentionLayer(_Residual):
    """Queries gather from the pixels that they are allowed to see."""

    def __init__(self, *, dim: int, nheads: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim=dim, dropout=dropout, pre_norm=pre_norm)
        self.multihead_attn = PackedAttention(dim=dim, nheads=nheads, dropout=dropout)

    def forward(self, x: Tensor, places: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """Look at one level.

        Args:
            x: (B, Q, C).
            places: (Q, C), learned positions of the queries.
            key: (B, S, C), projected.
            value: (B, S, C), projected.
            allowed: (B, Q, S) bool.

        Returns:
            (B, Q, C).
        """
        query = self.multihead_attn.project(self.before(x) + places, 0)  # (B, Q, C)
        return self.after(x, self.multihead_attn.attend(query, key, value, allowed))


class SelfAttentionLayer(_Residual):
    """Queries exchange what they found."""

    def __init__(self, *, dim: int, nheads: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim=dim, dropout=dropout, pre_norm=pre_norm)
        self.self_attn = PackedAttention(dim=dim, nheads=nheads, dropout=dropout)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Take x (B, Q, C) and places (Q, C) to (B, Q, C)."""
        start = self.before(x)
        query, key = self.self_attn.project(start + places, 0, 2).chunk(2, dim=-1)  # (B, Q, C) each
        value = self.self_attn.project(start, 2)  # (B, Q, C)
        return self.after(x, self.self_attn.attend(query, key, value, None))


class FeedForwardLayer(_Residual):
    """Two linear maps with ReLU between."""

    def __init__(self, *, dim: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim=dim, dropout=dropout, pre_norm=pre_norm)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) to the same shape."""
        hidden = F.relu(self.linear1(self.before(x)))  # (B, Q, F)
        return self.after(x, self.linear2(self.drop(hidden)))
