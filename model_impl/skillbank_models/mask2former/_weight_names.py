"""Tensor names and layouts of published Mask2Former weights: see `skillbank_models.mask2former.weights`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skillbank.errors import InvalidValueError
from skillbank_models.layers.backbone_weights import to_backbone
from skillbank_models.layers.windows import relative_position_index
from skillbank_models.mask2former._hf_names import from_hf, is_hf, to_hf
from skillbank_models.weights.files import ForeignWeights
from skillbank_models.weights.quantised import is_packed, restore

__all__ = ["FORMATS", "from_own", "layout_of", "own_of", "to_own"]

FORMATS = ("own", "detectron2", "hf", "tao")

# what trainers and compilers put around a network, and inside it
_WRAPPED = re.compile(
    r"(?:(?:module|_orig_mod|_forward_module|model)\.)+(?=(?:backbone|sem_seg_head|criterion)\.)"
)
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.")
_INSIDE = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
# buffers that follow from the settings
_DERIVED = ("relative_position_index", "attn_mask", "criterion.empty_weight", "pixel_mean", "pixel_std")
_CLASSES = ("sem_seg_head.predictor.class_embed.weight", "sem_seg_head.predictor.class_embed.bias")
_LAYER_NORM = "model.pixel_level_module.encoder.swin.layernorm"
_TABLE = ".relative_position_bias_table"


def layout_of(tensors: Mapping[str, Tensor], marks: Mapping[str, Any] | None = None) -> str:
    """Which of `FORMATS` tensors are in; ``own`` and ``detectron2`` differ in nothing but the prefix.

    Args:
        marks: plain values that the file has beside its tensors.
    """
    if is_hf(tensors):
        return "hf"
    if _no_object_is_first(tensors, marks or {}):
        return "tao"
    return "own" if any(name.startswith("model.") for name in tensors) else "detectron2"


def to_own(tensors: Mapping[str, Tensor], *, marks: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Tensors of any known layout under own names; names that no rule knows are kept.

    Args:
        marks: plain values that the file has beside its tensors; they tell TAO's files from own ones.
    """
    if is_hf(tensors):
        own = from_hf(tensors)
        return {name: tensor for name, tensor in own.items() if not name.endswith(_DERIVED)}
    is_first = _no_object_is_first(tensors, marks or {})
    # beside a wrapped network stand the losses and measures of its training
    is_wrapped = any(_WRAPPED.match(name) for name in tensors)
    inside = [name for name in tensors if not is_wrapped or name.startswith(_WRAPPERS)]
    own = _unwrapped_backbone({_plain_name(name): tensors[name] for name in inside})
    if is_first:
        for name in _CLASSES:
            if name in own:
                own[name] = own[name].roll(-1, 0)  # (K + 1, C): no-object last
    return {name: tensor for name, tensor in own.items() if not name.endswith(_DERIVED)}


def own_of(found: ForeignWeights) -> dict[str, Tensor]:
    """The tensors of a file under own names; quantised ones are computed back.

    Raises:
        InvalidValueError: a quantised tensor lacks a half of it.
    """
    is_quantised = is_packed(found.tensors)
    tensors = restore(found.tensors, where=str(found.origin)) if is_quantised else found.tensors
    return to_own(tensors, marks=found.marks)


def from_own(
    tensors: Mapping[str, Tensor], target: str, *, no_object_weight: float = 0.1
) -> dict[str, Tensor]:
    """Own tensors in the layout of another program; buffers that it expects are added.

    Args:
        tensors: under own names, without prefix.
        target: one of `FORMATS`.
        no_object_weight: of the class loss; Hugging Face and TAO keep it in a buffer.

    Raises:
        InvalidValueError: an unknown target, or tensors that have no counterpart there.
    """
    if target == "own":
        return {f"model.{name}": tensor for name, tensor in tensors.items()}
    if target == "hf":
        return _for_hf(tensors, no_object_weight)
    if target not in FORMATS:
        raise InvalidValueError(
            f"{target!r} is no layout of weights; known are {', '.join(FORMATS)}",
            hint="--to hf",
            key="--to",
            value=target,
            allowed=FORMATS,
        )
    _refuse(target, [name for name in tensors if name.startswith(("backbone.stem.", "backbone.stages."))])
    out = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(_TABLE):
            side = (round(tensor.shape[0] ** 0.5) + 1) // 2
            out[name.removesuffix(_TABLE) + ".relative_position_index"] = relative_position_index(side)
    if target == "detectron2":
        return out
    for name in _CLASSES:
        out[name] = out[name].roll(1, 0)  # (K + 1, C): no-object first
    out = {f"model.{name}": tensor for name, tensor in out.items()}
    out["criterion.empty_weight"] = _class_weights(tensors, no_object_weight).roll(1)
    return out


def _for_hf(tensors: Mapping[str, Tensor], no_object_weight: float) -> dict[str, Tensor]:
    out, unknown = to_hf(tensors)
    _refuse("hf", unknown)
    width = tensors["backbone.norm3.weight"].shape[0]
    out[f"{_LAYER_NORM}.weight"] = torch.ones(width)
    out[f"{_LAYER_NORM}.bias"] = torch.zeros(width)
    out["criterion.empty_weight"] = _class_weights(tensors, no_object_weight)
    return out


def _class_weights(tensors: Mapping[str, Tensor], no_object_weight: float) -> Tensor:
    weights = torch.ones(tensors[_CLASSES[0]].shape[0])
    weights[-1] = no_object_weight
    return weights


def _refuse(target: str, names: list[str]) -> None:
    if names:
        raise InvalidValueError(
            f"--to {target}: {len(names)} tensors have no counterpart there: {', '.join(names[:5])}; only "
            "the Swin backbone and group normalisation do",
            hint="--to own",
            key="--to",
            value=target,
        )


def _plain_name(name: str) -> str:
    for part in _INSIDE:
        name = name.replace(part, "")
    name = _WRAPPED.sub("", name, count=1) if _WRAPPED.match(name) else name
    return name.replace("predictor.static_query.", "predictor.query_feat.")


def _unwrapped_backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """TAO keeps an EfficientViT one level deeper, under the names of its authors."""
    inside = "backbone.model."
    part = {name.removeprefix(inside): item for name, item in tensors.items() if name.startswith(inside)}
    if not part:
        return tensors
    rest = {name: item for name, item in tensors.items() if not name.startswith(inside)}
    return rest | {f"backbone.{name}": item for name, item in to_backbone(part, wanted={}).items()}


def _no_object_is_first(tensors: Mapping[str, Tensor], marks: Mapping[str, Any]) -> bool:
    """Whether row 0 of the class layer stands for no-object, as in TAO."""
    if "skillbank" in marks:
        return False
    for name, weights in tensors.items():
        if name.endswith("criterion.empty_weight") and weights[0] != weights[-1]:
            return bool(weights[0] != 1)
    is_lightning = any(name.startswith(("model.backbone.", "model.sem_seg_head.")) for name in tensors)
    return is_lightning and ("tao_model" in marks or "pytorch-lightning_version" in marks)
