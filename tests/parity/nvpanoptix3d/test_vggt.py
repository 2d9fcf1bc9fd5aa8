"""VGGT against transformers where that has the part, and against the published formulas in float64 elsewhere.

The formulas are written here from the papers and the public names of weights; nothing of ours is called for
them.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from formula_weights import formula_weights
from nvpanoptix3d_tiny import TINY
from torch import Tensor
from torch.nn import functional as F

from skillbank.specs._nvpanoptix3d_model import Backbone
from skillbank_models.nvpanoptix3d.vggt.build import build_vggt
from skillbank_models.nvpanoptix3d.vggt.model import Vggt
from skillbank_models.nvpanoptix3d.vggt.patch_embedding import PatchEmbedding

SINGLE = 1e-5  # of the largest value: float32 sums in another order
DOUBLE = 1e-10  # likewise in float64
DIM, HEADS, PATCH, TABLE = 32, 2, 14, 8

Weights = dict[str, Tensor]


def tiny(**changes: Any) -> Vggt:
    """Float64, and away from unit norms and small scales, which hide what is not connected."""
    block = Backbone.model_validate({"vggt": {**TINY["model"]["backbone"]["vggt"], **changes}})
    net = build_vggt(block, frozen=True, use_checkpoint=False).double().eval()
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    net.load_state_dict({name: tensor.double() for name, tensor in formula_weights(shapes).items()})
    return net


def part(net: torch.nn.Module, root: str) -> Weights:
    return {name.removeprefix(root): item for name, item in net.state_dict().items() if name.startswith(root)}


def worst(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert expected.abs().max() > 1e-3
    return float((found - expected).abs().max() / expected.abs().max())


def norm(x: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def line(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def turned(row: Tensor, place: tuple[int, int]) -> Tensor:
    """One head of one token: each half of it turned by one coordinate, channel i with channel i + quarter."""
    out = row.clone()
    quarter = len(row) // 4
    for half, coordinate in enumerate(place):
        for i in range(quarter):
            angle = coordinate * 100.0 ** (-2 * i / (2 * quarter))
            a, b = 2 * half * quarter + i, 2 * half * quarter + quarter + i
            out[a] = row[a] * math.cos(angle) - row[b] * math.sin(angle)
            out[b] = row[b] * math.cos(angle) + row[a] * math.sin(angle)
    return out


def attended(x: Tensor, weights: Weights, heads: int, places: list[tuple[int, int]] | None) -> Tensor:
    """Attention of one image, (T, C); places with norms of queries and keys, or neither."""
    query, key, value = line(x, weights, "attn.qkv").chunk(3, dim=-1)
    size = x.shape[1] // heads
    mixed = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        q, k = query[:, own], key[:, own]
        if places is not None:
            q, k = norm(q, weights, "attn.q_norm", 1e-5), norm(k, weights, "attn.k_norm", 1e-5)
            q = torch.stack([turned(row, place) for row, place in zip(q, places, strict=True)])
            k = torch.stack([turned(row, place) for row, place in zip(k, places, strict=True)])
        scores = (q @ k.T / math.sqrt(size)).exp()
        mixed.append(scores / scores.sum(1, keepdim=True) @ value[:, own])
    return line(torch.cat(mixed, dim=1), weights, "attn.proj")


def block(
    x: Tensor, weights: Weights, heads: int, places: list[tuple[int, int]] | None, eps: float
) -> Tensor:
    x = x + weights["ls1.gamma"] * attended(norm(x, weights, "norm1", eps), weights, heads, places)
    hidden = gelu(line(norm(x, weights, "norm2", eps), weights, "mlp.fc1"))
    return x + weights["ls2.gamma"] * line(hidden, weights, "mlp.fc2")


@pytest.mark.parametrize("size", [(112, 112), (84, 112), (126, 70), (14, 210), (280, 140)])
def test_patch_embedding_is_dinov2_with_registers(size: tuple[int, int]) -> None:
    import transformers

    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=DIM, num_hidden_layers=3, num_attention_heads=HEADS, mlp_ratio=4, patch_size=PATCH,
        image_size=PATCH * TABLE, num_register_tokens=3,
    )  # fmt: skip
    other = transformers.Dinov2WithRegistersModel(config).eval()
    net = PatchEmbedding(
        dim=DIM, depth=3, num_heads=HEADS, mlp_ratio=4.0, patch_size=PATCH, position_grid=TABLE,
        num_registers=3, use_checkpoint=False,
    ).eval()  # fmt: skip
    net.load_state_dict(formula_weights({name: item.shape for name, item in net.state_dict().items()}))
    other.load_state_dict(in_their_names(net.state_dict(), other.state_dict()))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = other(images).last_hidden_state[:, 4:]
        assert worst(net(images), expected) < SINGLE


def in_their_names(weights: Weights, theirs: Weights) -> Weights:
    """What transformers calls the same; versions before 5 put query, key, value and output deeper."""
    is_old = any(name.endswith("attention.attention.query.weight") for name in theirs)
    thirds = ["attention.attention." + kind for kind in ("query", "key", "value")] if is_old else [
        f"attention.{letter}_proj" for letter in "qkv"
    ]  # fmt: skip
    out: Weights = {}
    for name, item in weights.items():
        for old, new in (
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense" if is_old else "attention.o_proj"),
            ("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1"),
            ("cls_token", "embeddings.cls_token"), ("register_tokens", "embeddings.register_tokens"),
            ("mask_token", "embeddings.mask_token"), ("pos_embed", "embeddings.position_embeddings"),
        ):  # fmt: skip
            name = name.replace(old, new)
        if name.startswith("norm."):
            name = f"layernorm.{name.removeprefix('norm.')}"
        if "attn.qkv" in name:
            out.update(
                {
                    name.replace("attn.qkv", third): own
                    for third, own in zip(thirds, item.chunk(3), strict=True)
                }
            )
        else:
            out[name] = item
    return out


def test_pairs_of_blocks_camera_and_registers() -> None:
    net = tiny(num_register_tokens=2)
    weights = part(net, "aggregator.")
    images = torch.rand(2, 3, 42, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        found = net(images)
        patches = net.aggregator.patch_embed((images - mean) / std)
    places = [(0, 0)] * 3 + [(row, column) for row in range(1, 4) for column in range(1, 5)]
    for image in range(2):
        special = [weights["camera_token"][0, 0], weights["register_token"][0, 0]]
        x = torch.cat([*special, patches[image]])
        for pair in range(4):
            frame = block(x, part(net, f"aggregator.frame_blocks.{pair}."), HEADS, places, 1e-5)
            x = block(frame, part(net, f"aggregator.global_blocks.{pair}."), HEADS, places, 1e-5)
            both = torch.cat([frame, x], dim=1)
            assert worst(found.taps[pair][image], both[3:]) < DOUBLE
        assert worst(found.camera_token[image], both[0]) < DOUBLE


def test_camera_head() -> None:
    net = tiny(camera_depth=2, camera_rounds=3)
    weights = part(net, "camera_head.")
    tokens = torch.randn(5, 2 * DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = net.camera_head(tokens)
    fields = 0
    for image in range(5):
        token = norm(tokens[image : image + 1], weights, "token_norm", 1e-5)
        told, pose = weights["empty_pose_tokens"][0], torch.zeros(1, 9, dtype=torch.float64)
        for _ in range(3):
            told = line(told, weights, "embed_pose")
            shift, scale, gate = line(told * torch.sigmoid(told), weights, "poseLN_modulation.1").chunk(3, 1)
            centred = token - token.mean()
            plain = centred / (centred.square().mean() + 1e-6).sqrt()
            x = gate * (plain * (1 + scale) + shift) + token
            for depth in range(2):
                x = block(x, part(net, f"camera_head.trunk.{depth}."), HEADS, None, 1e-5)
            hidden = gelu(line(norm(x, weights, "trunk_norm", 1e-5), weights, "pose_branch.fc1"))
            pose = pose + line(hidden, weights, "pose_branch.fc2")
            told = pose
        expected = torch.cat([pose[:, :7], pose[:, 7:].clamp(min=0)], dim=1)[0]
        assert worst(found[image], expected) < DOUBLE
        fields += int((pose[:, 7:] < 0).sum())
    assert fields > 0, "no field of view was rectified"


def waves(channels: int, height: int, width: int, aspect: float) -> Tensor:
    """(C, h, w), number by number."""
    out = torch.zeros(channels, height, width, dtype=torch.float64)
    diagonal, quarter = math.sqrt(aspect**2 + 1), channels // 4
    for axis, (count, span) in enumerate([(width, aspect / diagonal), (height, 1 / diagonal)]):
        for place in range(count):
            at = span * (count - 1) / count * (2 * place / (count - 1) - 1 if count > 1 else -1)
            for i in range(quarter):
                angle = at * 100.0 ** (-i / quarter)
                for kind, value in enumerate((math.sin(angle), math.cos(angle))):
                    channel = axis * 2 * quarter + kind * quarter + i
                    if axis == 0:
                        out[channel, :, place] = value
                    else:
                        out[channel, place, :] = value
    return 0.1 * out


def enlarged(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with corners on corners, as two products; (B, C, h, w)."""

    def matrix(old: int, new: int) -> Tensor:
        out = torch.zeros(new, old, dtype=torch.float64)
        for row in range(new):
            at = row * (old - 1) / (new - 1) if new > 1 else 0.0
            first = min(int(at), max(old - 2, 0))
            out[row, first] += 1 - (at - first)
            out[row, min(first + 1, old - 1)] += at - first
        return out

    return matrix(x.shape[2], height) @ x @ matrix(x.shape[3], width).T


