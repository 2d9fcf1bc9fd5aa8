"""Tokens to maps: every step against a computation in float64 from the published description."""

import pytest
import torch
import torch.nn.functional as F

from skillbank_models.nvpanoptix3d.adapter import TokenAdapter

TOKENS, DIM, CHANNELS = 12, 8, (4, 8, 12, 16)
GRID = (3, 5)


def build(**changes):
    torch.manual_seed(0)
    settings = {"token_dim": TOKENS, "dim": DIM, "channels": CHANNELS, "use_checkpoint": False}
    adapter = TokenAdapter(**{**settings, **changes})
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter


def taps(batch=2):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(batch, GRID[0] * GRID[1], TOKENS, generator=draw) for _ in range(4)]


def waves(channels, height, width):
    """Section 4.2 of the description, channel by channel."""
    aspect = width / height
    diagonal = (aspect**2 + 1) ** 0.5
    out = torch.zeros(channels, height, width, dtype=torch.float64)
    quarter = channels // 4
    for row in range(height):
        for column in range(width):
            x = (2 * (column + 0.5) / width - 1) * aspect / diagonal
            y = (2 * (row + 0.5) / height - 1) / diagonal
            for half, place in enumerate((x, y)):
                for i in range(quarter):
                    angle = torch.tensor(place * 100.0 ** (-i / quarter), dtype=torch.float64)
                    out[2 * quarter * half + i, row, column] = angle.sin()
                    out[2 * quarter * half + quarter + i, row, column] = angle.cos()
    return 0.1 * out


def test_maps_follow_the_description():
    adapter, given = build(), taps()
    found = adapter(given, GRID)
    weights = {name: value.double() for name, value in adapter.state_dict().items()}
    height, width = GRID
    for place, name in enumerate(("res2", "res3", "res4", "res5")):
        tokens = given[place].double()
        mean = tokens.mean(-1, keepdim=True)
        spread = (tokens - mean).square().mean(-1, keepdim=True)
        tokens = (tokens - mean) / (spread + 1e-5).sqrt() * weights["norm.weight"] + weights["norm.bias"]
        x = tokens @ weights[f"projects.{place}.weight"][:, :, 0, 0].t() + weights[f"projects.{place}.bias"]
        x = x.transpose(1, 2).reshape(-1, DIM, height, width) + waves(DIM, height, width)
        if place < 2:  # stride and kernel are equal, so every pixel becomes a block of its own
            step = (4, 2)[place]
            kernel = weights[f"resize_layers.{place}.weight"]
            x = torch.einsum("bihw,iokl->bohkwl", x, kernel).reshape(
                -1, DIM, height * step, width * step
            ) + weights[f"resize_layers.{place}.bias"].view(1, -1, 1, 1)
        elif place == 3:
            x = F.conv2d(
                x, weights["resize_layers.3.weight"], weights["resize_layers.3.bias"], stride=2, padding=1
            )
        x = torch.einsum("bihw,oi->bohw", x, weights[f"outputs.{place}.weight"][:, :, 0, 0])
        x = x + weights[f"outputs.{place}.bias"].view(1, -1, 1, 1)
        # float32 against float64
        torch.testing.assert_close(found[name].double(), x, rtol=1e-4, atol=1e-5)


def test_sizes_and_widths_are_those_announced():
    adapter = build()
    found = adapter(taps(), GRID)
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {
        "res2": (4, 12, 20),
        "res3": (8, 6, 10),
        "res4": (12, 3, 5),
        "res5": (16, 2, 3),
    }
    assert adapter.channels == dict(zip(found, CHANNELS, strict=True))
    assert adapter.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@pytest.mark.parametrize("recompute", [False, True])
def test_every_parameter_learns(recompute):
    adapter = build(use_checkpoint=recompute)
    sum(value.square().mean() for value in adapter(taps(), GRID).values()).backward()
    reference = build()
    sum(value.square().mean() for value in reference(taps(), GRID).values()).backward()
    for (name, parameter), other in zip(adapter.named_parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)
