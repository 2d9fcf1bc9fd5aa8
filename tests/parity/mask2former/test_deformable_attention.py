"""Operator and layer against transformers, forward and backward.

Source of the reference: transformers 5 `modeling_mask2former`, run as it is.
"""

import pytest
import torch
from deformable_cases import encoder_case, forward_backward, random_case
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as TheirLayer,
)
from transformers.models.mask2former.modeling_mask2former import (
    multi_scale_deformable_attention as their_operator,
)

from skillbank_models.layers.deformable_attention import MultiScaleDeformableAttention
from skillbank_models.ops.deformable_attention import deformable_attention

CASES = {
    "odd sizes, outside": random_case(beyond=1.0),
    "encoder of a 160 px image": encoder_case(160, heads=4, width=8),
    "one level, one point": random_case(((9, 4),), points=1, queries=50),
}
# Sums in another order. The gradient of a place is a difference times the size of the map, 20 pixels.
TOLERANCES = (1e-5, 1e-4, 2e-3, 1e-4)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_operator(name, deterministic):
    case = CASES[name]
    ours = forward_backward(lambda *x: deformable_attention(*x, deterministic=deterministic), case)
    theirs = forward_backward(their_operator, case)
    for got, wanted, atol in zip(ours, theirs, TOLERANCES, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_operator_in_float64(name):
    case = CASES[name].to("cpu", torch.float64)
    ours = forward_backward(lambda *x: deformable_attention(*x, deterministic=False), case)
    for got, wanted in zip(ours, forward_backward(their_operator, case), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


def layers(swap=False):
    """Both layers with the same random weights, loaded under the same names."""
    torch.manual_seed(0)
    theirs = TheirLayer(embed_dim=32, num_heads=4, n_levels=3, n_points=4)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = MultiScaleDeformableAttention(dim=32, num_levels=3, nheads=4, num_points=4, deterministic=False)
    weights = theirs.state_dict()
    if swap:
        weights["sampling_offsets.weight"] = (
            weights["sampling_offsets.weight"].view(-1, 2, 32).flip(1).flatten(0, 1)
        )
    ours.load_state_dict(weights)
    return ours, theirs


def run_layers(ours, theirs):
    sizes = [(2, 3), (4, 6), (8, 12)]
    pixels = sum(h * w for h, w in sizes)
    tokens, positions = torch.randn(2, pixels, 32), torch.randn(2, pixels, 32)
    reference = torch.rand(2, pixels, 3, 2)
    ours_out = ours(tokens + positions, reference, tokens, sizes)
    theirs_out, _ = theirs(
        tokens,
        encoder_hidden_states=tokens,
        position_embeddings=positions,
        reference_points=reference,
        spatial_shapes_list=sizes,
    )
    return ours_out, theirs_out


def test_layer():
    ours, theirs = layers()
    ours_out, theirs_out = run_layers(ours, theirs)
    # both are float32; outputs are of size 4
    torch.testing.assert_close(ours_out, theirs_out, rtol=0, atol=1e-4)
    ours_out.sin().sum().backward()
    theirs_out.sin().sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        largest = wanted[name].grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=0, atol=1e-4 * max(1.0, largest))


def test_swapped_axes_would_be_seen():
    ours_out, theirs_out = run_layers(*layers(swap=True))
    assert (ours_out - theirs_out).abs().max() > 0.1
