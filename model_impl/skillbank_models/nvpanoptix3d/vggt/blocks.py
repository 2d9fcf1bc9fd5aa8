"""Transformer block of DINOv2 and VGGT: attention and MLP, each with norm before and a learned scale behind.

Letters: `B` batch, `M` heads, `T` tokens, `C` channels, `d = C / M`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.layers.linear import Linear
from skillbank_models.layers.mlp import Mlp
from skillbank_models.nvpanoptix3d.vggt.rotary import Rotation, rotate

__all__ = ["Attention", "Block"]

HEAD_EPS = 1e-5  # epsilon of the norms of queries and keys


class Attention(nn.Module):
    """Attention of all tokens to all; queries and keys may be normalised per head and turned by position."""

    def __init__(self, *, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads, eps=HEAD_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads, eps=HEAD_EPS) if qk_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, by: Rotation | None) -> Tensor:
        """Mix tokens, (B, T, C) to the same shape.

        Args:
            x: normalised tokens.
            by: rotation of queries and keys; None leaves them.
        """
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, M, d)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (B, M, T, d) each
        query, key = self.q_norm(query), self.k_norm(key)
        if by is not None:
            query, key = rotate(query, by), rotate(key, by)
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B, M, T, d)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # (B, T, C)
        return out


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, *, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each added to what came in.

    Args:
        dim: channels C.
        num_heads: heads M.
        mlp_ratio: hidden channels of the MLP, as a multiple of C.
        eps: of both norms.
        layer_scale: factor that the added parts start with.
        qk_norm: normalise queries and keys of each head.

    Source: Oquab et al. 2023 (DINOv2) and Wang et al. 2025 (VGGT), parameter names as in
    facebookresearch/vggt, layers/block.py.
    """

    def __init__(
        self, *, dim: int, num_heads: int, mlp_ratio: float, eps: float, layer_scale: float, qk_norm: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim=dim, num_heads=num_heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim=dim, start=layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim=dim, hidden=int(dim * mlp_ratio), out=dim, drop=0.0)
        self.ls2 = LayerScale(dim=dim, start=layer_scale)

    def forward(self, x: Tensor, by: Rotation | None) -> Tensor:
        """Refine tokens, (B, T, C) to the same shape.

        Args:
            x: tokens.
            by: rotation of queries and keys; None leaves them.
        """
        x = x + self.ls1(self.attn(self.norm1(x), by))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out
