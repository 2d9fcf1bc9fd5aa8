"""Weights of a backbone alone, from wherever they were published, under the names of our backbones.

| file | root | what differs |
|---|---|---|
| microsoft/Swin-Transformer | none, or `encoder.` (SimMIM) | head and final norm; position table in rows |
| detectron2 (Mask2Former) | `backbone.` | nothing |
| timm Swin | none | the step between stages belongs to the later stage |
| Hugging Face Swin, on disk, in memory | none, `swin.`, `model.`, deeper | names; query, key, value apart |
| mit-han-lab EfficientViT | none, or `backbone.` | names; large members count the stem as stage 0 |
| timm EfficientViT | none | nothing |

The classifier's final norm has no counterpart here: each map has a norm of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["to_backbone"]

_TABLE = "relative_position_bias_table"
_POSITIONS = "absolute_pos_embed"

# the first weight of each layout; what stands before it in a file is the root
_SWIN = "patch_embed.proj.weight"
_SWIN_HF = "embeddings.patch_embeddings.projection.weight"
_VIT = "stem.in_conv.conv.weight"
_VIT_AUTHORS = "input_stem.op_list.0.conv.weight"
_VIT_AUTHORS_LARGE = "stages.0.op_list.0.conv.weight"

_USELESS = re.compile(
    r"^(?:head|norm|fc_norm|layernorm|classifier|pooler)\.|(?:^|[._])mask_token$"
    r"|\.(?:relative_position_index|relative_coords_table|attn_mask)$"
)
_MERGED = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
)
_HF_NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^embeddings\.position_embeddings$", _POSITIONS),
    (r"^encoder\.layers\.", "layers."),
    (r"^hidden_states_norms\.stage1\.", "norm0."),
    (r"^hidden_states_norms\.stage2\.", "norm1."),
    (r"^hidden_states_norms\.stage3\.", "norm2."),
    (r"^hidden_states_norms\.stage4\.", "norm3."),
    (r"^hidden_states_norms\.(\d)\.", r"norm\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:self\.|relative_position_bias\.)?relative_position", ".attn.relative_position"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


def to_backbone(tensors: Mapping[str, Tensor], *, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a file that holds a backbone, and fit its position tables.

    Args:
        tensors: of any layout in the table above; a whole network that contains such a backbone will do.
        wanted: state dict of the backbone to be loaded, for the sizes of its position tables.

    Returns:
        Tensors under the backbone's own names. What is known to have no use here is left out, what no rule
        knows keeps its name. A file without any known backbone is returned as it is.
    """
    for anchor, rename in _LAYOUTS.items():
        roots = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
        roots = [root for root in roots if not root or root.endswith(".")]
        if roots:
            own = rename(_below(tensors, min(roots, key=len)))
            return {
                name: _fit(name, tensor, wanted.get(name))
                for name, tensor in own.items()
                if not _USELESS.search(name)
            }
    return dict(tensors)


def _below(tensors: Mapping[str, Tensor], root: str) -> dict[str, Tensor]:
    """Tensors below a root, without it; Hugging Face keeps the norms of the maps beside its root."""
    out = {name.removeprefix(root): tensor for name, tensor in tensors.items() if name.startswith(root)}
    for name, tensor in tensors.items():
        place = name.find("hidden_states_norms.")
        if place >= 0:
            out.pop(name.removeprefix(root), None)
            out[name[place:]] = tensor
    return out


def _from_swin(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {re.sub(r"^layers_(\d+)\.", r"layers.\1.", name): tensor for name, tensor in tensors.items()}
    if not any(name.startswith("layers.0.downsample.") for name in out):
        pattern = re.compile(r"^layers\.(\d+)\.downsample\.")
        out = {
            pattern.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", name): tensor
            for name, tensor in out.items()
        }
    return out


def _from_swin_hf(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = name
        for thirds in _MERGED:
            if f".{thirds[0]}." in name:
                parts = [tensors[name.replace(thirds[0], third)] for third in thirds]
                own, tensor = name.replace(thirds[0], "attn.qkv"), torch.cat(parts)  # (3 C, C) or (3 C,)
        if any(f".{third}." in own for thirds in _MERGED for third in thirds):
            continue  # a key or value, merged with its query
        for pattern, replacement in _HF_NAMES:
            own = re.sub(pattern, replacement, own)
        out[own] = tensor
    return out


def _from_vit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"^stages_(\d+)\.", r"stages.\1.", name): tensor for name, tensor in tensors.items()}


def _from_vit_authors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`op_list` to names; stage 0 of a large member is its stem."""
    is_large = _VIT_AUTHORS_LARGE in tensors
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.match(r"^(?:input_stem|stages\.(\d+))\.op_list\.(\d+)\.(.*)$", name)
        if match is None:
            out[name] = tensor
            continue
        block, rest = int(match[2]), match[3]
        stage = -1 if match[1] is None else int(match[1]) - is_large
        if stage >= 0:
            out[f"stages.{stage}.blocks.{block}.{rest}"] = tensor
        else:
            out[f"stem.res{block - 1}.{rest}" if block else f"stem.in_conv.{rest}"] = tensor
    return out


_LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    _SWIN_HF: _from_swin_hf,
    _SWIN: _from_swin,
    _VIT_AUTHORS: _from_vit_authors,
    _VIT_AUTHORS_LARGE: _from_vit_authors,
    _VIT: _from_vit,
}


def _fit(name: str, tensor: Tensor, wanted: Tensor | None) -> Tensor:
    """Resize position tables to another window or another image; all else stays as it is."""
    if name == _POSITIONS and tensor.ndim == 3:  # published in rows
        side = round(tensor.shape[1] ** 0.5)
        if side * side == tensor.shape[1]:
            tensor = tensor.reshape(1, side, side, -1).permute(0, 3, 1, 2).contiguous()  # (1, C, h, w)
    if wanted is None or tensor.shape == wanted.shape or tensor.ndim != wanted.ndim:
        return tensor
    if name == _POSITIONS and tensor.shape[1] == wanted.shape[1]:
        return _resize(tensor, (wanted.shape[2], wanted.shape[3]))
    if name.endswith(f".{_TABLE}") and tensor.shape[1] == wanted.shape[1]:
        old, new = round(tensor.shape[0] ** 0.5), round(wanted.shape[0] ** 0.5)
        if old * old == tensor.shape[0] and new * new == wanted.shape[0]:
            grid = tensor.t().reshape(1, -1, old, old)  # (1, heads, 2 w - 1, 2 w - 1)
            return _resize(grid, (new, new)).flatten(2)[0].t().contiguous()  # ((2 w' - 1)^2, heads)
    return tensor


def _resize(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(grid.float(), size=size, mode="bicubic").to(grid.dtype)
