"""Relations between the settings of Sparse4D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from skillbank.specs._rules import CHECKPOINT_INTERVAL, ONNX_FILE, VALIDATION_INTERVAL, divisible, weights_for
from skillbank.specs._sparse4d_cotrain import COTRAIN_RULES
from skillbank.specs.base import Derived, Rule

__all__ = ["DERIVED", "RULES"]

_MULTIPLIERS = ("lr_mult", "decay_mult")
_SPLITS = ("train", "val", "test")
_DEFAULT_CHUNKS = 100


def _same(key: str, leader: str) -> Rule:
    """Two keys that say the same thing twice; the first follows the second unless it is set."""
    return Rule(
        keys=(key, leader),
        check=lambda value, wanted: (
            None if value == wanted else f"{value} differs from {wanted}; they must be equal"
        ),
        hint=f"leave {key} out, so that it follows {leader}",
    )


def _at_most(key: str, limit: str) -> Rule:
    return Rule(
        keys=(key, limit),
        check=lambda value, most: None if value <= most else f"{value} is above {most}; use at most {most}",
        hint=f"lower {key} or raise {limit}",
    )


def _range(key: str) -> Rule:
    return Rule(
        keys=(key,),
        check=lambda pair: (
            None if pair[0] <= pair[1] else f"{pair} runs backwards; the lower end comes first"
        ),
        hint=f"{key}=[LOW,HIGH]",
    )


def _width(token: int, joined: object) -> int:
    """Twice the token width where two tokens stand side by side, else once."""
    return 2 * token if joined in (True, "cat") else token


def _fitting_width(key: str, switch: str) -> Rule:
    def check(width: int, token: int, joined: object) -> str | None:
        right = _width(token, joined)
        return None if width == right else f"{width} does not fit; with these settings it must be {right}"

    return Rule(
        keys=(key, "model.embed_dims", switch),
        check=check,
        hint=f"leave {key} out, so that it follows model.embed_dims",
    )


def _default_anchor_widths(token: int, mode: str) -> list[int] | None:
    if mode == "add":
        return [token] * 4
    return [token // 2, token // 8, token // 8, token // 4] if token % 8 == 0 else None


def _anchor_widths(widths: Sequence[int], mode: str, output_fc: bool, token: int) -> str | None:
    if mode == "cat" and sum(widths) != token and not output_fc:
        return f"{list(widths)} add up to {sum(widths)}; side by side they must make {token}"
    if mode == "add" and len(set(widths)) > 1:
        return f"{list(widths)} differ; widths that are added up must be equal"
    if mode == "add" and not output_fc:
        return "mode 'add' needs model.head.anchor_encoder.output_fc true"
    return None


def _decoders(order: Sequence[str], layers: int) -> str | None:
    found = list(order).count("refine")
    return (
        None
        if found == layers
        else f"has {found} refine steps for {layers} layers; each layer is closed by one"
    )


def _chunks(batch: int, shared: int, own: int, shared_scene: bool, own_scene: bool) -> str | None:
    chunks = own if own != _DEFAULT_CHUNKS else shared
    if not (shared_scene and own_scene) or batch <= chunks:
        return None
    return (
        f"{batch} groups cannot stream from one scene that is cut into {chunks} chunks; use at most {chunks}"
    )


def _multipliers(custom_keys: Mapping[str, Mapping[str, float]]) -> str | None:
    for part, factors in custom_keys.items():
        for name, factor in factors.items():
            if name not in _MULTIPLIERS:
                near = get_close_matches(name, _MULTIPLIERS, n=1)
                return f"{part}.{name} is unknown; " + (
                    f"did you mean {near[0]}?" if near else "use lr_mult or decay_mult"
                )
            if factor < 0:
                return f"{part}.{name} is {factor:g}; a factor must not be negative"
    return None


def _splits(text: str) -> str | None:
    parts = [part.strip() for part in text.split(",")]
    if all(part in _SPLITS for part in parts) and len(set(parts)) == len(parts):
        return None
    return f"{text!r} is no list of splits; name each of train, val, test at most once, with commas between"


def _merged_names(merged: Mapping[str, Sequence[str]], kept: Sequence[str]) -> str | None:
    lost = [name for name in merged if name not in kept]
    return (
        f"{', '.join(lost)} would be merged into and then dropped; list such names in CLASS_LIST"
        if lost
        else None
    )


def _known_once(names: Sequence[str]) -> str | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"{', '.join(twice)} appears more than once; a class has one label" if twice else None


_COPIES = {
    **dict.fromkeys(
        (
            "model.neck.out_channels",
            "model.head.embed_dims",
            "model.head.instance_bank.embed_dims",
            "model.head.deformable_model.embed_dims",
            "model.head.deformable_model.kps_generator.embed_dims",
            "model.head.refine_layer.embed_dims",
            "model.head.norm_layer.normalized_shape",
            "model.head.ffn.embed_dims",
            "model.head.bnneck.feat_dim",
            "model.head.visibility_net.embedding_dim",
        ),
        "model.embed_dims",
    ),
    "model.depth_branch.embed_dims": "model.neck.out_channels",
    "model.head.loss.id.num_ids": "dataset.num_ids",
    "model.head.bnneck.num_ids": "dataset.num_ids",
    "model.head.instance_bank.use_temporal_align": "model.use_temporal_align",
    "model.head.sampler.use_temporal_align": "model.use_temporal_align",
}
_DOUBLED = {
    "model.head.graph_model.embed_dims": "model.head.decouple_attn",
    "model.head.temp_graph_model.embed_dims": "model.head.decouple_attn",
    "model.head.ffn.in_channels": "model.head.deformable_model.residual_mode",
}
_ANCHOR_WIDTHS = "model.head.anchor_encoder.embed_dims"

DERIVED = (
    *(Derived(key=key, sources=(leader,), value=lambda value: value) for key, leader in _COPIES.items()),
    *(
        Derived(key=key, sources=("model.embed_dims", switch), value=_width)
        for key, switch in _DOUBLED.items()
    ),
    Derived(
        key=_ANCHOR_WIDTHS,
        sources=("model.embed_dims", "model.head.anchor_encoder.mode"),
        value=_default_anchor_widths,
    ),
)

RULES = (
    *(_same(key, leader) for key, leader in _COPIES.items()),
    *(_fitting_width(key, switch) for key, switch in _DOUBLED.items()),
    divisible("model.head.embed_dims", "model.head.num_groups"),
    divisible("model.head.deformable_model.embed_dims", "model.head.deformable_model.num_groups"),
    divisible("model.head.graph_model.embed_dims", "model.head.graph_model.num_heads"),
    divisible("model.head.temp_graph_model.embed_dims", "model.head.temp_graph_model.num_heads"),
    Rule(
        keys=(
            _ANCHOR_WIDTHS,
            "model.head.anchor_encoder.mode",
            "model.head.anchor_encoder.output_fc",
            "model.embed_dims",
        ),
        check=_anchor_widths,
        hint="the default is [128, 32, 32, 64] for 256",
    ),
    Rule(
        keys=("model.head.operation_order", "model.head.num_decoder"),
        check=_decoders,
        hint="change model.head.num_decoder or model.head.operation_order",
    ),
    Rule(
        keys=("model.head.instance_bank.num_temp_instances", "model.head.instance_bank.num_anchor"),
        check=lambda kept, all_: (
            None if kept < all_ else f"{kept} carried of {all_} queries leave no room for new ones"
        ),
        hint="lower model.head.instance_bank.num_temp_instances",
    ),
    _at_most("model.head.num_single_frame_decoder", "model.head.num_decoder"),
    _at_most("model.head.sampler.num_temp_dn_groups", "model.head.sampler.num_dn_groups"),
    _at_most("model.head.deformable_model.num_levels", "model.neck.num_outs"),
    _at_most("model.depth_branch.num_depth_layers", "model.neck.num_outs"),
    *(
        _range(f"dataset.augmentation.{name}")
        for name in ("resize_lim", "bot_pct_lim", "rot_lim", "rot3d_range")
    ),
    Rule(keys=("dataset.classes",), check=_known_once, hint="name each class once"),
    Rule(
        keys=(
            "dataset.batch_size",
            "dataset.sequences.split_num",
            "dataset.train_dataset.sequences_split_num",
            "dataset.sequences.same_scene_in_batch",
            "dataset.train_dataset.same_scene_in_batch",
        ),
        check=_chunks,
        hint="lower dataset.batch_size or raise dataset.sequences.split_num",
        actions=("train",),
    ),
    Rule(
        keys=("train.optim.paramwise_cfg.custom_keys",),
        check=_multipliers,
        hint="train.optim.paramwise_cfg.custom_keys.img_backbone.lr_mult=0.25",
    ),
    CHECKPOINT_INTERVAL,
    VALIDATION_INTERVAL,
    weights_for("evaluate"),
    weights_for("inference"),
    ONNX_FILE,
    Rule(
        keys=("export.batch_size",),
        check=lambda batch: (
            None if batch in (-1, 1) else f"{batch} is not possible; the graph has batch size 1"
        ),
        hint="export.batch_size=1",
    ),
    Rule(
        keys=("dataset.quant_calibration_dataset.images_dir", "quantize.mode"),
        check=lambda images, mode: (
            "quantize.mode is static_ptq, which needs calibration data"
            if mode == "static_ptq" and not images
            else None
        ),
        hint="name a dataset with --calibration-dataset-uri, or quantize.mode=weight_only_ptq",
        actions=("quantize",),
        missing=True,
    ),
    Rule(keys=("aicity.split",), check=_splits, hint="aicity.split=train,val"),
    Rule(
        keys=("aicity.class_config.SUB_CLASS_DICT", "aicity.class_config.CLASS_LIST"),
        check=_merged_names,
        hint="add the names to aicity.class_config.CLASS_LIST",
    ),
    *COTRAIN_RULES,
)
