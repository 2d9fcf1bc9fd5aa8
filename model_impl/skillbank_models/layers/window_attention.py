"""Attention within windows that may be shifted, with a learned bias for each relative position.

Letters: `B` batch, `T` tokens, `C` channels, `N` tokens of a window, `S` slots (all windows times N).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillbank_models.layers.linear import Linear
from skillbank_models.layers.windows import WindowLayout, relative_position_index, shift_masks

__all__ = ["WindowAttention"]

_APART = -100.0  # added to the logits of pairs that must not see each other, as in the published code


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each relative position.

    Args:
        dim: channels.
        window: side of a window, in tokens.
        shift: how far the windows are shifted, 0 for not at all.
        num_heads: heads; they divide dim.
        qkv_bias: bias in the joint projection.
        qk_scale: scale of the logits; None for head width ** -0.5.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout after the projection.

    Source: Liu et al. 2021, "Swin Transformer", section 3.2.
    """

    relative_position_index: Tensor
    apart: Tensor

    def __init__(
        self,
        *,
        dim: int,
        window: int,
        shift: int,
        num_heads: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.window, self.num_heads, self.attn_drop = window, num_heads, attn_drop
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        apart = (
            shift_masks(window, shift) if shift else torch.zeros(1, window**2, window**2, dtype=torch.bool)
        )
        self.register_buffer("apart", apart, persistent=False)
        self._kept_bias: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, x: Tensor, layout: WindowLayout) -> Tensor:
        """Let the tokens of each window see each other, (B, T, C) -> (B, T, C)."""
        batch, _, channels = x.shape
        rows = x.flatten(0, 1)  # (B T, C)
        if layout.padding is not None:  # padding is zero before the projection, its bias after
            rows = torch.cat([rows, rows.new_zeros(1, channels)])  # (B T + 1, C)
        qkv = layout.cut(self.qkv(rows))  # (S, 3 C)
        qkv = qkv.reshape(-1, self.window**2, 3, self.num_heads, channels // self.num_heads)
        out = self._attend(qkv, layout, batch).reshape(-1, channels)  # (S, C)
        out = layout.merge(out)  # (B T, C)
        projected: Tensor = self.proj_drop(self.proj(out))
        return projected.reshape(x.shape)  # (B, T, C)

    def _attend(self, qkv: Tensor, layout: WindowLayout, batch: int) -> Tensor:
        """(windows B, N, 3, heads, C / heads) -> (windows B, N, heads, C / heads)."""
        bias = self._bias(qkv.dtype)  # (kinds, heads, N, N)
        if torch.compiler.is_compiling():  # sizes may be symbolic: all windows at once, their masks looked up
            windows = -1
            if layout.kinds is not None:
                windows = layout.kinds.shape[0]
                bias = bias.index_select(0, layout.kinds)  # (windows, heads, N, N)
            qkv = qkv.reshape(windows, batch, *qkv.shape[1:])  # (windows, B, N, 3, heads, C / heads)
            return self._weigh(qkv, bias[:, None]).flatten(0, 1)  # (windows B, N, heads, C / heads)
        groups = qkv.split_with_sizes(
            layout.counts
        )  # one split by kind: each slice would get a gradient of full size
        parts = [
            self._weigh(group, bias[kind : kind + 1]) for kind, group in enumerate(groups) if group.shape[0]
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _weigh(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Windows that share a bias, (..., N, 3, heads, C / heads) -> (..., N, heads, C / heads)."""
        dropout = self.attn_drop if self.training else 0.0
        query, key, value = qkv.movedim(-3, 0).transpose(-3, -2).unbind(0)  # each (..., heads, N, C / heads)
        explicit = dropout > 0.0 or (bias.requires_grad and torch.is_grad_enabled())
        if torch.compiler.is_exporting():
            logits = (query * self.scale) @ key.transpose(-2, -1) + bias  # (windows, B, heads, N, N)
            out = logits.softmax(-1) @ value  # (windows, B, heads, N, C / heads)
        elif qkv.device.type == "cpu" and explicit and not torch.compiler.is_compiling():
            out = _explicit_attention(query * self.scale, key, value, bias, dropout)
        else:
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, dropout_p=dropout, scale=self.scale
            )
        return out.transpose(-3, -2)  # (..., N, heads, C / heads)

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """What is added to the logits, by kind of window, (kinds, heads, N, N)."""
        table = self.relative_position_bias_table
        learning = torch.is_grad_enabled() and table.requires_grad
        if self.training or learning or torch.compiler.is_compiling() or table.is_inference():
            return self._make_bias(dtype)
        state = (dtype, table.device, table.data_ptr(), table._version)
        if self._kept_bias is None or self._kept_bias[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept_bias = (state, self._make_bias(dtype))
        return self._kept_bias[1]

    def _make_bias(self, dtype: torch.dtype) -> Tensor:
        index = self.relative_position_index
        bias = self.relative_position_bias_table.t()[:, index.flatten()]  # (heads, N N)
        bias = bias.reshape(1, self.num_heads, *index.shape)  # (1, heads, N, N)
        return (bias + _APART * self.apart[:, None]).to(dtype)  # (kinds, heads, N, N)

    def train(self, mode: bool = True) -> WindowAttention:
        """Switch between training and evaluation; what was kept for evaluation is forgotten."""
        self._kept_bias = None
        return super().train(mode)


def _explicit_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Attention of (windows, heads, N, C / heads); torch's own for this case makes several passes more."""
    shape = query.shape
    # contiguous: what is saved of a single window must not hold on to the projections of all
    query, key, value = (part.reshape(-1, *shape[2:]).contiguous() for part in (query, key, value))
    logits = torch.bmm(query, key.transpose(1, 2)).view(*shape[:3], shape[2])  # (windows, heads, N, N)
    logits += bias  # in place: nothing keeps the product
    weights = F.dropout(logits.softmax(-1), dropout)
    return torch.bmm(weights.flatten(0, 1), value).view(shape)  # (windows, heads, N, C / heads)
