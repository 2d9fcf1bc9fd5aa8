"""Encoder that mixes the pixels of several maps by deformable attention.

Letters: `B` batch, `S` pixels of all levels, `C` channels, `L` levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.layers.deformable_attention import MultiScaleDeformableAttention
from skillbank_models.layers.linear import Linear
from skillbank_models.layers.positions import pixel_centres, sine_positions

__all__ = ["DeformableEncoder", "DeformableEncoderLayer"]

ROWS = 2048  # pixels at a time on a processor without gradients; measured: less is slower on many cores
POINTS = 4  # samples of each head and level, as in the published models


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each added and then normalised."""

    def __init__(
        self,
        *,
        dim: int,
        dim_feedforward: int,
        nheads: int,
        num_levels: int,
        dropout: float,
        deterministic: bool,
    ) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            dim=dim, num_levels=num_levels, nheads=nheads, num_points=POINTS, deterministic=deterministic
        )
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = dropout
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, x: Tensor, positions: Tensor, centres: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """One step.

        Args:
            x: (B, S, C).
            positions: (S, C), added to the queries.
            centres: (S, 2), where each pixel is in its own map.
            sizes: height and width of each level.

        Returns:
            (B, S, C).
        """
        mixed = self.self_attn(x + positions, centres, x, sizes)  # (B, S, C)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return self._transform(x, mixed)
        # Pixels do not meet from here on; a piece of them stays in the processor's cache.
        pieces = zip(x.split(ROWS, dim=1), mixed.split(ROWS, dim=1), strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([self._transform(*piece) for piece in pieces], dim=1)  # (B, S, C)

    def _transform(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.norm1(x + self._drop(mixed))
        # in place under autograd would copy the gradient of a result that is a view
        hidden = F.relu(self.linear1(x), inplace=not torch.is_grad_enabled())  # (B, S, F)
        return self.norm2(x + self._drop(self.linear2(self._drop(hidden))))  # type: ignore[no-any-return]

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class _Layers(nn.Module):
    """Holds the layers under the name that published weights have for them."""

    def __init__(self, layers: Sequence[DeformableEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableEncoder(nn.Module):
    """Deformable attention over the pixels of several maps of equal width.

    Args:
        dim: channels C, a multiple of 4.
        dim_feedforward: hidden width of the feed-forward part.
        nheads: attention heads; must divide `dim`.
        num_layers: layers.
        num_levels: maps.
        dropout: share of dropped activations while training.
        deterministic: see `MultiScaleDeformableAttention`.
        use_checkpoint: keep only the input of each layer for the backward pass and compute the rest again.

    Source: Cheng et al. 2022 (Mask2Former), section 4.2.1; Zhu et al. 2020 (Deformable DETR). Names and start
    values as in facebookresearch/Mask2Former (MIT).
    """

    def __init__(
        self,
        *,
        dim: int,
        dim_feedforward: int,
        nheads: int,
        num_layers: int,
        num_levels: int,
        dropout: float,
        deterministic: bool,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)
        self.encoder = _Layers(
            [
                DeformableEncoderLayer(
                    dim=dim,
                    dim_feedforward=dim_feedforward,
                    nheads=nheads,
                    num_levels=num_levels,
                    dropout=dropout,
                    deterministic=deterministic,
                )
                for _ in range(num_layers)
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix.

        Args:
            maps: (B, C, h, w) of each level.

        Returns:
            Maps of the same shapes; their memory is ordered pixel by pixel (channels last).
        """
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)  # (B, S, C)
        positions = self._positions(sizes, x)  # (S, C)
        centres = pixel_centres(sizes, device=x.device)  # (S, 2)
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        for layer in self.encoder.layers:
            if recompute:
                x = checkpoint(layer, x, positions, centres, sizes, use_reentrant=False)
            else:
                x = layer(x, positions, centres, sizes)
        parts = torch.split(x, [height * width for height, width in sizes], dim=1)
        return [
            part.view(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)
            for part, (height, width) in zip(parts, sizes, strict=True)
        ]  # L x (B, C, h, w)

    def _positions(self, sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        channels = like.shape[-1]
        return torch.cat(
            [
                sine_positions(height, width, channels, dtype=like.dtype, device=like.device).flatten(0, 1)
                + level
                for (height, width), level in zip(sizes, self.level_embed, strict=True)
            ]
        )  # (S, C)
