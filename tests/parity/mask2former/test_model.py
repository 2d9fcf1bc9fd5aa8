"""Class and mask logits of all layers against transformers, with the same random weights.

Source of the reference: transformers 5 `Mask2FormerForUniversalSegmentation`, run as it is.
"""

import pytest
import torch
from mask2former_pairs import SMALL, model_spec, random_pair

# Logits are of size 1; float32 sums in another order differ by 1e-6. The issue allows 1e-4.
TOLERANCE = 1e-4

CONFIGURATIONS = {
    "widths differ, 11 queries": ({}, (96, 96)),
    "equal widths, wide image, stride 8": (
        {
            "backbone.swin.embed_dim": 16,
            "backbone.swin.depths": [2, 1, 1, 2],
            "backbone.swin.num_heads": [1, 2, 4, 8],
            "backbone.swin.window_size": 5,
            "sem_seg_head.convs_dim": 64,
            "sem_seg_head.mask_dim": 48,
            "sem_seg_head.num_classes": 3,
            "sem_seg_head.common_stride": 8,
            "sem_seg_head.transformer_enc_layers": 1,
            "mask_former.nheads": 8,
            "mask_former.num_object_queries": 5,
            "mask_former.dec_layers": 10,
        },
        (64, 160),
    ),
    "pre-norm, tall image": (
        {
            "sem_seg_head.convs_dim": 96,
            "mask_former.hidden_dim": 72,
            "mask_former.nheads": 3,
            "mask_former.pre_norm": True,
            "mask_former.dec_layers": 6,
        },
        (128, 64),
    ),
}


def difference(theirs, ours) -> float:
    """Largest difference of class and mask logits over all layers."""
    last = {
        "class_queries_logits": theirs.class_queries_logits,
        "masks_queries_logits": theirs.masks_queries_logits,
    }
    layers = [*theirs.auxiliary_logits, last]
    assert len(layers) == len(ours.class_logits) == len(ours.mask_embeds)
    found = []
    for i, layer in enumerate(layers):
        found.append((layer["class_queries_logits"] - ours.class_logits[i]).abs().max())
        found.append((layer["masks_queries_logits"] - ours.mask_logits(i)).abs().max())
    return max(value.item() for value in found)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_all_layers_give_the_same_logits(name):
    settings, size = CONFIGURATIONS[name]
    hf, ours = random_pair(model_spec({**SMALL, **settings}), seed=3, spread=0.05)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        theirs, found = hf(images), ours(images, all_layers=True)
        last = ours(images, all_layers=False)
    assert theirs.masks_queries_logits.std() > 0.1, "weights that say nothing would compare nothing"
    assert difference(theirs, found) < TOLERANCE
    assert last.class_logits.shape[0] == last.mask_embeds.shape[0] == 1
    torch.testing.assert_close(last.class_logits[-1], found.class_logits[-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(last.mask_logits(), found.mask_logits(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.1.self_attn.sampling_offsets.weight",
        "sem_seg_head.pixel_decoder.transformer.level_embed",
        "sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_weight",
        "sem_seg_head.predictor.query_embed.weight",
        "backbone.layers.2.blocks.1.attn.relative_position_bias_table",
    ],
)
def test_one_permuted_weight_is_noticed(name):
    hf, ours = random_pair(model_spec(SMALL), seed=3, spread=0.05)
    parameter = ours.get_parameter(name)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        parameter.copy_(parameter.flip(0))
        assert difference(hf(images), ours(images, all_layers=True)) > TOLERANCE
