"""Spec settings that the shapes of Mask2Former's tensors tell, and those of a Hugging Face config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from skillbank.specs._segmentation import SWIN_SIZES
from skillbank_models.layers.efficientvit import VARIANTS

__all__ = ["describe", "hf_config", "settings_of_hf"]

_PIXEL = "sem_seg_head.pixel_decoder"
_QUERY = "sem_seg_head.predictor"
_SWIN = "model.backbone.swin"
_STAGE = "backbone.layers.{}.blocks.0"
# of the authors, and of Hugging Face
_RESNET = ("backbone.res2.", "model.pixel_level_module.encoder.embedder.")
_POINTS = 4  # sampling points of deformable attention, of all published models
_HEAD_KEY = "model.sem_seg_head"
_FORMER_KEY = "model.mask_former"
_ENCODER_FEEDFORWARD = f"{_PIXEL}.transformer.encoder.layers.0.linear1.weight"

# spec key, key of Hugging Face's configuration
_SAME = (
    (f"{_HEAD_KEY}.convs_dim", "feature_size"),
    (f"{_HEAD_KEY}.mask_dim", "mask_feature_size"),
    (f"{_HEAD_KEY}.transformer_enc_layers", "encoder_layers"),
    (f"{_HEAD_KEY}.common_stride", "common_stride"),
    (f"{_FORMER_KEY}.hidden_dim", "hidden_dim"),
    (f"{_FORMER_KEY}.dec_layers", "decoder_layers"),
    (f"{_FORMER_KEY}.nheads", "num_attention_heads"),
    (f"{_FORMER_KEY}.dim_feedforward", "dim_feedforward"),
    (f"{_FORMER_KEY}.num_object_queries", "num_queries"),
    (f"{_FORMER_KEY}.pre_norm", "pre_norm"),
    (f"{_FORMER_KEY}.dropout", "dropout"),
    (f"{_FORMER_KEY}.class_weight", "class_weight"),
    (f"{_FORMER_KEY}.mask_weight", "mask_weight"),
    (f"{_FORMER_KEY}.dice_weight", "dice_weight"),
    (f"{_FORMER_KEY}.no_object_weight", "no_object_weight"),
    (f"{_FORMER_KEY}.train_num_points", "train_num_points"),
    (f"{_FORMER_KEY}.oversample_ratio", "oversample_ratio"),
    (f"{_FORMER_KEY}.importance_sample_ratio", "importance_sample_ratio"),
    (f"{_FORMER_KEY}.deep_supervision", "use_auxiliary_loss"),
)
_SAME_SWIN = (
    (f"{_SWIN}.embed_dim", "embed_dim"),
    (f"{_SWIN}.depths", "depths"),
    (f"{_SWIN}.num_heads", "num_heads"),
    (f"{_SWIN}.patch_size", "patch_size"),
    (f"{_SWIN}.window_size", "window_size"),
    (f"{_SWIN}.mlp_ratio", "mlp_ratio"),
    (f"{_SWIN}.qkv_bias", "qkv_bias"),
    (f"{_SWIN}.ape", "use_absolute_embeddings"),
    (f"{_SWIN}.pretrain_img_size", "image_size"),
    (f"{_SWIN}.drop_path_rate", "drop_path_rate"),
    (f"{_SWIN}.drop_rate", "hidden_dropout_prob"),
    (f"{_SWIN}.attn_drop_rate", "attention_probs_dropout_prob"),
)


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Spec settings that tensors under own names tell, by dotted key; what they do not tell is left out.

    A backbone that this network does not have is named by ``model.backbone.type`` all the same.
    """
    return {**_backbone(tensors), **_pixel_decoder(tensors), **_predictor(tensors)}