@pytest.mark.parametrize("size", [(84, 112), (42, 28)])
def test_depth_head(size: tuple[int, int]) -> None:
    net = tiny()
    with torch.no_grad():  # so that the exponential stays in range
        net.depth_head.scratch.output_conv2[2].weight.mul_(0.01)
    weights = part(net, "depth_head.")
    height, width = size[0] // PATCH, size[1] // PATCH
    source = torch.Generator().manual_seed(3)
    taps = [torch.randn(2, height * width, 2 * DIM, dtype=torch.float64, generator=source) for _ in range(4)]
    with torch.no_grad():
        depth, fused = net.depth_head(taps, (height, width), size)

    def conv(x: Tensor, name: str, **options: Any) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), **options)

    def unit(x: Tensor, name: str) -> Tensor:  # rectified in place: the skip is rectified, too
        x = x.clamp(min=0)
        return conv(conv(x, f"{name}.conv1", padding=1).clamp(min=0), f"{name}.conv2", padding=1) + x

    aspect = size[1] / size[0]
    maps = []
    for level, tap in enumerate(taps):
        x = norm(tap, weights, "norm", 1e-5).mT.reshape(2, 2 * DIM, height, width)
        x = conv(x, f"projects.{level}")
        x = x + waves(x.shape[1], height, width, aspect)
        name = f"resize_layers.{level}"
        if level < 2:
            side = (4, 2)[level]
            x = F.conv_transpose2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=side)
        elif level == 3:
            x = conv(x, name, stride=2, padding=1)
        maps.append(conv(x, f"scratch.layer{level + 1}_rn", padding=1))
    x = torch.zeros_like(maps[3])
    for level in (3, 2, 1, 0):
        name = f"scratch.refinenet{level + 1}"
        x = maps[3] if level == 3 else x + unit(maps[level], f"{name}.resConfUnit1")
        x = unit(x, f"{name}.resConfUnit2")
        wanted = maps[level - 1].shape[2:] if level else (2 * x.shape[2], 2 * x.shape[3])
        x = conv(enlarged(x, wanted[0], wanted[1]), f"{name}.out_conv")
        assert worst(fused[level], x) < DOUBLE
    x = enlarged(conv(x, "scratch.output_conv1", padding=1), *size)
    x = x + waves(x.shape[1], *size, aspect)
    x = conv(conv(x, "scratch.output_conv2.0", padding=1).clamp(min=0), "scratch.output_conv2.2")
    assert [tuple(item.shape[2:]) for item in fused] == [(n * height, n * width) for n in (8, 4, 2, 1)]
    assert worst(depth, x[:, 0].exp()) < DOUBLE


