"""What queries may look at, what is predicted for which layer, and recomputation."""

import pytest
import torch

from skillbank_models.layers.mask_decoder import MaskedAttentionDecoder
from skillbank_models.layers.query_layers import CrossAttentionLayer

WHOLE = {
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


def build(**changes) -> MaskedAttentionDecoder:
    torch.manual_seed(0)
    return MaskedAttentionDecoder(**{**WHOLE, **changes})


def inputs(channels: int = 24, batch: int = 2) -> tuple[list[torch.Tensor], torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    levels = [torch.randn(batch, channels, *size, generator=source) for size in SIZES]
    return levels, torch.randn(batch, 16, 16, 24, generator=source)


def with_masks_of_one_channel(decoder: MaskedAttentionDecoder) -> MaskedAttentionDecoder:
    """Make every mask logit equal to channel 0 of the mask features."""
    last = decoder.mask_embed.layers[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[0] = 1
    return decoder


@pytest.mark.parametrize("pre_norm", [False, True])
def test_one_prediction_more_than_layers(pre_norm):
    decoder = build(pre_norm=pre_norm)
    levels, features = inputs()
    found = decoder(levels, features, all_layers=True)
    assert found.class_logits.shape == (5, 2, 6, 6)
    assert found.mask_embeds.shape == (5, 2, 6, 16)
    assert found.mask_features is features
    last = decoder(levels, features, all_layers=False)
    assert last.class_logits.shape == (1, 2, 6, 6)
    torch.testing.assert_close(last.class_logits[0], found.class_logits[-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(last.mask_logits(), found.mask_logits(), rtol=0, atol=1e-5)
    expected = torch.einsum("bqc,bchw->bqhw", found.mask_embeds[1], features)
    torch.testing.assert_close(found.mask_logits(1), expected)


@pytest.mark.parametrize(("layers", "levels"), [(0, 3), (1, 3), (2, 3), (5, 2), (4, 1)])
def test_any_number_of_layers_and_levels(layers, levels):
    decoder = build(num_layers=layers, num_levels=levels)
    maps, features = inputs()
    assert len(decoder(maps[:levels], features, all_layers=True).class_logits) == layers + 1


def test_queries_see_only_their_own_mask():
    decoder = with_masks_of_one_channel(build(num_layers=1))
    levels, features = inputs()
    features[:, 0, :, :12], features[:, 0, :, 12:] = 1, -3  # left third of three columns at the coarse level
    before = decoder(levels, features, all_layers=True).class_logits
    levels[0][..., 2] += 1  # far right, blocked
    torch.testing.assert_close(decoder(levels, features, all_layers=True).class_logits, before)
    levels[0][..., 0] += 1
    assert (decoder(levels, features, all_layers=True).class_logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_a_mask_that_is_nowhere_looks_everywhere(training):
    decoder = with_masks_of_one_channel(build()).train(training)
    levels, features = inputs()
    features[:, 0] = 2
    everywhere = decoder(levels, features, all_layers=True).class_logits
    features[:, 0] = -2
    nowhere = decoder(levels, features, all_layers=True).class_logits
    assert nowhere.isfinite().all()
    torch.testing.assert_close(nowhere, everywhere)
    features[0, 0] = 2  # one image open, the other blocked: rows count one by one
    torch.testing.assert_close(decoder(levels, features, all_layers=True).class_logits, everywhere)


def test_a_logit_of_zero_is_seen():
    decoder = with_masks_of_one_channel(build(num_layers=1))
    levels, features = inputs()
    features[:, 0] = 0
    seen = decoder(levels, features, all_layers=True).class_logits
    features[:, 0] = 1
    torch.testing.assert_close(decoder(levels, features, all_layers=True).class_logits, seen)


def test_attention_masks_teach_nothing():
    decoder = build()
    levels, features = inputs()
    features.requires_grad_()
    decoder(levels, features, all_layers=True).class_logits.sum().backward()
    assert features.grad is None


def test_equal_widths_need_no_projection():
    assert not any("input_proj" in name for name in build(in_channels=32).state_dict())
    names = [name for name in build().state_dict() if "input_proj" in name]
    assert names == [f"input_proj.{i}.{part}" for i in range(3) for part in ("weight", "bias")]


def test_dropout_acts_while_training_only():
    decoder = build(dropout=0.4)
    assert not torch.equal(*(decoder(*inputs(), all_layers=False).class_logits for _ in range(2)))
    decoder.eval()
    first, second = (decoder(*inputs(), all_layers=False).class_logits for _ in range(2))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_recomputation_gives_the_same_gradients(pre_norm):
    gradients = []
    for recompute in (False, True):
        decoder = build(use_checkpoint=recompute, pre_norm=pre_norm, num_layers=5)
        calls: list[int] = []
        for layer in decoder.modules():
            if isinstance(layer, CrossAttentionLayer):
                layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        levels, features = inputs()
        features.requires_grad_()
        found = decoder(levels, features, all_layers=True)
        (found.class_logits.square().mean() + found.mask_logits(-2).square().mean()).backward()
        assert len(calls) == (10 if recompute else 5)
        named = {name: parameter.grad for name, parameter in decoder.named_parameters()}
        gradients.append({**named, "features": features.grad})
    for name, expected in gradients[0].items():
        assert expected is not None, name
        torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-6, msg=name)
