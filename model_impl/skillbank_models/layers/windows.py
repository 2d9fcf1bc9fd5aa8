"""Cutting a map of tokens into (shifted) attention windows, as one look-up each way.

Padding to whole windows, the cyclic shift and the cut are a fixed re-ordering of rows, so they are one gather instead
of three copies, and what is computed per token never sees the padding. Windows that a shift makes straddle the border
are put last, by kind, so that one small mask per kind does for every image size.

Letters: `B` batch, `h w` map, `T` = h w tokens, `N` tokens of a window, `C` channels, `S` slots (all windows times N).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["KINDS", "WindowLayout", "WindowLayouts", "relative_position_index", "shift_masks"]

KINDS = 4  # a window is cut nowhere, by columns, by rows, or by both
_KEPT = 32  # layouts in memory; a network needs two for each of its maps


@dataclass(frozen=True, slots=True)
class WindowLayout:
    """Where each token of a batch of maps sits in the windows, and back.

    Attributes:
        to_windows: (S,), row of each slot; the row behind the last token (B T) stands for padding.
        to_tokens: (B T,), slot of each row.
        padding: (P,), slots that hold padding; None when there are none.
        counts: windows of each kind, times B, in the order they are stored; the kinds are those of `shift_masks`.
        kinds: (windows,), kind of each window in row order; only for a layout whose sizes are symbolic, where
            windows are not sorted by kind.
    """

    to_windows: Tensor
    to_tokens: Tensor
    padding: Tensor | None
    counts: tuple[int, ...]
    kinds: Tensor | None

    def cut(self, rows: Tensor) -> Tensor:
        """Rows to slots: (B T, C), or (B T + 1, C) with the row of the padding last, to (S, C)."""
        if not torch.is_grad_enabled() or not rows.requires_grad or torch.compiler.is_compiling():
            return rows.index_select(0, self.to_windows)
        out: Tensor = _Cut.apply(rows, self)  # type: ignore[no-untyped-call]
        return out

    def merge(self, slots: Tensor) -> Tensor:
        """Slots to rows without the padding: (S, C) to (B T, C)."""
        if not torch.is_grad_enabled() or not slots.requires_grad or torch.compiler.is_compiling():
            return slots.index_select(0, self.to_tokens)
        out: Tensor = _Merge.apply(slots, self)  # type: ignore[no-untyped-call]
        return out


class _Cut(torch.autograd.Function):
    """`index_select` whose gradient is a look-up again; torch would add up row by row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: WindowLayout) -> Tensor:
        ctx.layout = layout
        return rows.index_select(0, layout.to_windows)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layout: WindowLayout = ctx.layout
        rows = grad.index_select(0, layout.to_tokens)
        if layout.padding is None:
            return rows, None
        padding = grad.index_select(0, layout.padding).sum(0, keepdim=True)
        return torch.cat([rows, padding]), None


class _Merge(torch.autograd.Function):
    """The way back of `_Cut`; padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, layout: WindowLayout) -> Tensor:
        ctx.layout = layout
        return slots.index_select(0, layout.to_tokens)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layout: WindowLayout = ctx.layout
        if layout.padding is not None:
            grad = torch.cat([grad, grad.new_zeros(1, grad.shape[1])])
        return grad.index_select(0, layout.to_windows), None


class WindowLayouts:
    """Layouts of recent sizes; one per network, shared by its blocks."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Any, ...], WindowLayout] = OrderedDict()

    def get(
        self, batch: int, height: int, width: int, *, window: int, shift: int, device: torch.device
    ) -> WindowLayout:
        """The layout of a batch of maps, built at its first use; never kept while a graph is captured."""
        if torch.compiler.is_compiling():
            return _build(batch, height, width, window=window, shift=shift, device=device, captured=True)
        key = (batch, height, width, window, shift, device)
        layout = self._known.get(key)
        if layout is None:
            with torch.inference_mode(False):  # a layout may serve training after it served inference
                layout = _build(
                    batch, height, width, window=window, shift=shift, device=device, captured=False
                )
            self._known[key] = layout
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return layout


