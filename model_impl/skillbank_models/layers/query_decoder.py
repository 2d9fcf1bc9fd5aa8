"""What decoders of mask queries share: the queries, their rounds, and the heads that all rounds predict with.

Letters: `L` predictions, `B` batch, `Q` queries, `S` pixels of a level, `C` channels, `K` classes, `h w` map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.layers.level_memory import LevelMemory
from skillbank_models.layers.linear import Linear
from skillbank_models.layers.packed_attention import PackedAttention
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.layers.query_layers import CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer

__all__ = ["QueryDecoder"]


class _MaskEmbedding(nn.Module):
    """Three linear maps with ReLU between."""

    def __init__(self, dim: int, mask_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Linear(dim, dim), Linear(dim, dim), Linear(dim, mask_dim)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))  # type: ignore[no-any-return]  # (B, Q, mask_dim)


class QueryDecoder(nn.Module):
    """Queries that look at maps, at each other and then predict, several times over.

    Layer i looks at map i mod `num_levels` of each set of maps, masked by the prediction before it. What sets
    there are, and the order of looking, is up to the class that is derived from this one.

    Args:
        in_channels: width of the maps that `input_proj` projects.
        hidden_dim: width C of the queries, a multiple of 4.
        mask_dim: width of the mask features.
        num_classes: classes K, without no-object.
        num_queries: queries Q.
        nheads: attention heads; must divide `hidden_dim`.
        dim_feedforward: hidden width of the feed-forward parts.
        num_layers: layers; there is one prediction more than layers.
        dropout: share of dropped activations and attention weights while training.
        pre_norm: normalise before each step instead of after it.
        num_levels: maps of a set.
        use_checkpoint: keep only the inputs of each layer for the backward pass and compute the rest again.
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

    def looks(self) -> list[nn.ModuleList]:
        """The cross-attention layers of each set of maps, in the order in which a layer looks at the sets."""
        return [self.transformer_cross_attention_layers]

    def memory(
        self,
        levels: Sequence[Tensor],
        *,
        projections: nn.ModuleList | None,
        level_embed: nn.Embedding,
        layers: nn.ModuleList,
    ) -> LevelMemory:
        """Prepare one set of maps.

        Args:
            levels: `num_levels` maps (B, ., h, w), coarse to fine.
            projections: of each map to C channels, if any.
            level_embed: marks the maps.
            layers: those that look at the set.
        """
        return LevelMemory(
            levels,
            projections=projections,
            level_embed=level_embed.weight,
            attentions=[cast("PackedAttention", layer.multihead_attn) for layer in layers],
            project=not self._recomputes(),
        )

    def decode(
        self,
        memories: Sequence[LevelMemory],
        mask_features: Tensor,
        sizes: Sequence[tuple[int, int]],
        *,
        all_layers: bool,
    ) -> tuple[MaskPredictions, Tensor]:
        """Decode.

        Args:
            memories: a set of maps for each entry of `looks`.
            mask_features: (B, mask_dim, h, w) of any size.
            sizes: height and width of each level.
            all_layers: predictions of all layers and of the start; False gives the last one only.

        Returns:
            `num_layers + 1` predictions, or one; normalised queries of the last layer, (B, Q, C).
        """
        layers = len(self.transformer_ffn_layers)
        small = [
            _resized(mask_features, size) for size in sizes[: min(self.num_levels, layers)]
        ]  # each (B, mask_dim, S)
        x = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)  # (B, Q, C)
        states = [self.decoder_norm(x)]
        embeds = [self.mask_embed(states[0])]
        for i in range(layers):
            allowed = _allowed(embeds[-1], small[i % self.num_levels])  # (B, Q, S)
            rows = [tensor for memory in memories for tensor in memory.rows(i)]
            if self._recomputes():
                x = checkpoint(self._layer, i, x, allowed, *rows, use_reentrant=False)
            else:
                x = self._step(i, x, allowed, *rows)
            states.append(self.decoder_norm(x))
            embeds.append(self.mask_embed(states[-1]))
        last = states[-1]
        if not all_layers:
            states, embeds = states[-1:], embeds[-1:]
        class_logits = self.class_embed(torch.stack(states))  # (L, B, Q, K + 1)
        return MaskPredictions(class_logits, torch.stack(embeds), mask_features), last

    def _recomputes(self) -> bool:
        return self.use_checkpoint and torch.is_grad_enabled()

    def _layer(self, index: int, x: Tensor, allowed: Tensor, *rows: Tensor) -> Tensor:
        """A layer with its own projections, so that they need not be kept."""
        projected: list[Tensor] = []
        for look, keyed, memory in zip(self.looks(), rows[::2], rows[1::2], strict=True):
            attention = _cross(look, index).multihead_attn
            projected += [attention.project(keyed, 1), attention.project(memory, 2)]
        return self._step(index, x, allowed, *projected)

    def _step(self, index: int, x: Tensor, allowed: Tensor, *rows: Tensor) -> Tensor:
        places = self.query_embed.weight  # (Q, C)
        for look, key, value in zip(self.looks(), rows[::2], rows[1::2], strict=True):
            x = _cross(look, index)(x, places, key, value, allowed)
        x = self.transformer_self_attention_layers[index](x, places)
        return self.transformer_ffn_layers[index](x)  # type: ignore[no-any-return]  # (B, Q, C)


def _cross(look: nn.ModuleList, index: int) -> CrossAttentionLayer:
    return cast("CrossAttentionLayer", look[index])


@torch.no_grad()
def _resized(mask_features: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask features at the size of one level, (B, mask_dim, S)."""
    small = F.interpolate(mask_features, size, mode="bilinear", align_corners=False)
    return small.flatten(2)  # (B, mask_dim, S)


@torch.no_grad()
def _allowed(embeds: Tensor, small: Tensor) -> Tensor:
    """Pixels (B, Q, S) where a mask is at least as likely as not; all of them for a mask that is nowhere."""
    blocked = torch.bmm(embeds, small.to(embeds.dtype)) < 0  # (B, Q, S)
    return ~blocked | blocked.all(dim=-1, keepdim=True)


def _projection(in_channels: int, hidden_dim: int) -> nn.Module:
    if in_channels == hidden_dim:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, hidden_dim, 1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
