"""Sections and rules that Mask2Former and OneFormer share: backbones, pixel decoder, mask decoder, sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from skillbank.specs import _rules
from skillbank.specs.base import Derived, Rule, StrictModel, setting
from skillbank.specs.common import Export, Index, PositiveInt

__all__ = [
    "SWIN_DERIVED",
    "SWIN_SIZES",
    "AnnotationStorage",
    "Augmentation",
    "EfficientVit",
    "FeatureName",
    "MaskDecoder",
    "SegmentationExport",
    "SemSegHead",
    "Swin",
    "SwinDims",
    "SwinType",
    "Task",
    "segmentation_rules",
    "swin_dims",
]

Task = Literal["panoptic", "instance", "semantic"]
FeatureName = Literal["res2", "res3", "res4", "res5"]
SwinType = Literal["tiny", "small", "base", "large", "huge"]


@dataclass(frozen=True, slots=True)
class SwinDims:
    """Width after patch embedding, and blocks and heads of the four stages."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


# "huge" has no published first-version weights; its widths are those of the published Swin v2 of that name.
SWIN_SIZES = {
    "tiny": SwinDims(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": SwinDims(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": SwinDims(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": SwinDims(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "huge": SwinDims(352, (2, 2, 18, 2), (11, 22, 44, 88)),
}


class Swin(StrictModel):
    """Swin Transformer backbone."""

    type: SwinType | None = setting(
        "tiny",
        "Size; sets embed_dim, depths and num_heads, unless one of them is given a value of its own.",
        any_case=True,
        popular=True,
    )
    embed_dim: int = setting(96, "Channels after patch embedding.", ge=1)
    depths: list[PositiveInt] = setting([2, 2, 6, 2], "Blocks of each stage.", min_length=4, max_length=4)
    num_heads: list[PositiveInt] = setting(
        [3, 6, 12, 24], "Attention heads of each stage.", min_length=4, max_length=4
    )
    patch_size: int = setting(4, "Side of an embedded patch.", ge=1, unit="pixel")
    window_size: int = setting(7, "Side of the attention window, in tokens.", ge=1)
    mlp_ratio: float = setting(4.0, "Hidden width of the MLP over its input width.", gt=0)
    qkv_bias: bool = setting(True, "Bias in the query, key and value projections.")
    qk_scale: float | None = setting(None, "Scale of the attention logits; empty takes head width ** -0.5.")
    drop_rate: float = setting(0.0, "Dropout after the projections.", ge=0, le=1)
    attn_drop_rate: float = setting(0.0, "Dropout of the attention weights.", ge=0, le=1)
    drop_path_rate: float = setting(
        0.3, "Share of skipped blocks in the last layer; it rises linearly from zero.", ge=0, le=1
    )
    ape: bool = setting(False, "Add a learned absolute position table.")
    patch_norm: bool = setting(True, "Normalise after patch embedding.")
    out_indices: list[Index] = setting(
        [0, 1, 2, 3], "Stages whose maps are handed on; all four are needed.", min_length=1
    )
    pretrain_img_size: int = setting(
        384,
        "Image side that the weights were pretrained with; the size of the position table.",
        ge=1,
        unit="pixel",
    )
    use_checkpoint: bool = setting(False, "Recompute the blocks in the backward pass, to save memory.")
    out_features: list[FeatureName] = setting(
        ["res2", "res3", "res4", "res5"], "Names of the returned maps; all four are needed.", min_length=1
    )


class EfficientVit(StrictModel):
    """EfficientViT backbone (experimental)."""

    name: Literal["b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3"] = setting("l0", "Variant.", any_case=True)
    out_indices: list[Index] = setting(
        [0, 1, 2, 3], "Maps handed on, by stride 4, 8, 16 and 32; all four are needed.", min_length=1
    )
    pretrain_img_size: int = setting(
        384,
        "Image side of the pretraining; changes nothing, since no part has a fixed size.",
        ge=1,
        unit="pixel",
    )
    use_checkpoint: bool = setting(False, "Recompute the blocks in the backward pass, to save memory.")
    out_features: list[FeatureName] = setting(
        ["res2", "res3", "res4", "res5"], "Names of the returned maps; all four are needed.", min_length=1
    )


class SemSegHead(StrictModel):
    """Pixel decoder."""

    common_stride: int = setting(4, "Stride of the mask features: 4, or 8 to save memory.", ge=2)
    transformer_enc_layers: int = setting(6, "Layers of the deformable encoder.", ge=1)
    convs_dim: int = setting(256, "Width of the pixel decoder.", ge=1)
    mask_dim: int = setting(256, "Width of the mask embedding.", ge=1)
    deformable_transformer_encoder_in_features: list[FeatureName] = setting(
        ["res3", "res4", "res5"], "Maps that the deformable encoder mixes.", min_length=1
    )
    num_classes: int = setting(
        200, "Number of classes; no-object is added to it. Without contiguous_id, the largest category id.",
        ge=1, popular=True,
    )  # fmt: skip
    norm: Literal["GN", "LN", "SyncBN", ""] = setting(
        "GN", "Normalisation of the convolutions; GN has 32 groups, empty means none.", any_case=True
    )


class MaskDecoder(StrictModel):
    """Query decoder, matching cost and losses."""

    dropout: float = setting(0.0, "Dropout of the encoder and decoder layers.", ge=0.0, le=1.0)
    nheads: int = setting(8, "Attention heads of the encoder and of the decoder.", ge=1)
    num_object_queries: int = setting(100, "Object queries, the most segments an image can have.", ge=1)
    hidden_dim: int = setting(256, "Width of the decoder.", ge=1)
    dim_feedforward: int = setting(2048, "Hidden width of the decoder's feed-forward layers.", ge=1)
    dec_layers: int = setting(
        10, "Predictions that are made and supervised; the decoder has one layer less.", ge=1
    )
    pre_norm: bool = setting(False, "Normalise before each sub-layer instead of after it.")
    class_weight: float = setting(2.0, "Weight of the class term, in matching and loss.", ge=0.0)
    dice_weight: float = setting(5.0, "Weight of the dice term, in matching and loss.", ge=0.0)
    mask_weight: float = setting(
        5.0, "Weight of the mask's binary cross entropy, in matching and loss.", ge=0.0
    )
    train_num_points: int = setting(12544, "Points sampled from each mask for matching and loss.", ge=1)
    oversample_ratio: float = setting(
        3.0, "Candidates drawn for each point that is kept, to choose uncertain ones from.", ge=1
    )
    importance_sample_ratio: float = setting(
        0.75, "Share of the points that is chosen by uncertainty; the rest is random.", ge=0, le=1
    )
    deep_supervision: bool = setting(
        True, "Losses on the prediction of every decoder layer, not only the last."
    )
    no_object_weight: float = setting(0.1, "Weight of the no-object class in the class loss.", ge=0)


class AnnotationStorage(StrictModel):
    """How loader processes hold the annotations."""

    dataset_type: Literal["default", "serialized"] = setting(
        "default",
        "serialized keeps the annotations in one buffer that all loader processes share.",
        any_case=True,
    )


class Augmentation(StrictModel):
    """Image sizes while training and testing."""

    train_min_size: list[PositiveInt] = setting(
        [640],
        "Lengths of the short side, one drawn for each training image; a single one stands for half of it to "
        "twice it, in steps of 64.",
        min_length=1,
        unit="pixel",
    )
    train_max_size: int = setting(
        2560, "Most the long side may have after that resize.", ge=32, automl=True, unit="pixel"
    )
    train_crop_size: list[PositiveInt] = setting(
        [640, 640], "Height and width of the random crop.",
        min_length=2, max_length=2, popular=True, unit="pixel",
    )  # fmt: skip
    test_min_size: int = setting(
        640, "Length of the short side at test time.", ge=32, automl=True, unit="pixel"
    )
    test_max_size: int = setting(
        640, "Most the long side may have at test time.", ge=32, automl=True, unit="pixel"
    )
    fixed_padding: bool = setting(
        False, "Pad every training image to one size before batching, which keeps host memory steady."
    )


class SegmentationExport(Export):
    """ONNX export of a 2D network."""

    on_cpu: bool = setting(
        True,
        "True writes deformable attention as standard operators, False as TensorRT's plugin node.",
    )
    input_channel: int = setting(3, "Channels of the input image; 3 is the only value.", ge=3, le=3)
    input_width: int = setting(
        960, "Width of the input, a multiple of 32.", ge=32, multiple_of=32, unit="pixel", popular=True
    )
    input_height: int = setting(
        544, "Height of the input, a multiple of 32.", ge=32, multiple_of=32, unit="pixel", popular=True
    )
    opset_version: int = setting(
        12, "ONNX operator set; raised to 17, with a warning, where standard operators need it.", ge=1
    )
    dynamic_size: bool = setting(
        False,
        "Leave height and width open, multiples of 32; the given sizes are then only traced with.",
    )


def swin_dims(swin: Swin) -> SwinDims:
    """The sizes to build; in a spec that was loaded, what nobody chose follows `type` already."""
    return SwinDims(swin.embed_dim, tuple(swin.depths), tuple(swin.num_heads))


def _size(name: str) -> Callable[[SwinType | None], Any]:
    def value(size: SwinType | None) -> Any:
        found = getattr(SWIN_SIZES[size], name) if size else None
        return list(found) if isinstance(found, tuple) else found

    return value


_SWIN = "model.backbone.swin"

SWIN_DERIVED = tuple(
    Derived(key=f"{_SWIN}.{name}", sources=(f"{_SWIN}.type",), value=_size(name))
    for name in ("embed_dim", "depths", "num_heads")
)


def _heads_divide(embed_dim: int, num_heads: Sequence[int]) -> str | None:
    for stage, heads in enumerate(num_heads):
        width = embed_dim * 2**stage
        if width % heads:
            return (
                f"stage {stage + 1} would have {width} channels for {heads} heads (embed_dim "
                f"{embed_dim}, num_heads {list(num_heads)}); the heads must divide the channels"
            )
    return None


_SWIN_RULE = Rule(
    keys=(f"{_SWIN}.embed_dim", f"{_SWIN}.num_heads"),
    check=_heads_divide,
    hint=f"set only {_SWIN}.type, or all of embed_dim, depths and num_heads",
)


def _two_or_none(key: str) -> Rule:
    return Rule(
        keys=(key,),
        check=lambda size: None if not size or len(size) == 2 else f"{size} is no [height, width] pair",
        hint=f"'{key}=[1024,1024]', or [] for no fixed size",
    )


def segmentation_rules(decoder: str) -> tuple[Rule, ...]:
    """The relations that hold in both networks; `decoder` is the dotted key of the mask decoder."""
    head, sizes = "model.sem_seg_head", "dataset.augmentation"
    return (
        _rules.CHECKPOINT_INTERVAL,
        _rules.VALIDATION_INTERVAL,
        _rules.MILESTONES,
        _rules.divisible(f"{decoder}.hidden_dim", f"{decoder}.nheads"),
        _rules.divisible(f"{head}.convs_dim", f"{decoder}.nheads"),
        Rule(
            keys=(f"{head}.convs_dim",),
            check=lambda width: (
                None if width % 32 == 0 else f"{width} is not a multiple of the 32 norm groups"
            ),
            hint=f"{head}.convs_dim=256",
        ),
        Rule(
            keys=(f"{head}.common_stride",),
            check=lambda stride: None if stride in {4, 8} else f"{stride} cannot be reached; use 4 or 8",
            hint=f"{head}.common_stride=4",
        ),
        _SWIN_RULE,
        _rules.not_above(f"{sizes}.train_min_size", f"{sizes}.train_max_size"),
        _rules.not_above(f"{sizes}.test_min_size", f"{sizes}.test_max_size"),
        *(_two_or_none(f"dataset.{split}.target_size") for split in ("train", "val", "test")),
        Rule(
            keys=("dataset.pixel_std",),
            check=lambda std: None if all(value > 0 for value in std) else f"{std} must be above zero",
        ),
        _rules.weights_for("evaluate"),
        _rules.weights_for("inference"),
        _rules.ONNX_FILE,
        _rules.BATCH_PROFILE,
    )
