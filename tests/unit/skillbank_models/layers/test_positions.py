"""Sine positions against their formula, pixel centres, and that kept tables do no harm."""

import math

import torch

from skillbank_models.layers.positions import pixel_centres, sine_positions

CPU = torch.device("cpu")


def formula(place: int, length: int, feature: int, features: int) -> float:
    angle = (place + 1) / (length + 1e-6) * 2 * math.pi
    angle /= 10000 ** (2 * (feature // 2) / features)
    return math.cos(angle) if feature % 2 else math.sin(angle)


def test_every_value_follows_the_formula():
    height, width, channels = 3, 5, 16
    found = sine_positions(height, width, channels, dtype=torch.float32, device=CPU)
    half = channels // 2
    expected = [
        [
            [formula(y, height, k, half) for k in range(half)]
            + [formula(x, width, k, half) for k in range(half)]
            for x in range(width)
        ]
        for y in range(height)
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=2e-6)


def test_dtype_is_the_one_asked_for():
    half = sine_positions(4, 4, 8, dtype=torch.bfloat16, device=CPU)
    full = sine_positions(4, 4, 8, dtype=torch.float32, device=CPU)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, full.bfloat16(), rtol=0, atol=0)


def test_centres_are_x_before_y_and_level_after_level():
    found = pixel_centres([(1, 2), (2, 1)], device=CPU)
    assert found.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


def test_what_inference_built_first_can_be_trained_with():
    with torch.inference_mode():
        sine_positions(7, 11, 12, dtype=torch.float32, device=CPU)
        pixel_centres([(7, 11)], device=CPU)
    weight = torch.ones(12, requires_grad=True)
    (sine_positions(7, 11, 12, dtype=torch.float32, device=CPU) * weight).sum().backward()
    assert weight.grad is not None
    shift = torch.zeros(2, requires_grad=True)
    (pixel_centres([(7, 11)], device=CPU) * shift).sum().backward()
    assert shift.grad is not None


def test_export_holds_the_positions_of_any_size():
    class Placed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = sine_positions(x.shape[2], x.shape[3], 8, dtype=x.dtype, device=x.device)
            return x + places.permute(2, 0, 1)

    free = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    program = torch.export.export(Placed(), (torch.zeros(1, 8, 5, 6),), dynamic_shapes=(free,), strict=False)
    expected = sine_positions(9, 4, 8, dtype=torch.float32, device=CPU).permute(2, 0, 1)
    torch.testing.assert_close(program.module()(torch.zeros(1, 8, 9, 4))[0], expected)
