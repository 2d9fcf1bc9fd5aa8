"""What the cross-attention layers of a query decoder look at: maps as rows of pixels, prepared once.

Letters: `B` batch, `S` pixels of a level, `C` channels, `h w` map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skillbank_models.layers.linear import linear
from skillbank_models.layers.packed_attention import PackedAttention
from skillbank_models.layers.positions import sine_positions

__all__ = ["LevelMemory"]


class LevelMemory:
    """One set of maps; layer i looks at map i mod the number of maps.

    Args:
        levels: maps (B, ., h, w), coarse to fine.
        projections: one for each map, to (B, C, h, w); None where the maps have C channels already.
        level_embed: (levels, C), marks the pixels of a map.
        attentions: of all layers that look at these maps.
        project: keys and values of all layers that look at one map as one product each, here; False leaves
            them to the layer, which then need not keep them.
    """

    def __init__(
        self,
        levels: Sequence[Tensor],
        *,
        projections: nn.ModuleList | None,
        level_embed: Tensor,
        attentions: Sequence[PackedAttention],
        project: bool,
    ) -> None:
        self.num_levels = len(level_embed)
        self._memories: list[Tensor] = []
        self._keyed: list[Tensor] = []
        for place in range(min(self.num_levels, len(attentions))):
            level = levels[place] if projections is None else projections[place](levels[place])
            memory = level.flatten(2).transpose(1, 2) + level_embed[place]  # (B, S, C)
            self._memories.append(memory)
            self._keyed.append(memory + _positions(levels[place], memory))  # (B, S, C)
        self._projected = (
            [
                _project(attentions[place :: self.num_levels], keyed, memory)
                for place, (keyed, memory) in enumerate(zip(self._keyed, self._memories, strict=True))
            ]
            if project
            else None
        )

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, C) of a layer, or, where they are left to it, what they are made from."""
        place = layer % self.num_levels
        if self._projected is None:
            return self._keyed[place], self._memories[place]
        return self._projected[place][layer // self.num_levels]


def _project(
    attentions: Sequence[PackedAttention], keyed: Tensor, memory: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (B, S, C) of all layers that look at one level, each as one matrix product."""
    dim = memory.shape[-1]
    weights = torch.stack([each.in_proj_weight for each in attentions])  # (layers, 3 * C, C)
    biases = torch.stack([each.in_proj_bias for each in attentions])  # (layers, 3 * C)
    of_keys, of_values = slice(dim, 2 * dim), slice(2 * dim, None)
    key = linear(keyed, weights[:, of_keys].flatten(0, 1), biases[:, of_keys].flatten())
    value = linear(memory, weights[:, of_values].flatten(0, 1), biases[:, of_values].flatten())
    return list(zip(torch.split(key, dim, -1), torch.split(value, dim, -1), strict=True))


def _positions(level: Tensor, memory: Tensor) -> Tensor:
    height, width = level.shape[-2:]
    places = sine_positions(height, width, memory.shape[-1], dtype=memory.dtype, device=memory.device)
    return places.flatten(0, 1)  # (S, C)
