"""Tensor names of Hugging Face's Mask2Former, and the tensors that are cut up there.

Both spellings are read: the one on disk, and the one that transformers 5 has in memory. Written is the one on
disk, which every version of transformers reads.

Source: huggingface/transformers (Apache-2.0), versions 4 and 5, `Mask2FormerForUniversalSegmentation` and
`SwinBackbone`; the tests check the names tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["from_hf", "is_hf", "to_hf"]

_E = "model.pixel_level_module.encoder"
_P = "model.pixel_level_module.decoder"
_T = "model.transformer_module"
_HEAD = "sem_seg_head"
_PIXEL = f"{_HEAD}.pixel_decoder"
_LAYER = f"{_PIXEL}.transformer.encoder.layers.#"
_QUERY = f"{_HEAD}.predictor"
_BLOCK = "backbone.layers.#.blocks.#"
_HF_BLOCK = f"{_E}.encoder.layers.#.blocks.#"
_BIAS_TABLE = "relative_position_bias_table"
_HF_LAYER = f"{_P}.encoder.layers.#"
_SELF = f"{_QUERY}.transformer_self_attention_layers.#"
_CROSS = f"{_QUERY}.transformer_cross_attention_layers.#"
_HF_QUERY = f"{_T}.decoder.layers.#"

# own name, name on disk; # is a number, * the rest of a name
_NAMES = (
    ("backbone.patch_embed.proj.*", f"{_E}.embeddings.patch_embeddings.projection.*"),
    ("backbone.patch_embed.norm.*", f"{_E}.embeddings.norm.*"),
    ("backbone.absolute_pos_embed", f"{_E}.embeddings.position_embeddings"),
    (f"{_BLOCK}.norm1.*", f"{_HF_BLOCK}.layernorm_before.*"),
    (f"{_BLOCK}.norm2.*", f"{_HF_BLOCK}.layernorm_after.*"),
    (f"{_BLOCK}.attn.proj.*", f"{_HF_BLOCK}.attention.output.dense.*"),
    (f"{_BLOCK}.attn.{_BIAS_TABLE}", f"{_HF_BLOCK}.attention.self.{_BIAS_TABLE}"),
    (f"{_BLOCK}.mlp.fc1.*", f"{_HF_BLOCK}.intermediate.dense.*"),
    (f"{_BLOCK}.mlp.fc2.*", f"{_HF_BLOCK}.output.dense.*"),
    ("backbone.layers.#.downsample.*", f"{_E}.encoder.layers.#.downsample.*"),
    *((f"backbone.norm{stage}.*", f"{_E}.hidden_states_norms.stage{stage + 1}.*") for stage in range(4)),
    (f"{_PIXEL}.input_proj.*", f"{_P}.input_projections.*"),
    (f"{_PIXEL}.transformer.level_embed", f"{_P}.level_embed"),
    (f"{_LAYER}.self_attn.*", f"{_HF_LAYER}.self_attn.*"),
    (f"{_LAYER}.norm1.*", f"{_HF_LAYER}.self_attn_layer_norm.*"),
    (f"{_LAYER}.norm2.*", f"{_HF_LAYER}.final_layer_norm.*"),
    (f"{_LAYER}.linear1.*", f"{_HF_LAYER}.fc1.*"),
    (f"{_LAYER}.linear2.*", f"{_HF_LAYER}.fc2.*"),
    (f"{_PIXEL}.adapter_#.weight", f"{_P}.adapter_#.0.weight"),
    (f"{_PIXEL}.adapter_#.norm.*", f"{_P}.adapter_#.1.*"),
    (f"{_PIXEL}.layer_#.weight", f"{_P}.layer_#.0.weight"),
    (f"{_PIXEL}.layer_#.norm.*", f"{_P}.layer_#.1.*"),
    (f"{_PIXEL}.mask_features.*", f"{_P}.mask_projection.*"),
    (f"{_QUERY}.query_embed.weight", f"{_T}.queries_embedder.weight"),
    (f"{_QUERY}.query_feat.weight", f"{_T}.queries_features.weight"),
    (f"{_QUERY}.level_embed.weight", f"{_T}.level_embed.weight"),
    (f"{_QUERY}.input_proj.*", f"{_T}.input_projections.*"),
    (f"{_QUERY}.decoder_norm.*", f"{_T}.decoder.layernorm.*"),
    (f"{_QUERY}.mask_embed.layers.#.*", f"{_T}.decoder.mask_predictor.mask_embedder.#.0.*"),
    (f"{_SELF}.self_attn.out_proj.*", f"{_HF_QUERY}.self_attn.out_proj.*"),
    (f"{_SELF}.norm.*", f"{_HF_QUERY}.self_attn_layer_norm.*"),
    (f"{_CROSS}.multihead_attn.*", f"{_HF_QUERY}.cross_attn.*"),
    (f"{_CROSS}.norm.*", f"{_HF_QUERY}.cross_attn_layer_norm.*"),
    (f"{_QUERY}.transformer_ffn_layers.#.linear1.*", f"{_HF_QUERY}.fc1.*"),
    (f"{_QUERY}.transformer_ffn_layers.#.linear2.*", f"{_HF_QUERY}.fc2.*"),
    (f"{_QUERY}.transformer_ffn_layers.#.norm.*", f"{_HF_QUERY}.final_layer_norm.*"),
    (f"{_QUERY}.class_embed.*", "class_predictor.*"),
)  # fmt: skip

# own name of the whole, names of its thirds on disk: query, key, value
_THIRDS = (
    *(
        (
            f"{_BLOCK}.attn.qkv.{kind}",
            tuple(f"{_HF_BLOCK}.attention.self.{part}.{kind}" for part in ("query", "key", "value")),
        )
        for kind in ("weight", "bias")
    ),
    *(
        (
            f"{_SELF}.self_attn.in_proj_{kind}",
            tuple(f"{_HF_QUERY}.self_attn.{part}_proj.{kind}" for part in "qkv"),
        )
        for kind in ("weight", "bias")
    ),
)

# parts of names in memory, and on disk
_MEMORY = (
    (f"{_E}.swin.embeddings.", f"{_E}.embeddings."),
    (f"{_E}.swin.encoder.", f"{_E}.encoder."),
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.relative_position_bias.", ".attention.self."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)

# the norm of the classifier that the backbone was pretrained as; nothing there uses it
_UNUSED = (f"{_E}.swin.layernorm.", f"{_E}.layernorm.")
_POSITIONS = "backbone.absolute_pos_embed"


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    template: str

    def apply(self, name: str) -> str | None:
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        return _filled(self.template, found.groups())


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _rule(source: str, target: str) -> _Rule:
    return _Rule(_pattern(source), target)


def _filled(template: str, parts: Iterable[str]) -> str:
    left = iter(parts)
    return re.sub(r"[#*]", lambda _: next(left), template)


_TO_HF = tuple(_rule(own, disk) for own, disk in _NAMES)
_FROM_HF = tuple(_rule(disk, own) for own, disk in _NAMES)
_CUT = tuple((_pattern(own), parts) for own, parts in _THIRDS)
_JOIN = tuple((_rule(part, own), place) for own, parts in _THIRDS for place, part in enumerate(parts))


def is_hf(names: Iterable[str]) -> bool:
    """Whether these are Hugging Face's names."""
    return any("pixel_level_module." in name or "class_predictor." in name for name in names)


