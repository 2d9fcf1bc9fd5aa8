"""Cutting a map of tokens into (shifted) attention windows, as one look-up each way.

Padding to whole windows, the cyclic shift and the cut are a fixed re-ordering of rows, so they are one gather
instead of three copies, and what is computed per token never sees the padding. Windows that a shift makes
straddle the border are put last, by kind, so that one small mask per kind does for every image size.

Letters: `B` batch, `h w` map, `T` = h w tokens, `N` tokens of a window, `C` channels, `S` slots (all windows
times N).
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
        padding: (P,), slots that hold padding; None when there are none. In a captured graph never None, and
            of no other use, since whether there is padding may depend on the image.
        counts: windows of each kind, times B, in the order they are stored; kinds are those of `shift_masks`.
        kinds: (windows,), kind of each window; only in a captured graph and with a shift, where the windows
            stand in row order and not sorted by kind.
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
    @torch.autograd.function.once_differentiable
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
    @torch.autograd.function.once_differentiable
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
    # One axis throughout: tables of rows and columns would tie a captured graph to sizes that were one.
    # Sums of what is never negative, since ONNX divides towards zero.
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    area, tokens, windows = window * window, height * width, rows * columns

    slot = torch.arange(windows * batch * area, device=device)  # (S,)
    place, within = _divmod(slot, batch * area)
    sample, within = _divmod(within, area)
    (top, left), (down, right) = _divmod(place, columns), _divmod(within, window)
    y, x = (
        top * window + down + shift,
        left * window + right + shift,
    )  # a shift by s shows at p what stood at p + s
    y = torch.where(y < rows * window, y, y - rows * window)
    x = torch.where(x < columns * window, x, x - columns * window)
    is_token = (y < height) & (x < width)
    to_windows = torch.where(is_token, sample * tokens + y * width + x, batch * tokens)  # (S,)

    row = torch.arange(batch * tokens, device=device)  # (B T,)
    sample, token = _divmod(row, tokens)
    y, x = _divmod(token, width)
    y = torch.where(y < shift, y - shift + rows * window, y - shift)
    x = torch.where(x < shift, x - shift + columns * window, x - shift)
    (top, down), (left, right) = _divmod(y, window), _divmod(x, window)
    place, within = (
        top * columns + left,
        down * window + right,
    )  # (B T,), window of each token and place in it

    kinds = None
    counts: tuple[int, ...] = (windows * batch,)
    if shift:
        top, left = _divmod(torch.arange(windows, device=device), columns)
        kinds = 2 * (top == rows - 1) + (left == columns - 1).long()  # (windows,)
        if not captured:
            order = kinds.argsort(stable=True)
            to_windows = to_windows.view(windows, -1)[order].flatten()  # (S,)
            place = order.argsort()[place]
            counts = tuple(count * batch for count in ((rows - 1) * (columns - 1), rows - 1, columns - 1, 1))
    to_tokens = (place * batch + sample) * area + within  # (B T,)
    padding = None
    if captured or height % window or width % window:
        padding = to_windows if captured else (to_windows == batch * tokens).nonzero().flatten()  # (P,)
    return WindowLayout(to_windows, to_tokens, padding, counts, kinds if captured else None)


def _divmod(x: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder; the exporter knows no remainder by a symbolic size."""
    quotient = x // by
    return quotient, x - quotient * by


def shift_masks(window: int, shift: int) -> Tensor:
    """Which pairs of tokens of a window must not see each other, by kind of window.

    A shifted window on the last row (column) holds tokens from both ends of the map; those of different ends
    are apart. Kinds: 0 inner, 1 last column, 2 last row, 3 both.

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
