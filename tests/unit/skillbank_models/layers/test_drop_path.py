"""Stochastic depth: whole samples, at the given rate, with an unchanged mean."""

import torch

from skillbank_models.layers.drop_path import DropPath


def test_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(rate=0.3).train()(torch.ones(20000, 2, 3))
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    dropped = (out[:, 0, 0] == 0).float().mean().item()
    assert abs(dropped - 0.3) < 0.015  # over four standard deviations of 20000 draws
    assert torch.allclose(out[out > 0], torch.tensor(1 / 0.7))


def test_off_when_evaluating_or_at_rate_zero():
    x = torch.randn(4, 3)
    assert DropPath(rate=0.5).eval()(x) is x
    assert DropPath(rate=0.0).train()(x) is x


def test_rate_one_leaves_nothing():
    assert not DropPath(rate=1.0).train()(torch.ones(8, 2)).any()