def from_hf(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Own names for Hugging Face's; a name that no rule knows is kept."""
    out: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        disk = _on_disk(name)
        if disk.startswith(_UNUSED):
            continue
        whole = _third_of(disk)
        if whole is not None:
            own, place = whole
            thirds.setdefault(own, {})[place] = (name, tensor)
        else:
            own = _renamed(_FROM_HF, disk) or name
            out[own] = _own_table(tensor) if own == _POSITIONS else tensor
    for own, parts in thirds.items():
        if len(parts) == 3:
            out[own] = torch.cat([parts[place][1] for place in range(3)])
        else:
            out.update(parts.values())
    return out


def to_hf(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Hugging Face's names on disk for own names.

    Returns:
        The tensors, and the own names that have no counterpart there.
    """
    out: dict[str, Tensor] = {}
    unknown: list[str] = []
    for own, tensor in tensors.items():
        names = _parts_of(own)
        if names:
            # copies, because files refuse tensors that share their memory
            out.update(zip(names, (part.clone() for part in tensor.chunk(3)), strict=True))
            continue
        name = _renamed(_TO_HF, own)
        if name is None:
            unknown.append(own)
        else:
            out[name] = _hf_table(tensor) if own == _POSITIONS else tensor
    return out, unknown


def _on_disk(name: str) -> str:
    # a bare Mask2FormerModel was saved without its head
    name = name if name.startswith(("model.", "class_predictor.", "criterion.")) else f"model.{name}"
    for memory, disk in _MEMORY:
        name = name.replace(memory, disk) if name.startswith(_E) else name
    return name


def _renamed(rules: Iterable[_Rule], name: str) -> str | None:
    return next((found for rule in rules if (found := rule.apply(name)) is not None), None)


def _third_of(name: str) -> tuple[str, int] | None:
    for rule, place in _JOIN:
        own = rule.apply(name)
        if own is not None:
            return own, place
    return None


def _parts_of(own: str) -> list[str]:
    for pattern, parts in _CUT:
        found = pattern.fullmatch(own)
        if found:
            return [_filled(part, found.groups()) for part in parts]
    return []


def _own_table(table: Tensor) -> Tensor:
    """(1, P, C) positions in rows to a map."""
    side = round(table.shape[1] ** 0.5)
    if table.dim() != 3 or side * side != table.shape[1]:
        return table
    return table.transpose(1, 2).reshape(1, -1, side, side)  # (1, C, h, w)


def _hf_table(table: Tensor) -> Tensor:
    """(1, C, h, w) to positions in rows."""
    return table.flatten(2).transpose(1, 2).contiguous()  # (1, P, C)
