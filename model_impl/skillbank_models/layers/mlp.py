"""The feed-forward part of a transformer block.

Letters: `B` batch, `T` tokens, `C` channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillbank_models.layers.linear import Linear

__all__ = ["Mlp"]

_CACHED = 2**20  # numbers of a hidden layer that stay in a processor's cache


class Mlp(nn.Module):
    """Two projections with GELU between them, per token."""

    def __init__(self, *, dim: int, hidden: int, out: int, drop: float) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, out)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens, (B, T, C) -> (B, T, C_out)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return self._map(x)
        rows = max(_CACHED // self.fc1.out_features, 1)
        parts = [self._map(part) for part in torch.split(x.flatten(0, 1), rows)]
        return torch.cat(parts).reshape(*x.shape[:2], -1)  # (B, T, C_out)

    def _map(self, x: Tensor) -> Tensor:
        hidden = self.drop(F.gelu(self.fc1(x)))  # (..., hidden)
        out: Tensor = self.drop(self.fc2(hidden))  # (..., C_out)
        return out
