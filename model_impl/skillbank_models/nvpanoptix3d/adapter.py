"""Turns the tokens of the backbone into the four maps that the pixel decoder reads.

Letters: `B` batch, `T` patch tokens, `C` channels, `h w` grid of patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.nvpanoptix3d.vggt.tables import add_uv_waves

__all__ = ["MAPS", "STRIDES", "TokenAdapter"]

MAPS = ("res2", "res3", "res4", "res5")
# As the pixel decoder counts them. Patches of 14 pixels make them 3.5 to 28, and a wide image less again.
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TokenAdapter(nn.Module):
    """One map from each tap of the backbone: the first at four times the grid of patches, the last at half.

    Args:
        token_dim: channels of a token.
        dim: channels inside, a multiple of 4.
        channels: of the four maps.
        use_checkpoint: compute a map again in the backward pass instead of keeping what it was made of.

    Attributes:
        channels: name -> channels of a map.
        strides: name -> nominal stride of a map.

    Source: public documentation of NVPanoptix3D; the depth head of VGGT (Wang et al. 2025), whose resizing
    this repeats.
    """

    def __init__(self, *, token_dim: int, dim: int, channels: Sequence[int], use_checkpoint: bool) -> None:
        super().__init__()
        self.channels = dict(zip(MAPS, channels, strict=True))
        self.strides = dict(STRIDES)
        self.use_checkpoint = use_checkpoint
        self.norm = nn.LayerNorm(token_dim)
        self.projects = nn.ModuleList(nn.Conv2d(token_dim, dim, 1) for _ in MAPS)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(dim, dim, 4, stride=4),
                nn.ConvTranspose2d(dim, dim, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(dim, dim, 3, stride=2, padding=1),
            ]
        )
        self.outputs = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
        """Adapt.

        Args:
            taps: four sets of patch tokens (B, T, token_dim), shallow to deep.
            grid: rows and columns of patches; T is their product.

        Returns:
            name -> (B, channels[name], ., .), of 4, 2, 1 and half times the grid.
        """
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        maps = {}
        for place, (name, tokens) in enumerate(zip(MAPS, taps, strict=True)):
            if recompute:
                maps[name] = checkpoint(self._map, place, tokens, grid, use_reentrant=False)
            else:
                maps[name] = self._map(place, tokens, grid)
        return maps

    def _map(self, place: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        height, width = grid
        x = self.norm(tokens).transpose(1, 2).unflatten(2, (height, width))  # (B, token_dim, h, w)
        x = add_uv_waves(self.projects[place](x), aspect=width / height)  # (B, C, h, w)
        x = self.resize_layers[place](x)  # (B, C, ., .)
        return self.outputs[place](x)  # type: ignore[no-any-return]  # (B, channels, ., .)
