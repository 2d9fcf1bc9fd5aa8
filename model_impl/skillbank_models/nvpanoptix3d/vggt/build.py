"""The backbone that a spec asks for."""

from __future__ import annotations

from typing import Any

from skillbank.errors import InvalidValueError, SkillBankError, collect
from skillbank_models.nvpanoptix3d.vggt.aggregator import Aggregator
from skillbank_models.nvpanoptix3d.vggt.camera_head import CameraHead
from skillbank_models.nvpanoptix3d.vggt.depth_head import DepthHead
from skillbank_models.nvpanoptix3d.vggt.model import Vggt
from skillbank_models.nvpanoptix3d.vggt.patch_embedding import PatchEmbedding

__all__ = ["build_vggt"]

_KEY = "model.backbone.vggt"


def build_vggt(block: Any, *, frozen: bool, use_checkpoint: bool) -> Vggt:
    """Build the backbone with initial weights.

    Args:
        block: `model.backbone` of a spec.
        frozen: keep the aggregator as it is; the camera head is never taught.
        use_checkpoint: compute the blocks again in the backward pass instead of keeping what they computed.

    Raises:
        InvalidValueError: sizes that do not fit each other.
    """
    size = block.vggt
    _check(size)
    shared = {"num_heads": size.num_heads, "mlp_ratio": size.mlp_ratio}
    patch_embedding = PatchEmbedding(
        dim=size.embed_dim,
        depth=size.patch_depth,
        patch_size=size.patch_size,
        position_grid=size.position_grid,
        num_registers=size.num_register_tokens,
        use_checkpoint=use_checkpoint,
        **shared,
    )
    aggregator = Aggregator(
        patch_embedding=patch_embedding,
        dim=size.embed_dim,
        depth=size.depth,
        num_registers=size.num_register_tokens,
        taps=size.intermediate_layers,
        use_checkpoint=use_checkpoint,
        **shared,
    )
    return Vggt(
        aggregator=aggregator,
        camera_head=CameraHead(
            dim=2 * size.embed_dim, depth=size.camera_depth, rounds=size.camera_rounds, **shared
        ),
        depth_head=DepthHead(
            in_channels=2 * size.embed_dim, channels=size.depth_channels, features=size.depth_features
        ),
        image_width=size.image_width,
        patch_size=size.patch_size,
        frozen=frozen,
    )


def _check(size: Any) -> None:
    """All sizes that the position waves of the depth head cannot take."""
    problems: list[SkillBankError] = []
    wrong = [channels for channels in size.depth_channels if channels % 4]
    if wrong:
        better = ",".join(str(4 * -(-channels // 4)) for channels in size.depth_channels)
        problems.append(
            InvalidValueError(
                f"{_KEY}.depth_channels: {wrong} cannot hold sines and cosines of rows and columns; "
                "allowed are multiples of 4",
                key=f"{_KEY}.depth_channels",
                value=list(size.depth_channels),
                hint=f"-o '{_KEY}.depth_channels=[{better}]'",
            )
        )
    if size.depth_features % 8:
        problems.append(
            InvalidValueError(
                f"{_KEY}.depth_features: half of {size.depth_features} cannot hold sines and cosines of rows "
                "and columns; allowed are multiples of 8",
                key=f"{_KEY}.depth_features",
                value=size.depth_features,
                hint=f"-o {_KEY}.depth_features={8 * -(-size.depth_features // 8)}",
            )
        )
    if problems:
        raise collect(problems, _KEY)
