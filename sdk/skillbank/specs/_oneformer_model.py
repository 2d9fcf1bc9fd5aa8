"""Model section of the OneFormer spec."""

from __future__ import annotations

from typing import Literal

from skillbank.specs._segmentation import (
    EfficientVit,
    FeatureName,
    MaskDecoder,
    SemSegHead,
    Swin,
    SwinType,
    Task,
)
from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import Index, PositiveInt

__all__ = ["Model", "OneFormerSwin"]


class Head(SemSegHead):
    """Pixel decoder."""

    name: Literal["OneFormerHead"] = setting("OneFormerHead", "Class of the head.", any_case=True)
    ignore_value: int = setting(255, "Label that is ignored.", ge=0)
    loss_weight: float = setting(1.0, "Factor on the sum of all losses.", ge=0)
    in_features: list[FeatureName] = setting(
        ["res3", "res4", "res5"],
        "Backbone maps the head takes; res2 is added where the backbone has it.",
        min_length=1,
    )
    pixel_decoder_name: Literal["MSDeformAttnPixelDecoder"] = setting(
        "MSDeformAttnPixelDecoder", "Class of the pixel decoder.", any_case=True
    )
    num_classes: int = setting(133, "Number of classes; no-object is added to it.", ge=1, popular=True)


class OneFormer(MaskDecoder):
    """Task-conditioned query decoder, matching cost and losses."""

    dropout: float = setting(
        0.1, "Dropout of the pixel decoder and of the query initialiser.", ge=0.0, le=1.0
    )
    num_object_queries: int = setting(
        150,
        "Object queries, the task token included; the most segments an image can have.",
        ge=2,
        popular=True,
    )
    enc_layers: int = setting(0, "Encoder layers of the query initialiser.", ge=0)
    enforce_input_proj: bool = setting(
        False, "Project the maps with a 1x1 convolution even when their width already fits."
    )
    size_divisibility: int = setting(32, "Images are padded to a multiple of this.", ge=1, unit="pixel")
    transformer_decoder_name: Literal["ContrastiveMultiScaleMaskedTransformerDecoder"] = setting(
        "ContrastiveMultiScaleMaskedTransformerDecoder", "Class of the query decoder.", any_case=True
    )
    transformer_in_feature: Literal["multi_scale_pixel_decoder"] = setting(
        "multi_scale_pixel_decoder", "Maps the query decoder attends to.", any_case=True
    )
    class_dec_layers: int = setting(2, "Decoder layers of the query initialiser.", ge=1)
    contrastive_weight: float = setting(0.5, "Weight of the loss between queries and texts.", ge=0)
    contrastive_temperature: float = setting(
        0.07, "First value of the learned temperature of that loss.", gt=0
    )
    use_task_norm: bool = setting(True, "Normalise the task token before the decoder takes it.")
    num_feature_levels: int = setting(3, "Levels the decoder layers take in turn.", ge=1, le=3)


class TextEncoder(StrictModel):
    """Text branch, used in training only."""

    context_length: int = setting(77, "Tokens of a text.", ge=1)
    vocab_size: int = setting(49408, "Size of the byte-pair vocabulary.", ge=49408)
    width: int = setting(256, "Width of the text encoder; equals the decoder's hidden_dim.", ge=1)
    num_layers: int = setting(6, "Layers of the text encoder.", ge=1)
    n_ctx: int = setting(
        16, "Learned texts that join those of the image; fewer than the object queries.", ge=0
    )
    proj_num_layers: int = setting(2, "Layers of the projection from text to query width.", ge=1)


class OneFormerSwin(Swin):
    """Swin Transformer backbone."""

    type: SwinType | None = setting(
        None,
        "Short form for embed_dim, depths and num_heads; one of them with a value of its own still wins.",
        any_case=True,
    )
    embed_dim: int = setting(192, "Channels after patch embedding.", ge=1)
    depths: list[PositiveInt] = setting([2, 2, 18, 2], "Blocks of each stage.", min_length=4, max_length=4)
    num_heads: list[PositiveInt] = setting(
        [6, 12, 24, 48], "Attention heads of each stage.", min_length=4, max_length=4
    )
    window_size: int = setting(12, "Side of the attention window, in tokens.", ge=1)


