"""Queries that turn into classes and masks, each looking only at the pixels of its own last mask.

Letters: `L` predictions, `B` batch, `Q` queries, `S` pixels of a level, `C` channels, `K` classes, `h w` map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.layers.linear import Linear, linear
from skillbank_models.layers.positions import sine_positions
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.layers.query_layers import CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer

__all__ = ["MaskedAttentionDecoder"]


class _MaskEmbedding(nn.Module):
    """Three linear maps with ReLU between."""

    def __init__(self, dim: int, mask_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Linear(dim, dim), Linear(dim, dim), Linear(dim, mask_dim)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))  # type: ignore[no-any-return]  # (B, Q, mask_dim)


class MaskedAttentionDecoder(nn.Module):
    """Layers of masked cross-attention, self-attention and feed-forward.

    Layer i looks at map i mod `num_levels`, masked by the prediction before it.

    Args:
        in_channels: width of the maps.
        hidden_dim: width C of the queries, a multiple of 4.
        mask_dim: width of the mask features.
        num_classes: classes K, without no-object.
        num_queries: queries Q.
        nheads: attention heads; must divide `hidden_dim`.
        dim_feedforward: hidden width of the feed-forward parts.
        num_layers: layers; there is one prediction more than layers.
        dropout: share of dropped activations and attention weights while training.
        pre_norm: normalise before each step instead of after it.
        num_levels: maps.
        use_checkpoint: keep only the inputs of each layer for the backward pass and compute the rest again.

    Source: Cheng et al. 2022 (Mask2Former), section 3.2. Names and start values as in
    facebookresearch/Mask2Former (MIT). Differs: attention masks come from mask features that are resized once
    for each level, which gives the same logits, since both are linear.
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
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.num_levels = num_levels
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        self.input_proj = nn.ModuleList(_projection(in_channels, hidden_dim) for _ in range(num_levels))
        attention: dict[str, Any] = {
            "dim": hidden_dim,
            "nheads": nheads,
            "dropout": dropout,
            "pre_norm": pre_norm,
        }
        layers = range(num_layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(**attention) for _ in layers
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(**attention) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(
                dim=hidden_dim, dim_feedforward=dim_feedforward, dropout=dropout, pre_norm=pre_norm
            )
            for _ in layers
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        self.mask_embed = _MaskEmbedding(hidden_dim, mask_dim)

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
        layers = len(self.transformer_ffn_layers)
        used = range(min(self.num_levels, layers))
        memories = [self._memory(i, levels[i]) for i in used]  # each (B, S, C)
        keyed = [
            memory + _positions(levels[i], memory) for i, memory in enumerate(memories)
        ]  # each (B, S, C)
        small = [_resized(mask_features, levels[i]) for i in used]  # each (B, mask_dim, S)
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        projected = None if recompute else [self._project(i, keyed[i], memories[i]) for i in used]
        x = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)  # (B, Q, C)
        states = [self.decoder_norm(x)]
        embeds = [self.mask_embed(states[0])]
        for i in range(layers):
            level = i % self.num_levels
            allowed = _allowed(embeds[-1], small[level])  # (B, Q, S)
            if projected is None:
                x = checkpoint(self._layer, i, x, keyed[level], memories[level], allowed, use_reentrant=False)
            else:
                x = self._step(i, x, *projected[level][i // self.num_levels], allowed)
            states.append(self.decoder_norm(x))
            embeds.append(self.mask_embed(states[-1]))
        if not all_layers:
            states, embeds = states[-1:], embeds[-1:]
        class_logits = self.class_embed(torch.stack(states))  # (L, B, Q, K + 1)
        return MaskPredictions(class_logits, torch.stack(embeds), mask_features)

    def _memory(self, index: int, level: Tensor) -> Tensor:
        """One map as rows of pixels, marked with its level, (B, S, C)."""
        rows = self.input_proj[index](level).flatten(2).transpose(1, 2)  # (B, S, C)
        return rows + self.level_embed.weight[index]  # type: ignore[no-any-return]

    def _project(self, level: int, keyed: Tensor, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (B, S, C) of all layers that look at one level, each as one matrix product."""
        attentions = [
            self._cross(i).multihead_attn
            for i in range(level, len(self.transformer_ffn_layers), self.num_levels)
        ]
        dim = memory.shape[-1]
        weights = torch.stack([each.in_proj_weight for each in attentions])  # (layers, 3 * C, C)
        biases = torch.stack([each.in_proj_bias for each in attentions])  # (layers, 3 * C)
        of_keys, of_values = slice(dim, 2 * dim), slice(2 * dim, None)
        key = linear(keyed, weights[:, of_keys].flatten(0, 1), biases[:, of_keys].flatten())
        value = linear(memory, weights[:, of_values].flatten(0, 1), biases[:, of_values].flatten())
        return list(zip(torch.split(key, dim, -1), torch.split(value, dim, -1), strict=True))

    def _layer(self, index: int, x: Tensor, keyed: Tensor, memory: Tensor, allowed: Tensor) -> Tensor:
        """A layer with its own projections, so that they need not be kept."""
        attention = self._cross(index).multihead_attn
        return self._step(index, x, attention.project(keyed, 1), attention.project(memory, 2), allowed)

    def _step(self, index: int, x: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        places = self.query_embed.weight  # (Q, C)
        x = self._cross(index)(x, places, key, value, allowed)
        x = self.transformer_self_attention_layers[index](x, places)
        return self.transformer_ffn_layers[index](x)  # type: ignore[no-any-return]  # (B, Q, C)

    def _cross(self, index: int) -> CrossAttentionLayer:
        return cast("CrossAttentionLayer", self.transformer_cross_attention_layers[index])


@torch.no_grad()
def _resized(mask_features: Tensor, level: Tensor) -> Tensor:
    """Mask features at the size of one level, (B, mask_dim, S)."""
    small = F.interpolate(mask_features, level.shape[-2:], mode="bilinear", align_corners=False)
    return small.flatten(2)  # (B, mask_dim, S)


@torch.no_grad()
def _allowed(embeds: Tensor, small: Tensor) -> Tensor:
    """Pixels (B, Q, S) where a mask is at least as likely as not; all of them for a mask that is nowhere."""
    blocked = torch.bmm(embeds, small.to(embeds.dtype)) < 0  # (B, Q, S)
    return ~blocked | blocked.all(dim=-1, keepdim=True)


def _positions(level: Tensor, memory: Tensor) -> Tensor:
    height, width = level.shape[-2:]
    places = sine_positions(height, width, memory.shape[-1], dtype=memory.dtype, device=memory.device)
    return places.flatten(0, 1)  # (S, C)


def _projection(in_channels: int, hidden_dim: int) -> nn.Module:
    if in_channels == hidden_dim:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, hidden_dim, 1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
