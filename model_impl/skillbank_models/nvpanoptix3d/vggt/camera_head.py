"""Camera head of VGGT: pose and field of view from the camera token, refined in rounds.

Letters: `B` batch, `C` channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.layers.linear import Linear
from skillbank_models.layers.mlp import Mlp
from skillbank_models.nvpanoptix3d.vggt.blocks import Block

__all__ = ["CameraHead", "intrinsics_of_pose"]

POSE = 9  # translation 3, quaternion 4, fields of view 2
EPS = 1e-5
MODULATION_EPS = 1e-6  # of the norm without parameters
LAYER_SCALE = 0.01
_ANGLE = 1e-3  # rad; a head that nothing was loaded into may answer with no field of view at all


class CameraHead(nn.Module):
    """Camera token to translation, rotation and field of view.

    Nothing in this network teaches the pose, so the head never has a gradient, whether the backbone is frozen
    or not: it answers what its weights were loaded with, and parameters that no loss reaches would stop
    training on several devices.

    Args:
        dim: channels C of the camera token.
        depth: blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden channels of the MLPs, as a multiple of C.
        rounds: how often the answer is refined; all rounds share their weights.

    Source: Wang et al. 2025 (VGGT), section 3.3; parameter names as in facebookresearch/vggt,
    heads/camera_head.py.
    """

    def __init__(self, *, dim: int, depth: int, num_heads: int, mlp_ratio: float, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.token_norm = nn.LayerNorm(dim, eps=EPS)
        self.trunk = nn.ModuleList(
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
        self.trunk_norm = nn.LayerNorm(dim, eps=EPS)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE))
        self.embed_pose = Linear(POSE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), Linear(dim, 3 * dim))
        self.pose_branch = Mlp(dim=dim, hidden=dim // 2, out=POSE, drop=0.0)
        self.requires_grad_(False)

    def forward(self, camera_token: Tensor) -> Tensor:
        """Read the camera, in the precision of the weights.

        Args:
            camera_token: (B, C).

        Returns:
            (B, 9): translation, quaternion with the scalar last, vertical and horizontal field of view in
            radians.
        """
        with torch.autocast(camera_token.device.type, enabled=False):
            return self._refine(camera_token.to(self.token_norm.weight.dtype))

    def _refine(self, camera_token: Tensor) -> Tensor:
        token = self.token_norm(camera_token)[:, None]  # (B, 1, C)
        plain = F.layer_norm(token, token.shape[-1:], eps=MODULATION_EPS)
        pose = torch.zeros_like(token[..., :POSE])  # (B, 1, 9)
        told = self.empty_pose_tokens.expand_as(pose)
        for _ in range(self.rounds):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(told)).chunk(
                3, dim=-1
            )  # (B, 1, C) each
            x = gate * (plain * (1 + scale) + shift) + token
            for block in self.trunk:
                x = block(x, None)
            pose = pose + self.pose_branch(self.trunk_norm(x))
            told = pose
        return torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1)[:, 0]  # (B, 9)


def intrinsics_of_pose(pose: Tensor, height: int, width: int) -> Tensor:
    """Camera matrix from the fields of view; the principal point is the centre of the image.

    A field of view covers all that the network saw, padding included. The matrix holds for the content, too,
    which padding at right and bottom does not move. Angles are limited to (0, pi).

    Args:
        pose: (B, 9), as `CameraHead` gives it.
        height: of the padded image, in whichever resolution the matrix is wanted.
        width: likewise.

    Returns:
        (B, 3, 3) float32.

    Source: facebookresearch/vggt, utils/pose_enc.py.
    """
    angles = pose[:, 7:9].float().clamp(_ANGLE, torch.pi - _ANGLE)  # (B, 2), vertical first
    down, across = torch.tan(angles / 2).unbind(-1)  # (B,) each
    matrix = torch.zeros(pose.shape[0], 3, 3, device=pose.device)
    matrix[:, 0, 0], matrix[:, 1, 1] = width / 2 / across, height / 2 / down
    matrix[:, 0, 2], matrix[:, 1, 2], matrix[:, 2, 2] = width / 2, height / 2, 1.0
    return matrix
