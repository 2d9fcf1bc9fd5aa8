"""EfficientViT: image to four maps by convolutions, with linear attention on the two coarse ones.

Letters: `B` batch, `H W` image, `h w` feature map, `C` channels, `G` heads of both scales together, `d` head
width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["ATTENTION_EPS", "VARIANTS", "EfficientVit", "EfficientVitName", "Variant"]

EfficientVitName = Literal["b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3"]

# As in timm, which runs the authors' weights with it. The authors' 1e-15 vanishes in half precision, and ONNX
# Runtime drops the addition of anything that small, which leaves 0 / 0 where a query sees nothing.
ATTENTION_EPS = 1e-5
_SCALE = 5  # side of the depthwise convolution that makes the second scale of the attention


@dataclass(frozen=True, slots=True)
class Variant:
    """Sizes of one member of the family: stem first, then the four stages.

    Source: Cai et al. 2023, "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction"
    (arXiv 2205.14756); mit-han-lab/efficientvit@de7d773 (Apache-2.0), models/efficientvit/backbone.py.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    head_dim: int
    large: bool

    @property
    def norm_eps(self) -> float:
        """Of the batch norms; the large members were trained with a smaller one."""
        return 1e-7 if self.large else 1e-5


VARIANTS: dict[str, Variant] = {
    "b0": Variant((8, 16, 32, 64, 128), (1, 2, 2, 2, 2), 16, large=False),
    "b1": Variant((16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16, large=False),
    "b2": Variant((24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32, large=False),
    "b3": Variant((32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32, large=False),
    "l0": Variant((32, 64, 128, 256, 512), (1, 1, 1, 4, 4), 32, large=True),
    "l1": Variant((32, 64, 128, 256, 512), (1, 1, 1, 6, 6), 32, large=True),
    "l2": Variant((32, 64, 128, 256, 512), (1, 2, 2, 8, 8), 32, large=True),
    "l3": Variant((64, 128, 256, 512, 1024), (1, 2, 2, 8, 8), 32, large=True),
}


@dataclass(frozen=True, slots=True)
class Style:
    """What all convolutions of a network share."""

    norm_eps: float
    act: Callable[[], nn.Module]


class ConvUnit(nn.Module):
    """Convolution, then batch norm and activation where there are any."""

    def __init__(
        self, inputs: int, outputs: int, style: Style, *, kernel: int = 1, stride: int = 1, groups: int = 1,
        bias: bool = False, norm: bool = True, act: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(outputs, eps=style.norm_eps) if norm else nn.Identity()
        self.act = style.act() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Residual(nn.Module):
    """A branch, added to its input unless it changes the shape."""

    def __init__(self, main: nn.Module, *, shortcut: bool) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the branch."""
        out: Tensor = self.main(x)
        return x + out if self.shortcut else out


class LinearAttention(nn.Module):
    """Multi-scale attention with ReLU instead of softmax; its cost grows with the area, not with its square.

    Args:
        dim: channels.
        head_dim: width of a head; it divides dim.
        style: batch norm and activation.
        eps: added to the denominator.

    Source: Cai et al. 2023, section 3.1. Products and division are float32 under any autocast, as in the
    authors' code.
    """

    def __init__(self, dim: int, *, head_dim: int, style: Style, eps: float) -> None:
        super().__init__()
        self.head_dim, self.eps = head_dim, eps
        inner = dim // head_dim * head_dim
        self.qkv = ConvUnit(dim, 3 * inner, style, norm=False)
        per_channel = nn.Conv2d(
            3 * inner, 3 * inner, _SCALE, padding=_SCALE // 2, groups=3 * inner, bias=False
        )
        per_head = nn.Conv2d(3 * inner, 3 * inner, 1, groups=3 * (inner // head_dim), bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(per_channel, per_head)])
        self.proj = ConvUnit(2 * inner, dim, style)

    def forward(self, x: Tensor) -> Tensor:
        """Let all places see each other, (B, C, h, w) -> (B, C, h, w)."""
        height, width = x.shape[-2:]
        qkv = self.qkv(x)  # (B, 3 C, h, w)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.aggreg)], dim=1)  # (B, 6 C, h, w)
        with torch.autocast(x.device.type, enabled=False):
            heads = qkv.float().reshape(x.shape[0], -1, 3 * self.head_dim, height * width)  # (B, G, 3 d, h w)
            query, key, value = heads.chunk(3, dim=2)  # each (B, G, d, h w)
            query, key = F.relu(query), F.relu(key)
            value = F.pad(
                value, (0, 0, 0, 1), value=1.0
            )  # (B, G, d + 1, h w), a row that adds up the weights
            out = value @ key.transpose(-1, -2) @ query  # (B, G, d + 1, h w)
            out = out[:, :, :-1] / (out[:, :, -1:] + self.eps)  # (B, G, d, h w)
        mixed: Tensor = self.proj(out.to(qkv.dtype).reshape(x.shape[0], -1, height, width))  # (B, C, h, w)
        return mixed


class AttentionBlock(nn.Module):
    """Linear attention for the context, then an inverted bottleneck for the detail."""

    def __init__(self, dim: int, *, head_dim: int, expand: int, style: Style, eps: float) -> None:
        super().__init__()
        attention = LinearAttention(dim, head_dim=head_dim, style=style, eps=eps)
        self.context_module = Residual(attention, shortcut=True)
        local = _bottleneck(dim, dim, style, stride=1, expand=expand, few_norms=True)
        self.local_module = Residual(local, shortcut=True)

    def forward(self, x: Tensor) -> Tensor:
        """Refine a map, (B, C, h, w) -> (B, C, h, w)."""
        out: Tensor = self.local_module(self.context_module(x))
        return out


def _bottleneck(
    inputs: int, outputs: int, style: Style, *, stride: int, expand: int, few_norms: bool
) -> nn.Sequential:
    """Widen, filter each channel, narrow; `few_norms` has biases instead of the first two norms."""
    wide, bias, norm = inputs * expand, few_norms, not few_norms
    parts = {
        "inverted_conv": ConvUnit(inputs, wide, style, bias=bias, norm=norm, act=True),
        "depth_conv": ConvUnit(
            wide, wide, style, kernel=3, stride=stride, groups=wide, bias=bias, norm=norm, act=True
        ),
        "point_conv": ConvUnit(wide, outputs, style),
    }
    return nn.Sequential(OrderedDict(parts))


def _fused_bottleneck(inputs: int, outputs: int, style: Style, *, stride: int, expand: int) -> nn.Sequential:
    """Widen and filter in one convolution, then narrow."""
    wide = inputs * expand
    parts = {
        "spatial_conv": ConvUnit(inputs, wide, style, kernel=3, stride=stride, act=True),
        "point_conv": ConvUnit(wide, outputs, style),
    }
    return nn.Sequential(OrderedDict(parts))


def _stem_branch(dim: int, style: Style, *, large: bool) -> nn.Sequential:
    """A separable convolution; in large members two full ones."""
    if large:
        parts = {
            "conv1": ConvUnit(dim, dim, style, kernel=3, act=True),
            "conv2": ConvUnit(dim, dim, style, kernel=3),
        }
    else:
        parts = {
            "depth_conv": ConvUnit(dim, dim, style, kernel=3, groups=dim, act=True),
            "point_conv": ConvUnit(dim, dim, style),
        }
    return nn.Sequential(OrderedDict(parts))


class Stage(nn.Module):
    """Blocks at one resolution; the first halves the map."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, *, recompute: bool) -> Tensor:
        """Halve a map, rounding up, and refine it."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x


def _stage(index: int, variant: Variant, style: Style, eps: float) -> Stage:
    """Stage 1 to 4."""
    inputs, dim, depth = variant.widths[index - 1], variant.widths[index], variant.depths[index]
    if index == 4 or (index == 3 and not variant.large):
        expand, first = (6, 24) if variant.large else (4, 4)
        step = _bottleneck(inputs, dim, style, stride=2, expand=first, few_norms=True)
        attention = [
            AttentionBlock(dim, head_dim=variant.head_dim, expand=expand, style=style, eps=eps)
            for _ in range(depth)
        ]
        return Stage([Residual(step, shortcut=False), *attention])
    blocks: list[nn.Module] = []
    # a large stage has its strided block besides `depth` others, a small one among them
    for position in range(depth + variant.large):
        first_one = position == 0
        source, stride = (inputs, 2) if first_one else (dim, 1)
        if variant.large:
            expand = 16 if first_one else 4
            branch = (
                _bottleneck(source, dim, style, stride=stride, expand=expand, few_norms=True)
                if index == 3
                else _fused_bottleneck(source, dim, style, stride=stride, expand=expand)
            )
        else:
            branch = _bottleneck(source, dim, style, stride=stride, expand=4, few_norms=False)
        blocks.append(Residual(branch, shortcut=not first_one))
    return Stage(blocks)


class EfficientVit(nn.Module):
    """Four maps of an image, at strides 4, 8, 16 and 32.

    Args:
        name: member of the family.
        attention_eps: added to the denominator of the attention; `ATTENTION_EPS` suits the public weights.
        use_checkpoint: recompute the blocks in the backward pass.

    Attributes:
        channels: channels of each returned map, by name.
        strides: image pixels per map cell, by name.

    Source: Cai et al. 2023; parameter names as in timm's efficientvit_mit (Apache-2.0).
    """

    def __init__(self, *, name: EfficientVitName, attention_eps: float, use_checkpoint: bool) -> None:
        super().__init__()
        variant = VARIANTS[name]
        act: Callable[[], nn.Module] = _gelu if variant.large else nn.Hardswish
        style = Style(variant.norm_eps, act)
        self.use_checkpoint = use_checkpoint
        stem: dict[str, nn.Module] = {
            "in_conv": ConvUnit(3, variant.widths[0], style, kernel=3, stride=2, act=True)
        }
        for index in range(variant.depths[0]):
            branch = _stem_branch(variant.widths[0], style, large=variant.large)
            stem[f"res{index}"] = Residual(branch, shortcut=True)
        self.stem = nn.Sequential(OrderedDict(stem))
        self.stages = nn.ModuleList(_stage(index, variant, style, attention_eps) for index in range(1, 5))
        self.channels = {f"res{index + 1}": variant.widths[index] for index in range(1, 5)}
        self.strides = {f"res{index + 1}": 2 ** (index + 1) for index in range(1, 5)}
        self.apply(_initialise)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Encode images (B, 3, H, W), normalised, into maps res2 to res5 of (B, C, h, w)."""
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            # measured: separable convolutions take half the time
            images = images.contiguous(memory_format=torch.channels_last)
        x = self.stem(images)  # (B, C, H / 2, W / 2)
        maps: dict[str, Tensor] = {}
        for index, stage in enumerate(self.stages):
            x = stage(x, recompute=recompute)  # (B, C', h / 2, w / 2)
            maps[f"res{index + 2}"] = x
        return maps


def _gelu() -> nn.Module:
    return nn.GELU(approximate="tanh")


def _initialise(module: nn.Module) -> None:
    """Weights of convolutions as the authors start them; batch norms stay 1 and 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
