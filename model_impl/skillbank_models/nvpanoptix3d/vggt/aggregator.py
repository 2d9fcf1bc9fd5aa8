"""The trunk of VGGT: patches, a camera token and registers through pairs of a frame and a global block.

Letters: `B` batch, `H W` image, `h w` grid of patches, `P` = h w patches, `T` tokens, `C` channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skillbank_models.nvpanoptix3d.vggt.blocks import Block
from skillbank_models.nvpanoptix3d.vggt.patch_embedding import PatchEmbedding
from skillbank_models.nvpanoptix3d.vggt.rotary import Rotation, rotation
from skillbank_models.nvpanoptix3d.vggt.tables import image_statistics

__all__ = ["Aggregator", "VggtFeatures"]

EPS = 1e-5  # of the norms of frame and global blocks
LAYER_SCALE = 0.01  # of blocks that nothing was loaded into


class VggtFeatures(NamedTuple):
    """What the heads read.

    Attributes:
        taps: four maps as patch tokens (B, P, 2 C): output of a frame block, then of its global block.
        grid: rows h and columns w of the patches.
        camera_token: (B, 2 C), of the last pair.
    """

    taps: list[Tensor]
    grid: tuple[int, int]
    camera_token: Tensor


class Aggregator(nn.Module):
    """Images to the tokens that camera, depth and segmentation are read from.

    Every image is a scene of one frame, so that frame and global blocks see the same tokens. Only the pairs
    that a head reads are kept.

    Args:
        patch_embedding: images to patch tokens.
        dim: channels C.
        depth: pairs of blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden channels of the MLPs, as a multiple of C.
        num_registers: tokens without a place, beside the camera token.
        taps: pairs to keep, counted from 0, in increasing order.
        use_checkpoint: compute blocks again in the backward pass instead of keeping what they computed.

    Source: Wang et al. 2025 (VGGT), section 3; parameter names as in facebookresearch/vggt,
    models/aggregator.py. Differs: pairs behind the last tap, which reach the camera token only, have no
    gradient.
    """

    def __init__(
        self,
        *,
        patch_embedding: PatchEmbedding,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_registers: int,
        taps: Sequence[int],
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.taps = tuple(taps)
        self.head_dim = dim // num_heads
        self.patch_embed = patch_embedding
        # published weights have two sets of tokens: row 0 for the first frame, row 1 for all others
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, num_registers, dim)) if num_registers else None
        for token in (self.camera_token, self.register_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(
                    dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, eps=EPS, layer_scale=LAYER_SCALE,
                    qk_norm=True,
                )
                for _ in range(depth)
            )  # fmt: skip

        self.frame_blocks = blocks()
        self.global_blocks = blocks()
        for behind in (self.frame_blocks[self.taps[-1] + 1 :], self.global_blocks[self.taps[-1] + 1 :]):
            behind.requires_grad_(False)

    def forward(self, images: Tensor) -> VggtFeatures:
        """Read images.

        Args:
            images: (B, 3, H, W), RGB 0..1; H and W multiples of the patch size.
        """
        mean, std = image_statistics(dtype=images.dtype, device=images.device)
        patches = self.patch_embed((images - mean) / std)  # (B, P, C)
        side = self.patch_embed.patch_embed.proj.kernel_size[0]
        grid = (images.shape[2] // side, images.shape[3] // side)
        special = [token[:, 0] for token in (self.camera_token, self.register_token) if token is not None]
        special = [token.expand(patches.shape[0], -1, -1).to(patches.dtype) for token in special]
        x = torch.cat([*special, patches], dim=1)  # (B, T, C)
        first = x.shape[1] - patches.shape[1]
        turn = rotation(grid, special=first, head_dim=self.head_dim, dtype=x.dtype, device=x.device)
        taps: list[Tensor] = []
        of_frame = x
        for index, (frame, across) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            of_frame = self._run(frame, x, turn)  # (B, T, C)
            x = self._run(across, of_frame, turn)  # (B, T, C)
            if index in self.taps:
                taps.append(torch.cat([of_frame[:, first:], x[:, first:]], dim=-1))  # (B, P, 2 C)
        return VggtFeatures(taps, grid, torch.cat([of_frame[:, 0], x[:, 0]], dim=-1))

    def _run(self, block: nn.Module, x: Tensor, turn: Rotation) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            kept: Tensor = checkpoint(block, x, turn, use_reentrant=False)
            return kept
        out: Tensor = block(x, turn)
        return out
