"""Swin Transformer: image to four maps of falling resolution, under the parameter names of published weights.

Letters: `B` batch, `H W` image, `h w` feature map, `T` = h w tokens, `C` channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skillbank_models.layers.drop_path import DropPath
from skillbank_models.layers.linear import Linear
from skillbank_models.layers.mlp import Mlp
from skillbank_models.layers.window_attention import WindowAttention
from skillbank_models.layers.windows import WindowLayout, WindowLayouts

__all__ = ["SwinBlock", "SwinTransformer"]


class SwinBlock(nn.Module):
    """Window attention and MLP, each on normalised tokens and with a residual."""

    def __init__(
        self,
        *,
        dim: int,
        window: int,
        shift: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(
            dim=dim,
            window=window,
            shift=shift,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=drop,
        )
        self.drop_path = DropPath(rate=drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim=dim, hidden=int(dim * mlp_ratio), out=dim, drop=drop)

    def forward(self, x: Tensor, layout: WindowLayout) -> Tensor:
        """Refine tokens, (B, T, C) -> (B, T, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), layout))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class PatchMerging(nn.Module):
    """Join each 2 x 2 tokens into one of twice the width."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Halve a map, rounding up, (B, h w, C) -> (B, ceil(h / 2) ceil(w / 2), 2 C)."""
        batch, _, channels = x.shape
        x = x.reshape(batch, height, width, channels)
        if torch.compiler.is_compiling() or height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5)  # the four go down the left column, then down the right one
        x = x.reshape(batch, -1, 4 * channels)  # (B, T', 4 C)
        out: Tensor = self.reduction(self.norm(x))  # (B, T', 2 C)
        return out


class SwinStage(nn.Module):
    """Blocks at one resolution, and the step to the next one."""

    def __init__(self, *, blocks: Sequence[SwinBlock], window: int, downsample: PatchMerging | None) -> None:
        super().__init__()
        self.window = window
        self.shifts = tuple(block.shift for block in blocks)
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(
        self, x: Tensor, height: int, width: int, layouts: WindowLayouts, *, use_checkpoint: bool
    ) -> tuple[Tensor, Tensor]:
        """The refined tokens of a map, (B, h w, C), and what the next stage takes."""
        recompute = use_checkpoint and torch.is_grad_enabled()
        known = {
            shift: layouts.get(x.shape[0], height, width, window=self.window, shift=shift, device=x.device)
            for shift in set(self.shifts)
        }
        for block, shift in zip(self.blocks, self.shifts, strict=True):
            layout = known[shift]
            x = checkpoint(block, x, layout, use_reentrant=False) if recompute else block(x, layout)
        return x, x if self.downsample is None else self.downsample(x, height, width)


class PatchEmbed(nn.Module):
    """Cut the image into patches and embed each as one token."""

    norm: nn.LayerNorm | None

    def __init__(self, *, patch_size: int, embed_dim: int, patch_norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim) if patch_norm else None

    def forward(self, images: Tensor) -> tuple[Tensor, int, int]:
        """Images (B, 3, H, W) to tokens (B, h w, C) with h and w, rounded up; what is missing is zero."""
        height, width = images.shape[-2:]
        side = self.patch_size
        if torch.compiler.is_compiling() or height % side or width % side:
            images = F.pad(images, (0, -width % side, 0, -height % side))
        x = self.proj(images)  # (B, C, h, w)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, T, C)
        return (x if self.norm is None else self.norm(x)), height, width


class SwinTransformer(nn.Module):
    """Four maps of an image, each at half the resolution of the one before.

    Attributes:
        channels: channels of each returned map, by name.
        strides: image pixels per map cell, by name.

    Source: Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv
    2103.14030); parameter names as in microsoft/Swin-Transformer and the detectron2 backbone of
    facebookresearch/Mask2Former (both MIT). The window does not shrink on maps smaller than it.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        patch_size: int,
        window_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        ape: bool,
        patch_norm: bool,
        out_indices: Sequence[int],
        pretrain_img_size: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.out_indices = tuple(sorted(out_indices))
        self.use_checkpoint = use_checkpoint
        self.patch_embed = PatchEmbed(patch_size=patch_size, embed_dim=embed_dim, patch_norm=patch_norm)
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
        self.pos_drop = nn.Dropout(drop_rate)
        total = sum(depths)
        rates = [drop_path_rate * index / max(total - 1, 1) for index in range(total)]
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            dim = embed_dim * 2**stage
            blocks = [
                SwinBlock(
                    dim=dim,
                    window=window_size,
                    shift=window_size // 2 if index % 2 else 0,
                    num_heads=num_heads[stage],
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=rates[sum(depths[:stage]) + index],
                )
                for index in range(depth)
            ]
            downsample = PatchMerging(dim=dim) if stage < len(depths) - 1 else None
            self.layers.append(SwinStage(blocks=blocks, window=window_size, downsample=downsample))
        self.channels = {f"res{index + 2}": embed_dim * 2**index for index in self.out_indices}
        self.strides = {f"res{index + 2}": patch_size * 2**index for index in self.out_indices}
        for index in self.out_indices:
            self.add_module(f"norm{index}", nn.LayerNorm(embed_dim * 2**index))
        self._layouts = WindowLayouts()
        self.apply(_initialise)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Encode images (B, 3, H, W), normalised, into maps res2, res3, ... of (B, C, h, w).

        The maps have their channels last in memory.
        """
        x, height, width = self.patch_embed(images)  # (B, T, C)
        if self.absolute_pos_embed is not None:
            table = F.interpolate(self.absolute_pos_embed, size=(height, width), mode="bicubic")
            x = x + table.flatten(2).transpose(1, 2)  # (B, T, C)
        x = self.pos_drop(x)
        maps: dict[str, Tensor] = {}
        for index, stage in enumerate(self.layers):
            out, x = stage(x, height, width, self._layouts, use_checkpoint=self.use_checkpoint)
            if index in self.out_indices:
                out = self.get_submodule(f"norm{index}")(out)  # (B, T, C)
                out = out.reshape(out.shape[0], height, width, -1)  # (B, h, w, C)
                maps[f"res{index + 2}"] = out.permute(0, 3, 1, 2)  # (B, C, h, w)
            height, width = (height + 1) // 2, (width + 1) // 2
        return maps


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
