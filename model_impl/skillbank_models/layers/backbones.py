"""The image encoder that a spec asks for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from torch import nn

from skillbank.errors import InvalidValueError, SkillBankError, collect
from skillbank.specs._segmentation import EfficientVit as EfficientVitSpec
from skillbank.specs._segmentation import Swin as SwinSpec
from skillbank.specs._segmentation import swin_dims
from skillbank_models.layers.efficientvit import ATTENTION_EPS, EfficientVit
from skillbank_models.layers.swin import SwinTransformer

__all__ = ["BackboneSpec", "build_backbone"]

log = logging.getLogger(__name__)

_KEY = "model.backbone"
_STAGES = (0, 1, 2, 3)
_NAMES = ("res2", "res3", "res4", "res5")


class BackboneSpec(Protocol):
    """The block `model.backbone` of a segmentation spec."""

    @property
    def type(self) -> str:
        """Family: swin or efficientvit."""

    @property
    def swin(self) -> SwinSpec:
        """Settings of Swin."""

    @property
    def efficientvit(self) -> EfficientVitSpec:
        """Settings of EfficientViT."""


def build_backbone(block: BackboneSpec, *, use_checkpoint: bool) -> nn.Module:
    """Build the backbone with initialised weights.

    Args:
        block: `model.backbone` of the spec.
        use_checkpoint: recompute the blocks in the backward pass, even where the block does not say so.

    Returns:
        A module with `channels` and `strides` by map name, whose forward takes images (B, 3, H, W) and gives
        the maps res2 to res5.

    Raises:
        InvalidValueError: a setting leaves out a map that the pixel decoder needs, or cannot be built.
    """
    if block.type == "efficientvit":
        return _efficientvit(block.efficientvit, use_checkpoint=use_checkpoint)
    return _swin(block.swin, use_checkpoint=use_checkpoint)


def _swin(swin: SwinSpec, *, use_checkpoint: bool) -> SwinTransformer:
    problems = _missing_maps(f"{_KEY}.swin", swin.out_indices, swin.out_features)
    side = swin.patch_size
    if side & (side - 1):
        problems.append(
            InvalidValueError(
                f"{_KEY}.swin.patch_size: {side} is not a power of two, so that no map has a stride that the "
                "mask features can take",
                key=f"{_KEY}.swin.patch_size",
                value=side,
                hint=f"-o {_KEY}.swin.patch_size=4",
            )
        )
    if swin.ape and swin.pretrain_img_size < side:
        problems.append(
            InvalidValueError(
                f"{_KEY}.swin.pretrain_img_size: {swin.pretrain_img_size} is less than one patch of {side} "
                "pixels, so that the position table would be empty",
                key=f"{_KEY}.swin.pretrain_img_size",
                value=swin.pretrain_img_size,
                hint=f"-o {_KEY}.swin.pretrain_img_size=224",
            )
        )
    if problems:
        raise collect(problems, f"{_KEY}.swin")
    dims = swin_dims(swin)
    return SwinTransformer(
        embed_dim=dims.embed_dim,
        depths=dims.depths,
        num_heads=dims.num_heads,
        patch_size=swin.patch_size,
        window_size=swin.window_size,
        mlp_ratio=swin.mlp_ratio,
        qkv_bias=swin.qkv_bias,
        qk_scale=swin.qk_scale,
        drop_rate=swin.drop_rate,
        attn_drop_rate=swin.attn_drop_rate,
        drop_path_rate=swin.drop_path_rate,
        ape=swin.ape,
        patch_norm=swin.patch_norm,
        out_indices=swin.out_indices,
        pretrain_img_size=swin.pretrain_img_size,
        use_checkpoint=use_checkpoint or swin.use_checkpoint,
    )


def _efficientvit(vit: EfficientVitSpec, *, use_checkpoint: bool) -> EfficientVit:
    indices = list(vit.out_indices)
    if (
        len(indices) == 3 and len(set(indices) & set(_STAGES)) == 3
    ):  # other programs count from the second map
        log.warning(
            "%s.efficientvit.out_indices %s is read as [0, 1, 2, 3]: the pixel decoder needs all four maps",
            _KEY,
            indices,
        )
        indices = list(_STAGES)
    problems = _missing_maps(f"{_KEY}.efficientvit", indices, vit.out_features)
    if problems:
        raise collect(problems, f"{_KEY}.efficientvit")
    return EfficientVit(
        name=vit.name,
        attention_eps=ATTENTION_EPS,
        use_checkpoint=use_checkpoint or vit.use_checkpoint,
    )


def _missing_maps(key: str, indices: Sequence[int], names: Sequence[str]) -> list[SkillBankError]:
    """One error for each list that is not all four maps, in any order."""
    problems: list[SkillBankError] = []
    for name, given, needed in (("out_indices", indices, _STAGES), ("out_features", names, _NAMES)):
        if sorted(given) != list(needed):
            missing = [item for item in needed if item not in given]
            wrong = f"lacks {missing}" if missing else "names a map that does not exist, or one twice"
            text = ",".join(str(item) for item in needed)
            problems.append(
                InvalidValueError(
                    f"{key}.{name}: {list(given)} {wrong}; the pixel decoder needs all of {list(needed)}",
                    key=f"{key}.{name}",
                    value=list(given),
                    hint=f"-o '{key}.{name}=[{text}]'",
                )
            )
    return problems
