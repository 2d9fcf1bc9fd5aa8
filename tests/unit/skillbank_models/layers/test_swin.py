"""Swin: sizes, settings that have to matter, recomputation and what evaluation keeps."""

import copy

import pytest
import torch
from torch import nn

from skillbank.specs._segmentation import SWIN_SIZES
from skillbank_models.layers.swin import SwinTransformer
from skillbank_models.layers.window_attention import WindowAttention

SMALL = {
    "embed_dim": 16,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 2, 4],
    "patch_size": 4,
    "window_size": 4,
    "mlp_ratio": 2.0,
    "qkv_bias": True,
    "qk_scale": None,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "ape": False,
    "patch_norm": True,
    "out_indices": [0, 1, 2, 3],
    "pretrain_img_size": 64,
    "use_checkpoint": False,
}


def build(**changes) -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(**{**SMALL, **changes})


def disturb(net: nn.Module) -> None:
    """Away from small weights, zero biases and unit norms, which hide what is not connected."""
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=source))


def image(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def backward(net: SwinTransformer, images: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    torch.stack([feature.square().sum() for feature in net(images).values()]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize(
    ("size", "window", "millions"),
    [("tiny", 7, 27.5), ("small", 7, 48.8), ("base", 12, 86.9), ("large", 12, 195.2), ("huge", 7, None)],
)
def test_published_sizes(size, window, millions):
    dims = SWIN_SIZES[size]
    given = {"embed_dim": dims.embed_dim, "depths": dims.depths, "num_heads": dims.num_heads}
    with torch.device("meta"):
        net = SwinTransformer(**{**SMALL, **given, "mlp_ratio": 4.0, "window_size": window})
    found = sum(parameter.numel() for parameter in net.parameters())
    widths = [dims.embed_dim * 2**stage for stage in range(4)]
    blocks = sum(
        depth * (12 * width**2 + 13 * width + (2 * window - 1) ** 2 * heads)
        for depth, width, heads in zip(dims.depths, widths, dims.num_heads, strict=True)
    )
    steps = sum(8 * width**2 + 8 * width for width in widths[:3])
    assert found == blocks + steps + (48 + 3) * widths[0] + 2 * sum(widths)
    if millions:  # as published; "huge" is not
        assert found / 1e6 == pytest.approx(millions, abs=0.06)
    assert net.channels == {f"res{n + 2}": dims.embed_dim * 2**n for n in range(4)}


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (31, 130), (1, 1)])
def test_maps_of_any_size(height, width):
    net = build()
    maps = net(image(height, width))
    assert net.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    expected = (-(-height // 4), -(-width // 4))
    for name, feature in maps.items():
        assert feature.shape == (2, net.channels[name], *expected)
        assert feature.is_contiguous(memory_format=torch.channels_last)
        expected = tuple((side + 1) // 2 for side in expected)
    assert [*maps] == ["res2", "res3", "res4", "res5"]


def test_padding_is_zero_image():
    net = build().eval()
    short = image(62, 93, batch=1)
    padded = nn.functional.pad(short, (0, 3, 0, 2))
    with torch.no_grad():
        for mine, other in zip(net(short).values(), net(padded).values(), strict=True):
            assert torch.equal(mine, other)


def test_a_sample_does_not_depend_on_its_batch():
    net = build().eval()
    disturb(net)
    images = image(70, 90, batch=3)
    with torch.no_grad():
        together, alone = net(images), net(images[1:2])
    for name, feature in alone.items():
        # other block sizes of the products change the rounding
        torch.testing.assert_close(together[name][1:2], feature, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_norm": False},
        {"qk_scale": 0.01},
        {"qkv_bias": False},
        {"window_size": 8},
        {"mlp_ratio": 3.0},
        {"ape": True},
        {"patch_size": 2},
    ],
)
def test_settings_change_the_result(changes):
    plain, other = build(), build(**changes)
    disturb(plain)
    disturb(other)
    theirs = other.state_dict()
    shared = {
        name: tensor
        for name, tensor in plain.state_dict().items()
        if name in theirs and theirs[name].shape == tensor.shape
    }
    other.load_state_dict(shared, strict=False)
    with torch.no_grad():
        first, second = plain.eval()(image())["res5"], other.eval()(image())["res5"]
    assert first.shape != second.shape or (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("setting", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_acts_in_training_only(setting):
    net = build(**{setting: 0.5})
    disturb(net)
    images = image()
    with torch.no_grad():
        assert not torch.equal(net.train()(images)["res5"], net(images)["res5"])
        evaluated = net.eval()(images)["res5"]
    plain = build()
    disturb(plain)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images)["res5"], evaluated)


def test_drop_path_rises_with_depth():
    net = build(drop_path_rate=0.7)
    rates = [block.drop_path.rate for stage in net.layers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * index for index in range(8)])


def test_position_table_follows_the_image():
    net = build(ape=True).eval()
    disturb(net)
    assert net.absolute_pos_embed.shape == (1, 16, 16, 16)
    moved = copy.deepcopy(net)
    with torch.no_grad():
        moved.absolute_pos_embed.add_(torch.randn(1, 16, 16, 16))
        for size in [(64, 64), (40, 100)]:
            assert (net(image(*size))["res2"] - moved(image(*size))["res2"]).abs().max() > 1e-2


def test_some_maps_only():
    net = build(out_indices=[3, 1])
    assert [*net(image())] == ["res3", "res5"] == [*net.channels] == [*net.strides]
    assert {name for name, _ in net.named_children() if name.startswith("norm")} == {"norm1", "norm3"}


def saved_bytes(net: SwinTransformer, images: torch.Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once, without the weights."""
    known = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    held: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = net(images)
    assert maps
    return sum(held.values())


def test_recomputation_saves_memory_and_nothing_else():
    images = image(128, 96)
    plain = build(drop_path_rate=0.4, drop_rate=0.1)
    disturb(plain)
    again = build(drop_path_rate=0.4, drop_rate=0.1, use_checkpoint=True)
    again.load_state_dict(plain.state_dict())
    gradients = []
    for net in (plain, again):
        torch.manual_seed(3)
        gradients.append(backward(net.train(), images))
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert saved_bytes(again, images) < 0.3 * saved_bytes(plain, images)


def test_evaluation_notices_new_weights():
    net = build().eval()
    with torch.no_grad():
        before = net(image())["res2"]
        for module in net.modules():
            if isinstance(module, WindowAttention):
                module.relative_position_bias_table.add_(torch.randn(49, module.num_heads))
        after = net(image())["res2"]
        assert (before - after).abs().max() > 1e-4
        fresh = build()
        fresh.load_state_dict(net.state_dict())
        assert torch.equal(fresh.eval()(image())["res2"], after)


def test_evaluated_and_trained_attention_agree():
    net = build()
    disturb(net)
    with torch.no_grad():
        fast = net.eval()(image(70, 90))
    with torch.inference_mode():
        inferred = net(image(70, 90))
    explicit = net.train()(image(70, 90))
    for name, feature in fast.items():
        assert torch.equal(feature, inferred[name])
        # softmax over blocks instead of rows
        torch.testing.assert_close(feature, explicit[name], rtol=1e-4, atol=1e-4)
    backward(net.eval(), image())  # what inference mode kept does not stand in the way


def test_frozen_tables_still_pass_gradients_on():
    net = build().train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("table" not in name)
    net(image())["res5"].square().sum().backward()
    assert net.patch_embed.proj.weight.grad.abs().max() > 0


def test_bfloat16_autocast_is_close():
    net = build()
    disturb(net)
    net.eval()
    with torch.no_grad():
        exact = net(image())["res5"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = net(image())["res5"]
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_published_names():
    names = {*build(ape=True).state_dict()}
    block = "layers.1.blocks.0."
    assert {
        "absolute_pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.norm.bias",
        block + "norm1.weight",
        block + "attn.qkv.bias",
        block + "attn.proj.weight",
        block + "attn.relative_position_bias_table",
        block + "mlp.fc2.bias",
        "layers.2.downsample.reduction.weight",
        "layers.2.downsample.norm.weight",
        "norm3.bias",
    } < names
    assert not any("downsample" in name for name in names if name.startswith("layers.3."))
    assert not any(name.endswith(("relative_position_index", "apart")) for name in names)


def test_start_values():
    net = build(embed_dim=64)
    assert net.layers[3].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not net.layers[0].blocks[0].attn.qkv.bias.any()
    table = net.layers[2].blocks[0].attn.relative_position_bias_table
    assert 0 < table.abs().max() < 0.2
