"""Attention in parts against `torch.nn.MultiheadAttention`."""

import pytest
import torch

from skillbank.errors import InvalidValueError
from skillbank_models.layers.packed_attention import PackedAttention


def test_equals_multihead_attention_with_the_same_parameters():
    torch.manual_seed(0)
    ours = PackedAttention(dim=24, nheads=4, dropout=0.0)
    theirs = torch.nn.MultiheadAttention(24, 4, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    allowed = torch.rand(2, 5, 7) > 0.5
    allowed[:, :, 0] = True
    found = ours.attend(ours.project(query, 0), ours.project(key, 1), ours.project(value, 2), allowed)
    expected, _ = theirs(query, key, value, attn_mask=~allowed.repeat_interleave(4, 0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_projections_can_be_asked_for_together():
    attention = PackedAttention(dim=8, nheads=2, dropout=0.0)
    x = torch.randn(1, 3, 8)
    both = attention.project(x, 0, 2)
    torch.testing.assert_close(both, torch.cat([attention.project(x, 0), attention.project(x, 1)], -1))


def test_dropout_acts_while_training_only():
    attention = PackedAttention(dim=8, nheads=2, dropout=0.5)
    x = torch.randn(1, 40, 8)
    assert not torch.equal(attention.attend(x, x, x, None), attention.attend(x, x, x, None))
    attention.eval()
    torch.testing.assert_close(attention.attend(x, x, x, None), attention.attend(x, x, x, None))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InvalidValueError, match="7 heads do not divide 64 channels"):
        PackedAttention(dim=64, nheads=7, dropout=0.0)
