"""Rotation: scores depend on the distance of patches only, special tokens stay."""

import torch

from skillbank_models.nvpanoptix3d.vggt.rotary import Rotation, rotate, rotation

CPU = torch.device("cpu")


def turn(grid, special):
    return rotation(grid, special=special, head_dim=16, dtype=torch.float64, device=CPU)


def test_scores_depend_on_the_distance_only():
    by = turn((4, 6), 0)
    source = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=source).expand(-1, -1, -1, 24, -1)
    scores = (rotate(query, by) @ rotate(key, by).mT)[0, 0].reshape(4, 6, 4, 6)
    for down, right in ((0, 1), (1, 0), (2, 3)):
        shifted = scores[down:, right:, down:, right:]
        torch.testing.assert_close(shifted, scores[: 4 - down, : 6 - right, : 4 - down, : 6 - right])
    assert not torch.allclose(scores[0, 0, 1, 0], scores[0, 0, 0, 1])


def test_special_tokens_stay_and_lengths_stay():
    by = turn((2, 3), 5)
    x = torch.randn(2, 3, 11, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = rotate(x, by)
    assert torch.equal(out[:, :, :5], x[:, :, :5])
    assert not torch.isclose(out[:, :, 5:], x[:, :, 5:]).all(-1).any()
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))


def test_tables_are_kept():
    first, second = turn((3, 3), 1), turn((3, 3), 1)
    assert isinstance(first, Rotation)
    assert first.cosines is second.cosines
    assert turn((3, 3), 2).cosines.shape == (11, 16)
