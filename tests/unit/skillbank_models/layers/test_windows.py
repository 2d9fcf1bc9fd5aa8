"""Cutting maps into windows: against padding, rolling and cutting step by step, and its gradients."""

import pytest
import torch
from torch.nn import functional as F

from skillbank_models.layers.windows import (
    KINDS,
    WindowLayouts,
    relative_position_index,
    shift_masks,
)

CPU = torch.device("cpu")
SIZES = [(8, 12), (7, 9), (3, 2), (4, 5), (1, 17)]


def by_steps(x, window, shift):
    """(B, h, w, C) to windows in row order, (windows, B, N, C), as the papers describe it."""
    _, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = torch.roll(x, (-shift, -shift), (1, 2))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(x.shape[0], rows, window, columns, window, channels).permute(1, 3, 0, 2, 4, 5)
    return x.reshape(rows * columns, -1, window * window, channels), rows, columns


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cut_is_pad_roll_and_partition(height, width, shift):
    x = torch.randn(2, height, width, 3)
    layout = WindowLayouts().get(2, height, width, window=4, shift=shift, device=CPU)
    rows = torch.cat([x.reshape(-1, 3), torch.zeros(1, 3)])
    found = layout.cut(rows).reshape(-1, 2, 16, 3)
    expected, down, across = by_steps(x, 4, shift)
    order = list(range(down * across))
    if shift:
        last = [2 * (place // across == down - 1) + (place % across == across - 1) for place in order]
        order.sort(key=lambda place: last[place])
        assert [count // 2 for count in layout.counts] == [last.count(kind) for kind in range(KINDS)]
    assert torch.equal(found, expected[order])
    assert torch.equal(layout.merge(found.reshape(-1, 3)), x.reshape(-1, 3))
    assert (layout.padding is None) == (height % 4 == 0 and width % 4 == 0)


@pytest.mark.parametrize(("height", "width"), [(4, 8), (3, 5)])
def test_gradients(height, width):
    layout = WindowLayouts().get(2, height, width, window=4, shift=2, device=CPU)
    extra = layout.padding is not None
    rows = torch.randn(2 * height * width + extra, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(layout.to_windows), 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: layout.cut(x) * weight, rows)
    slots = torch.randn(len(layout.to_windows), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.merge, slots)


def test_layouts_are_kept_and_forgotten():
    layouts = WindowLayouts()
    first = layouts.get(1, 8, 8, window=4, shift=2, device=CPU)
    assert layouts.get(1, 8, 8, window=4, shift=2, device=CPU) is first
    assert layouts.get(1, 8, 8, window=4, shift=0, device=CPU) is not first
    for height in range(9, 60):
        layouts.get(1, height, 8, window=4, shift=2, device=CPU)
    assert layouts.get(1, 8, 8, window=4, shift=2, device=CPU) is not first


def test_layout_of_inference_serves_training():
    layouts = WindowLayouts()
    with torch.inference_mode():
        layouts.get(1, 5, 5, window=4, shift=2, device=CPU)
    layout = layouts.get(1, 5, 5, window=4, shift=2, device=CPU)
    rows = torch.randn(26, 2, requires_grad=True)
    layout.merge(layout.cut(rows)).sum().backward()
    assert torch.equal(rows.grad, torch.cat([torch.ones(25, 2), torch.zeros(1, 2)]))


def test_masks_part_what_the_shift_brought_together():
    window, shift, side = 4, 1, 8
    region = torch.zeros(side, side, dtype=torch.long)
    cuts = [slice(0, -window), slice(-window, -shift), slice(-shift, None)]
    for row, rows in enumerate(cuts):
        for column, columns in enumerate(cuts):
            region[rows, columns] = 3 * row + column
    windows = region.reshape(2, window, 2, window).transpose(1, 2).reshape(4, window * window)
    expected = windows[:, :, None] != windows[:, None]  # row order is the order of the kinds here
    assert torch.equal(shift_masks(window, shift), expected)


def test_relative_positions():
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert index[0, 0] == index[8, 8] == 12  # no offset is in the middle of the 5 x 5 table
    assert index[8, 0] == 24  # two down and two right
    assert index[0, 8] == 0
    assert index[1, 0] == 13  # one right
    assert index[3, 0] == 17  # one down