def settings_of_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Spec settings of a Hugging Face configuration; keys that are not there are left out."""
    out = {key: config[name] for key, name in _SAME if config.get(name) is not None}
    swin = config.get("backbone_config")
    if isinstance(swin, Mapping):
        out |= {key: swin[name] for key, name in _SAME_SWIN if swin.get(name) is not None}
    classes = config.get("id2label")
    if isinstance(classes, Mapping):
        out[f"{_HEAD_KEY}.num_classes"] = len(classes)
    return out


def hf_config(
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    class_names: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """The `config.json` with which transformers loads exported weights.

    Args:
        settings: every value of the block ``model`` of a spec, by dotted key.
        tensors: the weights under own names; they tell what is no setting here.
        class_names: name of each class; empty numbers them.
    """
    count = settings[f"{_HEAD_KEY}.num_classes"]
    names = {index: (class_names or {}).get(index, f"class_{index}") for index in range(count)}
    config: dict[str, Any] = {name: settings[key] for key, name in _SAME}
    swin: dict[str, Any] = {name: settings[key] for key, name in _SAME_SWIN}
    stages = [f"stage{stage}" for stage in range(1, 5)]
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        **config,
        "activation_function": "relu",
        "encoder_feedforward_dim": int(tensors[_ENCODER_FEEDFORWARD].shape[0]),
        "enforce_input_projection": False,
        "feature_strides": [4, 8, 16, 32],
        "ignore_value": 255,
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
        "backbone_config": {
            "model_type": "swin",
            **swin,
            "hidden_act": "gelu",
            "hidden_size": swin["embed_dim"] * 8,
            "layer_norm_eps": 1e-5,
            "num_channels": 3,
            "num_layers": 4,
            "out_features": stages,
            "out_indices": [1, 2, 3, 4],
            "stage_names": ["stem", *stages],
        },
    }


def _backbone(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if "backbone.patch_embed.proj.weight" in tensors:
        return {"model.backbone.type": "swin", **_swin(tensors)}
    if "backbone.stem.in_conv.conv.weight" in tensors:
        return {"model.backbone.type": "efficientvit", **_efficientvit(tensors)}
    if any(name.startswith(_RESNET) for name in tensors):
        return {"model.backbone.type": "resnet"}
    return {}


def _swin(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, _, patch = tensors["backbone.patch_embed.proj.weight"].shape
    depths = [_count(tensors, rf"backbone\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
    tables = [tensors.get(f"{_STAGE.format(stage)}.attn.relative_position_bias_table") for stage in range(4)]
    out: dict[str, Any] = {f"{_SWIN}.patch_size": patch}
    if all(table is not None for table in tables):
        heads = [int(table.shape[1]) for table in tables if table is not None]
        size = next(
            (
                name
                for name, dims in SWIN_SIZES.items()
                if (dims.embed_dim, list(dims.depths), list(dims.num_heads)) == (width, depths, heads)
            ),
            None,
        )
        if size:
            out[f"{_SWIN}.type"] = size
        out |= {f"{_SWIN}.embed_dim": width, f"{_SWIN}.depths": depths, f"{_SWIN}.num_heads": heads}
        rows = next(int(table.shape[0]) for table in tables if table is not None)
        out[f"{_SWIN}.window_size"] = (round(rows**0.5) + 1) // 2
    hidden = tensors.get("backbone.layers.0.blocks.0.mlp.fc1.weight")
    if hidden is not None:
        out[f"{_SWIN}.mlp_ratio"] = hidden.shape[0] / width
    out[f"{_SWIN}.qkv_bias"] = "backbone.layers.0.blocks.0.attn.qkv.bias" in tensors
    out[f"{_SWIN}.patch_norm"] = "backbone.patch_embed.norm.weight" in tensors
    table = tensors.get("backbone.absolute_pos_embed")
    out[f"{_SWIN}.ape"] = table is not None
    if table is not None:
        out[f"{_SWIN}.pretrain_img_size"] = int(table.shape[-1]) * patch
    return out


def _efficientvit(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = tensors["backbone.stem.in_conv.conv.weight"].shape[0]
    last = tensors.get("backbone.stages.3.blocks.0.main.point_conv.conv.weight")
    width = last.shape[0] if last is not None else 0
    depth = _count(tensors, r"backbone\.stages\.3\.blocks\.(\d+)\.context_module\.")
    is_large = "backbone.stages.0.blocks.0.main.spatial_conv.conv.weight" in tensors
    for name, variant in VARIANTS.items():
        sizes = (variant.widths[0], variant.widths[-1], variant.depths[-1], variant.large)
        if sizes == (stem, width, depth, is_large):
            return {"model.backbone.efficientvit.name": name}
    return {}


def _pixel_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    features = tensors.get(f"{_PIXEL}.mask_features.weight")
    if features is not None:
        out[f"{_HEAD_KEY}.mask_dim"], out[f"{_HEAD_KEY}.convs_dim"] = (
            int(size) for size in features.shape[:2]
        )
    layers = _count(tensors, rf"{re.escape(_PIXEL)}\.transformer\.encoder\.layers\.(\d+)\.")
    if layers:
        out[f"{_HEAD_KEY}.transformer_enc_layers"] = layers
        finer = _count(tensors, rf"{re.escape(_PIXEL)}\.adapter_(\d+)\.")
        out[f"{_HEAD_KEY}.common_stride"] = 8 >> finer
    offsets = tensors.get(f"{_PIXEL}.transformer.encoder.layers.0.self_attn.sampling_offsets.weight")
    levels = tensors.get(f"{_PIXEL}.transformer.level_embed")
    if offsets is not None and levels is not None:
        out[f"{_FORMER_KEY}.nheads"] = int(offsets.shape[0]) // (int(levels.shape[0]) * _POINTS * 2)
    return out


def _predictor(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    classes = tensors.get(f"{_QUERY}.class_embed.weight")
    if classes is not None:
        out[f"{_HEAD_KEY}.num_classes"] = int(classes.shape[0]) - 1
    queries = tensors.get(f"{_QUERY}.query_feat.weight")
    if queries is not None:
        out[f"{_FORMER_KEY}.num_object_queries"] = int(queries.shape[0])
        out[f"{_FORMER_KEY}.hidden_dim"] = int(queries.shape[1])
        layers = _count(tensors, rf"{re.escape(_QUERY)}\.transformer_ffn_layers\.(\d+)\.")
        out[f"{_FORMER_KEY}.dec_layers"] = layers + 1
    hidden = tensors.get(f"{_QUERY}.transformer_ffn_layers.0.linear1.weight")
    if hidden is not None:
        out[f"{_FORMER_KEY}.dim_feedforward"] = int(hidden.shape[0])
    return out


def _count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers a pattern finds in names."""
    found = (re.match(pattern, name) for name in names)
    return len({match.group(1) for match in found if match})
