"""Dense prediction head of VGGT: four maps of tokens to depth, and to the fused maps behind it.

Letters: `B` batch, `H W` resized image, `h w` grid of patches, `P` = h w patches, `C` channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.nvpanoptix3d.vggt.tables import add_uv_waves

__all__ = ["DepthHead"]

EPS = 1e-5
HIDDEN = 32  # channels before the last convolution, of the published model


class ResidualConv(nn.Module):
    """Two convolutions beside the rectified input.

    The published module rectifies its input in place, so that the skip is rectified, too; weights were
    trained with that.

    Source: facebookresearch/vggt, heads/dpt_head.py, `ResidualConvUnit`.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ., .) to the same shape."""
        x = F.relu(x)
        out: Tensor = self.conv2(F.relu(self.conv1(x))) + x
        return out


class Fusion(nn.Module):
    """Add a finer map, refine, enlarge.

    Source: facebookresearch/vggt, heads/dpt_head.py, `FeatureFusionBlock`. Differs: the 1 x 1 convolution
    runs before enlarging, at a quarter of the work; the two commute, since bilinear weights add up to one.
    """

    def __init__(self, *, channels: int, has_skip: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        if has_skip:
            self.resConfUnit1 = ResidualConv(channels=channels)
        self.resConfUnit2 = ResidualConv(channels=channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Refine and enlarge.

        Args:
            x: (B, C, ., .), from the coarser level.
            skip: a map of the same shape to add; None at the coarsest level.
            size: of the result.
        """
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.out_conv(self.resConfUnit2(x))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)  # (B, C, *size)


class _Scratch(nn.Module):
    """Holds the layers behind the tokens under the name that published weights have for them."""

    def __init__(self, *, channels: Sequence[int], features: int) -> None:
        super().__init__()
        for level, own in enumerate(channels, 1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(own, features, 3, padding=1, bias=False))
        for level in range(1, 5):
            self.add_module(f"refinenet{level}", Fusion(channels=features, has_skip=level < 4))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, HIDDEN, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN, 2, 1),  # logarithm of depth, and of a confidence
        )

    def last(self, x: Tensor) -> Tensor:
        """Depth from the last hidden map, (B, 32, H, W) -> (B, H, W).

        An exponential makes relative errors of rounded inputs; 16 bits would leave half a percent.
        """
        layer: Any = self.output_conv2[2]
        precise = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            depth = F.conv2d(x.to(precise), layer.weight[:1].to(precise), layer.bias[:1].to(precise))
            return depth[:, 0].exp()  # (B, H, W)


class DepthHead(nn.Module):
    """Tokens of four depths to a depth map and the fused maps it is made of.

    Args:
        in_channels: channels of the tokens.
        channels: of the four maps, fine to coarse.
        features: channels of the fused maps.

    Source: Ranftl et al. 2021 (DPT), Wang et al. 2025 (VGGT); parameter names as in facebookresearch/vggt,
    heads/dpt_head.py. Differs: the confidence is not computed, for nothing reads it.
    """

    def __init__(self, *, in_channels: int, channels: Sequence[int], features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels, eps=EPS)
        self.projects = nn.ModuleList(nn.Conv2d(in_channels, own, 1) for own in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = _Scratch(channels=channels, features=features)

    def forward(
        self, taps: Sequence[Tensor], grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Read the depth.

        Args:
            taps: four times (B, P, C).
            grid: rows h and columns w of the patches.
            size: H and W of the resized image.

        Returns:
            Depth (B, H, W) in metres, float32 or better, and the fused maps, fine to coarse, whose sides are
            8, 4 and 2 times those of the grid, and the same.
        """
        aspect = size[1] / size[0]
        fused = self._fuse([self._level(level, tap, grid, aspect) for level, tap in enumerate(taps)])
        x = self.scratch.output_conv1(fused[0])  # (B, C / 2, 8 h, 8 w)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)  # (B, C / 2, H, W)
        x = self.scratch.output_conv2[:2](add_uv_waves(x, aspect=aspect))  # (B, 32, H, W)
        return self.scratch.last(x), fused

    def _level(self, level: int, tap: Tensor, grid: tuple[int, int], aspect: float) -> Tensor:
        """Tokens (B, P, C) to the map of a level."""
        x = self.norm(tap).mT.unflatten(2, grid)  # (B, C, h, w)
        x = add_uv_waves(self.projects[level](x), aspect=aspect)
        x = self.resize_layers[level](x)
        out: Tensor = getattr(self.scratch, f"layer{level + 1}_rn")(x)
        return out

    def _fuse(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Fused maps, fine to coarse."""
        x, skip = maps[3], None
        fused: list[Tensor] = []
        for level in (3, 2, 1, 0):
            finer = maps[level - 1].shape[-2:] if level else [2 * side for side in maps[0].shape[-2:]]
            x = getattr(self.scratch, f"refinenet{level + 1}")(x, skip, (finer[0], finer[1]))
            fused.insert(0, x)
            skip = maps[level - 1]
        return fused
