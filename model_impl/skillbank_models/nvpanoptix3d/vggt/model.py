"""VGGT for single images as one module.

Letters: `B` batch, `H W` padded image, `H' W'` resized image, `P` patches, `C` channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.nvpanoptix3d.vggt.aggregator import Aggregator, VggtFeatures
from skillbank_models.nvpanoptix3d.vggt.camera_head import CameraHead, intrinsics_of_pose
from skillbank_models.nvpanoptix3d.vggt.depth_head import DepthHead

__all__ = ["Vggt", "VggtFeatures", "intrinsics_of_pose"]


class Vggt(nn.Module):
    """Images to tokens, depth and camera.

    Args:
        aggregator: images to tokens.
        camera_head: camera token to pose; never taught.
        depth_head: tokens to depth.
        image_width: width that images are resized to.
        patch_size: side of a patch; resized images are multiples of it.
        frozen: the aggregator stays as it is: no gradient, and always in evaluation mode.

    Source: Wang et al. 2025, "VGGT: Visual Geometry Grounded Transformer"; parameter names as in
    facebookresearch/vggt, without its heads for points and tracks.
    """

    def __init__(
        self,
        *,
        aggregator: Aggregator,
        camera_head: CameraHead,
        depth_head: DepthHead,
        image_width: int,
        patch_size: int,
        frozen: bool,
    ) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.camera_head = camera_head
        self.depth_head = depth_head
        self.image_width = image_width
        self.patch_size = patch_size
        self.frozen = frozen
        if frozen:
            aggregator.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Vggt:
        """Set the mode of what is taught; the rest stays in evaluation mode."""
        super().train(mode)
        self.camera_head.eval()
        if self.frozen:
            self.aggregator.eval()
        return self

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """H' and W' for a padded image of H x W."""
        rows = max(round(height * self.image_width / width / self.patch_size), 1)
        return rows * self.patch_size, self.image_width

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for a padded image of H x W."""
        tall, wide = self.resized(height, width)
        return tall // self.patch_size, wide // self.patch_size

    def resize(self, images: Tensor) -> Tensor:
        """Bring images to the size and the range that the network reads.

        Args:
            images: (B, 3, H, W), RGB 0..255, padded.

        Returns:
            (B, 3, H', W'), 0..1.
        """
        size = self.resized(images.shape[2], images.shape[3])
        return F.interpolate(images / 255, size=size, mode="bilinear", align_corners=False)  # (B, 3, H', W')

    def keep_positions(self, height: int, width: int) -> None:
        """Make the position table for padded images of H x W, which a graph exported next holds as it is."""
        with torch.no_grad():
            self.aggregator.patch_embed.positions(self.grid_of(height, width))

    def forward(self, images: Tensor) -> VggtFeatures:
        """Tokens of images.

        Args:
            images: (B, 3, H', W'), RGB 0..1, as `resize` gives them.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: VggtFeatures = self.aggregator(images)
        return features

    def depth(self, features: VggtFeatures, size: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """Depth (B, H', W') in metres, and the maps it is made of, fine to coarse.

        Args:
            features: of `forward`.
            size: H' and W'.
        """
        result: tuple[Tensor, list[Tensor]] = self.depth_head(features.taps, features.grid, size)
        return result

    def pose(self, features: VggtFeatures) -> Tensor:
        """Translation, quaternion and fields of view, (B, 9); see `CameraHead`."""
        with torch.no_grad():
            pose: Tensor = self.camera_head(features.camera_token)
        return pose
