"""Brings maps of the depth head to the sizes and widths that the decoders read.

Letters: `B` batch, `C` channels, `h w` map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DepthProjector", "StageTwoProjector"]


class StageTwoProjector(nn.Module):
    """Half the size by a convolution, then the size asked for, then the width asked for.

    Args:
        in_channels: width of the depth map.
        out_channels: width of the result.

    Source: public documentation of NVPanoptix3D.
    """

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # its bias has no effect while training, before a batch norm, but published weights have it
        self.conv = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(in_channels)
        self.out = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Project.

        Args:
            x: (B, in_channels, ., .).
            size: height and width of the result.

        Returns:
            (B, out_channels, h, w).
        """
        x = F.relu(self.norm(self.conv(x)))  # (B, in_channels, half, half)
        if (x.shape[-2], x.shape[-1]) != (size[0], size[1]):
            x = F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)
        return self.out(x)  # type: ignore[no-any-return]  # (B, out_channels, h, w)


class DepthProjector(nn.Module):
    """The depth maps that the query decoder looks at, one for each of its levels.

    Args:
        in_channels: width of the depth maps.
        out_channels: width of the result.
        num_levels: maps to make.

    Source: public documentation of NVPanoptix3D. Differs: the published network also makes a fourth map,
    which nothing reads.
    """

    def __init__(self, *, in_channels: int, out_channels: int, num_levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            StageTwoProjector(in_channels=in_channels, out_channels=out_channels) for _ in range(num_levels)
        )

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Project.

        Args:
            maps: of the depth head (B, in_channels, ., .), fine to coarse; the last `num_levels` are used.
            sizes: height and width of the decoder's levels, coarse to fine; at least `num_levels`.

        Returns:
            (B, out_channels, h, w) of `num_levels` levels, coarse to fine.
        """
        coarse_first = reversed(maps)
        return [level(x, size) for level, x, size in zip(self.levels, coarse_first, sizes, strict=False)]
