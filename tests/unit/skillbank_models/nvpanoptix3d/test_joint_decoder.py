"""The joint decoder against a plain one built from torch's own attention, with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skillbank_models.layers.positions import sine_positions
from skillbank_models.nvpanoptix3d.joint_decoder import JointDepthDecoder

SETTINGS = {
    "in_channels": 24,
    "hidden_dim": 32,
    "mask_dim": 16,
    "num_classes": 5,
    "num_queries": 6,
    "nheads": 4,
    "dim_feedforward": 48,
    "num_layers": 4,
    "dropout": 0.0,
    "pre_norm": False,
    "num_levels": 3,
    "use_checkpoint": False,
}
SIZES = [(2, 3), (4, 6), (8, 12)]


def build(**changes):
    torch.manual_seed(0)
    decoder = JointDepthDecoder(**{**SETTINGS, **changes})
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return decoder


def inputs(dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, 24, *size, generator=draw).to(dtype) for size in SIZES]
    depths = [torch.randn(2, 32, *size, generator=draw).to(dtype) for size in SIZES]
    return levels, depths, torch.randn(2, 16, 16, 24, generator=draw).to(dtype)


def attend(layer, x, places, key, value, blocked):
    """Attention of torch, norm behind the sum."""
    packed = layer.multihead_attn if hasattr(layer, "multihead_attn") else layer.self_attn
    plain = nn.MultiheadAttention(32, packed.nheads, batch_first=True, dtype=torch.float64)
    plain.load_state_dict(
        {
            "in_proj_weight": packed.in_proj_weight,
            "in_proj_bias": packed.in_proj_bias,
            "out_proj.weight": packed.out_proj.weight,
            "out_proj.bias": packed.out_proj.bias,
        }
    )
    key = x + places if key is None else key
    value = x if value is None else value
    change = plain(x + places, key, value, attn_mask=blocked, need_weights=False)[0]
    return layer.norm(x + change)


def plain_decoder(decoder, levels, depths, mask_features):
    """Section 4.7 of the description, step by step."""
    places = decoder.query_embed.weight
    x = decoder.query_feat.weight.expand(2, -1, -1)
    classes, masks, states = [], [], []

    def predict():
        state = decoder.decoder_norm(x)
        embed = state
        for number, layer in enumerate(decoder.mask_embed.layers):
            embed = layer(embed) if number == 2 else F.relu(layer(embed))
        classes.append(decoder.class_embed(state))
        masks.append(torch.einsum("bqc,bchw->bqhw", embed, mask_features))
        states.append(state)

    predict()
    for i in range(4):
        level = i % 3
        small = F.interpolate(masks[-1].detach(), SIZES[level], mode="bilinear", align_corners=False)
        blocked = (small.sigmoid() < 0.5).flatten(2)
        blocked[blocked.all(-1)] = False
        blocked = blocked.repeat_interleave(4, 0)  # images x heads
        at = sine_positions(*SIZES[level], 32, dtype=torch.float64, device=x.device).flatten(0, 1)
        maps = (
            (
                decoder.input_proj[level](levels[level]),
                decoder.level_embed,
                "transformer_cross_attention_layers",
            ),
            (depths[level], decoder.depth_level_embed, "depth_cross_attention_layers"),
        )
        for one, embed, name in maps:
            rows = one.flatten(2).transpose(1, 2) + embed.weight[level]
            x = attend(getattr(decoder, name)[i], x, places, rows + at, rows, blocked)
        x = attend(decoder.transformer_self_attention_layers[i], x, places, None, None, None)
        ffn = decoder.transformer_ffn_layers[i]
        x = ffn.norm(x + ffn.linear2(F.relu(ffn.linear1(x))))
        predict()
    return torch.stack(classes), masks, states[-1]


def test_it_equals_a_plain_decoder():
    decoder = build().double()
    levels, depths, features = inputs(torch.float64)
    found, queries = decoder(levels, depths, features, all_layers=True)
    classes, masks, state = plain_decoder(decoder, levels, depths, features)
    # 1e-6: angles of the position code are float32 on both sides; the rest is float64
    torch.testing.assert_close(found.class_logits, classes, rtol=0, atol=1e-6)
    for layer, wanted in enumerate(masks):
        torch.testing.assert_close(found.mask_logits(layer), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(queries, state, rtol=0, atol=1e-6)


def test_the_last_layer_alone_is_the_same():
    decoder, given = build(), inputs()
    every, queries = decoder(*given, all_layers=True)
    last, same = decoder(*given, all_layers=False)
    assert len(every.class_logits) == 5
    assert len(last.class_logits) == 1
    torch.testing.assert_close(last.class_logits[0], every.class_logits[-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(same, queries, rtol=0, atol=1e-6)
    torch.testing.assert_close(decoder.class_embed(queries), every.class_logits[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_recomputation_gives_the_same_gradients_to_every_parameter(pre_norm):
    gradients = []
    for recompute in (False, True):
        decoder = build(use_checkpoint=recompute, pre_norm=pre_norm)
        found, _ = decoder(*inputs(), all_layers=True)
        (found.class_logits.square().mean() + found.mask_logits().square().mean()).backward()
        gradients.append({name: parameter.grad for name, parameter in decoder.named_parameters()})
    for name, wanted in gradients[0].items():
        assert wanted is not None, name
        torch.testing.assert_close(gradients[1][name], wanted, rtol=0, atol=1e-6, msg=name)


def test_depth_is_masked_as_appearance_is():
    decoder = build(num_layers=1)
    with torch.no_grad():
        decoder.mask_embed.layers[2].weight.zero_()
        decoder.mask_embed.layers[2].bias.zero_()
        decoder.mask_embed.layers[2].bias[0] = 1
    levels, depths, features = inputs()
    features[:, 0, :, :12], features[:, 0, :, 12:] = 1, -3
    before = decoder(levels, depths, features, all_layers=False)[1]
    depths[0][..., 2] += 1  # far right, blocked
    torch.testing.assert_close(decoder(levels, depths, features, all_layers=False)[1], before)
    depths[0][..., 0] += 1
    assert (decoder(levels, depths, features, all_layers=False)[1] - before).abs().max() > 1e-3
