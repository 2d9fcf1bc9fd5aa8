"""DINOv2 with registers: image to one token per patch.

Letters: `B` batch, `H W` image, `h w` grid of patches, `P` = h w patches, `T` tokens, `C` channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.nvpanoptix3d.vggt.blocks import Block
from skillbank_models.nvpanoptix3d.vggt.tables import resizing_matrix

__all__ = ["PatchEmbedding", "resize_positions"]

EPS = 1e-6  # of all norms in this part
LAYER_SCALE = 1.0  # of blocks that nothing was loaded into
_KEPT_GRIDS = 8


class PatchEmbedding(nn.Module):
    """Transformer over patches, a class token and registers; the patches are given back, normalised.

    The learned positions are resized to the grid of the image. Without gradient the result is kept, as long
    as the positions stay the same, and an exported graph holds it as a constant.

    Args:
        dim: channels C.
        depth: blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden channels of the MLPs, as a multiple of C.
        patch_size: side of a patch in pixels.
        position_grid: side of the learned position table.
        num_registers: tokens without a place.
        use_checkpoint: compute blocks again in the backward pass instead of keeping what they computed.

    Source: Oquab et al. 2023 (DINOv2), Darcet et al. 2023 (registers); parameter names as in
    facebookresearch/vggt, layers/vision_transformer.py. Differs: `mask_token`, which nothing reads, has no
    gradient.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        position_grid: int,
        num_registers: int,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.position_grid = position_grid
        self.num_registers = num_registers
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + position_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.patch_embed = _Projection(dim=dim, patch_size=patch_size)
        self.blocks = nn.ModuleList(
            Block(
                dim=dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                eps=EPS,
                layer_scale=LAYER_SCALE,
                qk_norm=False,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._kept_of: tuple[object, ...] = ()
        self._start()

    def train(self, mode: bool = True) -> PatchEmbedding:
        """Set the mode; training forgets the resized positions."""
        if mode:
            self._kept.clear()
        super().train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to patch tokens (B, P, C)."""
        patches = self.patch_embed.proj(images)  # (B, C, h, w)
        grid = (patches.shape[2], patches.shape[3])
        batch = patches.shape[0]
        x = torch.cat([self.cls_token.expand(batch, -1, -1), patches.flatten(2).mT], dim=1)  # (B, 1 + P, C)
        x = x + self.positions(grid)
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(batch, -1, -1).to(x.dtype)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)  # (B, T, C)
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, None, use_reentrant=False)
            else:
                x = block(x, None)
        out: Tensor = self.norm(x[:, 1 + self.num_registers :])  # (B, P, C)
        return out

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The learned positions for a grid of patches, (1, 1 + P, C)."""
        if grid == (self.position_grid, self.position_grid):
            return self.pos_embed
        if torch.compiler.is_compiling():  # what was kept becomes a constant of the graph
            return self._kept[grid] if grid in self._kept else resize_positions(self.pos_embed, grid)
        if torch.is_grad_enabled() and self.pos_embed.requires_grad:
            return resize_positions(self.pos_embed, grid)
        table = self.pos_embed
        state = (table.data_ptr(), table._version, table.dtype, table.device)
        if state != self._kept_of or len(self._kept) >= _KEPT_GRIDS:
            self._kept.clear()
            self._kept_of = state
        if grid not in self._kept:
            with torch.inference_mode(False), torch.no_grad():  # else training could not use it later
                self._kept[grid] = resize_positions(table, grid)
        return self._kept[grid]

    def _start(self) -> None:
        """Initial values as DINOv2 had them."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.register_tokens):
            if token is not None:
                nn.init.normal_(token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


class _Projection(nn.Module):
    """Holds the convolution under the name that published weights have for it."""

    def __init__(self, *, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fit a position table to another grid, bicubic with antialiasing, as the published model does.

    Args:
        table: (1, 1 + n n, C); the first row belongs to the class token and stays.
        grid: rows h and columns w.

    Returns:
        (1, 1 + h w, C).
    """
    side = round((table.shape[1] - 1) ** 0.5)
    dtype = torch.promote_types(table.dtype, torch.float32)
    down = resizing_matrix(side, grid[0], dtype=dtype, device=table.device)  # (h, n)
    across = resizing_matrix(side, grid[1], dtype=dtype, device=table.device)  # (w, n)
    with torch.autocast(table.device.type, enabled=False):
        lines = table[0, 1:].to(dtype).reshape(side, -1)  # (n, n C)
        rows = (down @ lines).reshape(grid[0], side, -1)  # (h, n, C)
        resized = (across @ rows).flatten(0, 1)  # (h w, C)
    return torch.cat([table[:, :1], resized[None].to(table.dtype)], dim=1)  # (1, 1 + h w, C)