def test_a_swapped_weight_is_seen() -> None:
    net = tiny()
    images = torch.rand(1, 3, 42, 56, dtype=torch.float64)
    with torch.no_grad():
        before = net(images).taps[0]
        norms = net.aggregator.frame_blocks[0].attn
        norms.q_norm, norms.k_norm = norms.k_norm, norms.q_norm
        norms.q_norm.weight.mul_(1.001)
        after = net(images).taps[0]
    assert worst(after, before) > 1e4 * DOUBLE


@pytest.mark.parametrize(
    ("root", "keys", "millions"),
    [("aggregator", 1210, 909.1), ("camera_head", 69, 216.2), ("depth_head", 62, 32.65)],
)
def test_full_size_has_the_public_keys(root: str, keys: int, millions: float) -> None:
    with torch.device("meta"):
        net = build_vggt(Backbone(), frozen=False, use_checkpoint=False)
    assert len(net.state_dict()) == 1341
    own = part(net, f"{root}.")
    assert len(own) == keys
    assert sum(item.numel() for item in own.values()) / 1e6 == pytest.approx(millions, abs=0.06)
    for name, shape in PUBLIC.items():
        if name.startswith(f"{root}."):
            assert tuple(net.state_dict()[name].shape) == shape, name


PUBLIC = {
    "aggregator.camera_token": (1, 2, 1, 1024),
    "aggregator.register_token": (1, 2, 4, 1024),
    "aggregator.patch_embed.cls_token": (1, 1, 1024),
    "aggregator.patch_embed.pos_embed": (1, 1370, 1024),
    "aggregator.patch_embed.register_tokens": (1, 4, 1024),
    "aggregator.patch_embed.mask_token": (1, 1024),
    "aggregator.patch_embed.patch_embed.proj.weight": (1024, 3, 14, 14),
    "aggregator.patch_embed.blocks.23.attn.qkv.weight": (3072, 1024),
    "aggregator.patch_embed.blocks.23.mlp.fc1.weight": (4096, 1024),
    "aggregator.patch_embed.blocks.23.mlp.fc2.weight": (1024, 4096),
    "aggregator.patch_embed.blocks.0.ls1.gamma": (1024,),
    "aggregator.patch_embed.norm.bias": (1024,),
    "aggregator.frame_blocks.23.attn.q_norm.weight": (64,),
    "aggregator.global_blocks.23.attn.k_norm.bias": (64,),
    "camera_head.token_norm.weight": (2048,),
    "camera_head.trunk_norm.bias": (2048,),
    "camera_head.trunk.3.attn.qkv.weight": (6144, 2048),
    "camera_head.trunk.3.mlp.fc1.weight": (8192, 2048),
    "camera_head.trunk.0.ls2.gamma": (2048,),
    "camera_head.empty_pose_tokens": (1, 1, 9),
    "camera_head.embed_pose.weight": (2048, 9),
    "camera_head.poseLN_modulation.1.weight": (6144, 2048),
    "camera_head.pose_branch.fc1.weight": (1024, 2048),
    "camera_head.pose_branch.fc2.weight": (9, 1024),
    "depth_head.norm.weight": (2048,),
    "depth_head.projects.0.weight": (256, 2048, 1, 1),
    "depth_head.projects.3.weight": (1024, 2048, 1, 1),
    "depth_head.resize_layers.0.weight": (256, 256, 4, 4),
    "depth_head.resize_layers.1.weight": (512, 512, 2, 2),
    "depth_head.resize_layers.3.weight": (1024, 1024, 3, 3),
    "depth_head.scratch.layer4_rn.weight": (256, 1024, 3, 3),
    "depth_head.scratch.refinenet4.out_conv.weight": (256, 256, 1, 1),
    "depth_head.scratch.refinenet4.resConfUnit2.conv1.weight": (256, 256, 3, 3),
    "depth_head.scratch.refinenet1.resConfUnit1.conv2.bias": (256,),
    "depth_head.scratch.output_conv1.weight": (128, 256, 3, 3),
    "depth_head.scratch.output_conv2.0.weight": (32, 128, 3, 3),
    "depth_head.scratch.output_conv2.2.weight": (2, 32, 1, 1),
}
