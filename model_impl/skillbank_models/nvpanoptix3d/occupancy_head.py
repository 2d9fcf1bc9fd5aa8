"""Tells for every pixel and every step of depth behind it whether a surface is near, seen or hidden.

Letters: `B` batch, `C` channels, `D` depth bins, `h w` image plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["OccupancyHead", "Share"]

Share: TypeAlias = tuple[float, float]
"""The part of a padded image's height and width that holds the image."""

_Resize: TypeAlias = Callable[[Tensor], Tensor]


class OccupancyHead(nn.Module):
    """Maps of the backbone, enlarged step by step and all at once, to one logit for each bin and pixel.

    Args:
        in_channels: of the four maps, fine to coarse.
        channels: five widths of the step-by-step path, coarse to fine.
        fusion_channels: what each map gives directly.
        bins: D.
        plane: (h, w).
        variant: "published", or "reduced", which narrows maps before it enlarges them and looks at the image
            alone; the published one looks at the padded image. Both see equally far.

    Source: Hu et al. 2019, "Revisiting Single Image Depth Estimation", for the published form, as public
    documentation of NVPanoptix3D describes it.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        channels: Sequence[int],
        fusion_channels: int,
        bins: int,
        plane: tuple[int, int],
        variant: Literal["reduced", "published"],
    ) -> None:
        super().__init__()
        self.plane = plane
        self.reduced = variant == "reduced"
        unit = _NarrowUnit if self.reduced else _WideUnit
        first, *_, last = channels
        fused = 4 * fusion_channels
        width = last + fused
        inner = _half(width) if self.reduced else width
        self.entry = nn.Sequential(*_conv(in_channels[-1], first, 1), nn.ReLU())
        self.path = nn.ModuleList(unit(before, after) for before, after in pairwise(channels))
        self.direct = nn.ModuleList(unit(each, fusion_channels) for each in in_channels)
        self.fuse = nn.Sequential(*_conv(fused, fused, 5), nn.ReLU())
        self.plane_unit = unit(width, width)
        self.predict = nn.Sequential(
            *_conv(width, inner, 5),
            nn.ReLU(),
            *_conv(inner, inner, 5),
            nn.ReLU(),
            nn.Conv2d(inner, bins, 5, padding=2),
        )

    def forward(self, maps: Sequence[Tensor], content: Sequence[Share] | None) -> Tensor:
        """Predict.

        Args:
            maps: four (B, C, ., .), fine to coarse, each at most twice the size of the next.
            content: of each image, or of all; None where nothing is padded.

        Returns:
            (B, D, h, w) logits.
        """
        finest = (2 * maps[0].shape[-2], 2 * maps[0].shape[-1])
        sizes = [*((x.shape[-2], x.shape[-1]) for x in reversed(maps[:-1])), finest]
        x = self.entry(maps[-1])  # (B, C, ., .)
        for unit, size in zip(self.path, sizes, strict=True):
            x = unit(x, self._resize(size, None))  # (B, C, ., .), up to the finest size
        whole = self._resize(finest, None)
        direct = torch.cat([unit(each, whole) for unit, each in zip(self.direct, maps, strict=True)], 1)
        x = torch.cat([x, self.fuse(direct)], 1)  # (B, C, ., .)
        x = self.plane_unit(x, self._resize(self.plane, content if self.reduced else None))  # (B, C, h, w)
        return self.predict(x)  # type: ignore[no-any-return]  # (B, D, h, w)

    def _resize(self, size: tuple[int, int], content: Sequence[Share] | None) -> _Resize:
        def resize(x: Tensor) -> Tensor:
            return F.interpolate(x, size, mode="bilinear", align_corners=not self.reduced)

        if content is None or all(share == (1.0, 1.0) for share in content):
            return resize
        if all(share == content[0] for share in content):
            return lambda x: resize(_cut(x, content[0]))
        return lambda x: torch.cat([resize(_cut(x[i : i + 1], share)) for i, share in enumerate(content)])


class _WideUnit(nn.Module):
    """Enlarges, then convolves in two branches that are added."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_conv(in_channels, out_channels, 5), nn.ReLU(), *_conv(out_channels, out_channels, 3)
        )
        self.side = nn.Sequential(*_conv(in_channels, out_channels, 5))

    def forward(self, x: Tensor, resize: _Resize) -> Tensor:
        x = resize(x)
        return F.relu(self.main(x) + self.side(x))


class _NarrowUnit(nn.Module):
    """Narrows, enlarges, then convolves as far as the wide unit does; the side branch only narrows."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = _half(out_channels)
        self.narrow = nn.Sequential(*_conv(in_channels, inner, 1), nn.ReLU())
        self.main = nn.Sequential(*_conv(inner, inner, 5), nn.ReLU(), *_conv(inner, out_channels, 3))
        self.side = nn.Sequential(*_conv(in_channels, out_channels, 1))

    def forward(self, x: Tensor, resize: _Resize) -> Tensor:
        return F.relu(self.main(resize(self.narrow(x))) + resize(self.side(x)))


def _conv(in_channels: int, out_channels: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    """A convolution that keeps the size, and its norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def _half(channels: int) -> int:
    return max(1, channels // 2)


def _cut(x: Tensor, share: Share) -> Tensor:
    """The upper left part of maps, at least a pixel."""
    height, width = (max(1, round(part * length)) for part, length in zip(share, x.shape[-2:], strict=True))
    return x[..., :height, :width]