class Dinat(StrictModel):
    """Dilated neighbourhood attention backbone."""

    embed_dim: int = setting(192, "Channels of the first level.", ge=1)
    mlp_ratio: float = setting(2.0, "Hidden width of the MLP over its input width.", gt=0)
    depths: list[PositiveInt] = setting([3, 4, 18, 5], "Blocks of each level.", min_length=4, max_length=4)
    num_heads: list[PositiveInt] = setting(
        [6, 12, 24, 48], "Attention heads of each level.", min_length=4, max_length=4
    )
    kernel_size: int = setting(7, "Side of the neighbourhood, odd; 11 in most published weights.", ge=1)
    drop_path_rate: float = setting(
        0.3, "Share of skipped blocks in the last layer; it rises linearly from zero.", ge=0, le=1
    )
    dilations: list[list[PositiveInt]] | None = setting(
        None, "Dilation of every block, one list for each level; empty takes the published ones."
    )
    out_indices: list[Index] = setting([0, 1, 2, 3], "Levels whose maps are handed on.", min_length=1)
    out_features: list[FeatureName] = setting(
        ["res2", "res3", "res4", "res5"], "Names of the returned maps.", min_length=1
    )
    use_checkpoint: bool = setting(False, "Recompute the blocks in the backward pass, to save memory.")


class Radio(StrictModel):
    """RADIO vision transformer backbone; its weights have a licence of their own."""

    resolution: list[PositiveInt] = setting(
        [1024, 1024], "Height and width the position grid is prepared for.",
        min_length=2, max_length=2, unit="pixel",
    )  # fmt: skip
    backbone: Literal[
        "vit_base_patch16_224",
        "vit_large_patch16_224",
        "vit_huge_patch16_224",
        "vit_so400m_patch16_224",
        "vit_base_patch16_reg4_dinov2",
        "vit_large_patch16_reg4_dinov2",
        "vit_huge_patch16_reg4_dinov2",
    ] = setting("vit_base_patch16_224", "Variant.")
    summary_idxs: list[Index] = setting([0, 1, 2], "Summary tokens that are handed out.")
    window_size: int | None = setting(
        None, "Side of windowed attention, in tokens; empty attends globally.", ge=1
    )
    num_teacher: int = setting(4, "Class tokens, one for each teacher of the pretraining.", ge=1)
    cpe_max_size: int = setting(2048, "Largest image side of the position table.", ge=16, unit="pixel")
    register_multiple: int = setting(8, "The tokens in front are filled up to a multiple of this.", ge=1)
    out_features: list[Literal["res3", "res4", "res5"]] = setting(
        ["res3", "res4", "res5"], "Names of the returned maps; there is no res2.", min_length=1
    )
    use_checkpoint: bool = setting(False, "Recompute the blocks in the backward pass, to save memory.")


class Backbone(StrictModel):
    """Image encoder."""

    name: Literal["D2SwinTransformer", "D2DiNAT", "D2RADIO", "EfficientViT"] = setting(
        "D2SwinTransformer",
        "Family of the backbone; swin, dinat, radio and efficientvit are accepted too.",
        any_case=True,
        spellings={"swin": "D2SwinTransformer", "dinat": "D2DiNAT", "radio": "D2RADIO"},
        popular=True,
    )
    freeze_at: int = setting(
        0, "0 or -1 freezes nothing, 1 the patch embedding, n above 1 also the first n-1 stages.", ge=-1
    )
    swin: OneFormerSwin = section(OneFormerSwin, "Swin Transformer, read when name is D2SwinTransformer.")
    dinat: Dinat = section(Dinat, "Neighbourhood attention network, read when name is D2DiNAT.")
    radio: Radio = section(Radio, "RADIO vision transformer, read when name is D2RADIO.")
    efficientvit: EfficientVit = section(EfficientVit, "EfficientViT, read when name is EfficientViT.")


class TestTime(StrictModel):
    """Post-processing, and what evaluation runs."""

    object_mask_threshold: float = setting(
        0.4, "Queries with a lower class score are dropped in panoptic mode.", ge=0, le=1
    )
    overlap_threshold: float = setting(
        0.8, "Segments whose visible share is lower are dropped in panoptic mode.", ge=0, le=1
    )
    test_topk_per_image: int = setting(100, "Instances kept per image in instance mode.", ge=1)
    semantic_on: bool = setting(True, "Evaluate the semantic task.")
    instance_on: bool = setting(False, "Evaluate the instance task.")
    panoptic_on: bool = setting(False, "Evaluate the panoptic task.")
    detection_on: bool = setting(False, "Also make boxes from the instance masks.")


class Model(StrictModel):
    """Network and post-processing."""

    precise_msda: bool = setting(
        False, "Plain, deterministic deformable attention even where a fused kernel is available."
    )
    sem_seg_head: Head = section(Head, "Pixel decoder.")
    one_former: OneFormer = section(OneFormer, "Task-conditioned query decoder, matching cost and losses.")
    text_encoder: TextEncoder = section(TextEncoder, "Text branch, used in training only.")
    backbone: Backbone = section(Backbone, "Image encoder.")
    export: bool = setting(False, "Set by the exporter itself while it traces the model.")
    mode: Task = setting(
        "semantic", "Task of inference when inference.mode is empty.", any_case=True, popular=True
    )
    test: TestTime = section(TestTime, "Post-processing, and what evaluation runs.")