def _build(
    batch: int, height: int, width: int, *, window: int, shift: int, device: torch.device, captured: bool
) -> WindowLayout:
    # rounded up; written without negative numbers, which an exported graph would divide towards zero
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    tokens, area = height * width, window * window

    # a shift by s shows at place p what stood at p + s
    y = _turned(torch.arange(rows * window, device=device), shift, rows * window)
    x = _turned(torch.arange(columns * window, device=device), shift, columns * window)
    token = torch.where(
        ((y < height)[:, None]) & (x < width), y[:, None] * width + x, -1
    )  # (rows N', columns N')
    token = (
        token.reshape(rows, window, columns, window).transpose(1, 2).reshape(-1, 1, area)
    )  # (windows, 1, N)
    offset = torch.arange(batch, device=device)[:, None] * tokens  # (B, 1)
    to_windows = torch.where(token < 0, batch * tokens, token + offset)  # (windows, B, N)

    y = _turned(torch.arange(height, device=device), -shift, rows * window)
    x = _turned(torch.arange(width, device=device), -shift, columns * window)
    place = (y // window)[:, None] * columns + x // window  # (h, w), window of each token
    within = (y % window)[:, None] * window + x % window  # (h, w)

    kinds = None
    counts: tuple[int, ...] = (rows * columns * batch,)
    if shift:
        last_row = torch.arange(rows, device=device) == rows - 1
        last_column = torch.arange(columns, device=device) == columns - 1
        kind = (2 * last_row[:, None] + last_column.long()).flatten()  # (windows,)
        if captured:
            kinds = kind
        else:
            order = kind.argsort(stable=True)
            to_windows = to_windows[order]
            place = order.argsort()[place]
            counts = tuple(n * batch for n in ((rows - 1) * (columns - 1), rows - 1, columns - 1, 1))
    place = place.flatten() * batch + torch.arange(batch, device=device)[:, None]  # (B, T)
    to_tokens = (place * area + within.flatten()).flatten()  # (B T,)
    to_windows = to_windows.flatten()  # (S,)
    padding = None
    if captured:
        padding = to_windows  # sizes may be symbolic: the row of the padding is always made
    elif height % window or width % window:
        padding = (to_windows == batch * tokens).nonzero().flatten()  # (P,)
    return WindowLayout(to_windows, to_tokens, padding, counts, kinds)


def _turned(places: Tensor, by: int, length: int) -> Tensor:
    """Places of a ring, each in 0..length, moved by less than its length; the exporter knows no symbolic modulus."""
    places = places + by
    return torch.where(places < 0, places + length, torch.where(places < length, places, places - length))


def shift_masks(window: int, shift: int) -> Tensor:
    """Which pairs of tokens of a window must not see each other, by kind of window.

    A shifted window on the last row (column) holds tokens from both ends of the map; those of different ends are
    apart. Kinds: 0 inner, 1 last column, 2 last row, 3 both.

    Returns:
        (KINDS, N, N) bool.

    Source: Liu et al. 2021, "Swin Transformer", section 3.2, efficient batch computation for shifted windows.
    """
    wrapped = torch.arange(window) >= window - shift
    row = wrapped[:, None].expand(window, window).flatten()  # (N,)
    column = wrapped[None, :].expand(window, window).flatten()  # (N,)
    by_row, by_column = row[:, None] != row, column[:, None] != column  # (N, N)
    return torch.stack([torch.zeros_like(by_row), by_column, by_row, by_row | by_column])  # (KINDS, N, N)


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, (N, N)."""
    place = torch.arange(window * window)
    y, x = place // window, place % window
    dy = y[:, None] - y + window - 1
    dx = x[:, None] - x + window - 1
    return dy * (2 * window - 1) + dx  # (N, N)
