"""Deformable attention as Triton kernels for CUDA; imported only when it is going to run.

One program takes a block of queries of one head of one image. It walks over the `L * P` samples, keeps the
block's sum in registers, and on the way back samples again instead of having stored anything. Values are
float32, float16 or bfloat16; places, weights and all sums are float32.

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `d` channels of a head, `L` levels, `P`
points; in kernels `N` queries of a block and `D` channels, `d` rounded up to a power of two.
"""

# Arguments of a kernel are pointers and scalars that Triton types when it compiles.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["triton_attention"]

TILE = 2048  # elements of a block, queries times channels: 16 floats for each of 128 threads


def triton_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples; arguments and result as in `deformable_attention`.

    `value` may be float32, float16 or bfloat16; `locations` and `weights` are float32. The value gradient is
    added up with atomics in float32, in no fixed order. Second derivatives are not available.
    """
    return _TritonAttention.apply(value, locations, weights, tuple(shapes))  # type: ignore[no-any-return]


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        out = value.new_empty(*locations.shape[:3], value.shape[-1])  # (B, Q, M, d)
        if out.numel():
            grid, numbers = _plan(value, locations)
            levels = _levels(tuple(shapes), value.device)
            with torch.cuda.device_of(value):
                _forward_kernel[grid](value, levels, locations, weights, out, **numbers)
        return out.flatten(2)  # (B, Q, M*d)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        wants_value = bool(ctx.needs_input_grad[0])
        # Half precision would lose the many small addends of a pixel that many queries look at.
        grad_value = torch.zeros_like(value, dtype=torch.float32) if wants_value else None
        grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
        if grad_out.numel():
            grid, numbers = _plan(value, locations)
            levels = _levels(ctx.shapes, value.device)
            inputs = (value, levels, locations, weights, grad_out.contiguous())
            # Nothing is written through the first pointer when the value gradient is not wanted.
            outputs = (value if grad_value is None else grad_value, grad_locations, grad_weights)
            with torch.cuda.device_of(value):
                _backward_kernel[grid](*inputs, *outputs, **numbers, wants_value=wants_value)
        return None if grad_value is None else grad_value.to(value.dtype), grad_locations, grad_weights, None


def _plan(value: Tensor, locations: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Programs to start, (blocks of queries, B*M), and the sizes that a kernel takes."""
    batch, pixels, heads, width = value.shape
    _, queries, _, levels, points, _ = locations.shape
    padded = triton.next_power_of_2(width)
    block = max(1, min(TILE // padded, triton.next_power_of_2(queries)))
    numbers = {
        "S": pixels,
        "Q": queries,
        "M": heads,
        "d": width,
        "L": levels,
        "P": points,
        "N": block,
        "D": padded,
    }
    # Said, because Triton 3.9 warns where it is not and 3.10 takes the other.
    return (triton.cdiv(queries, block), batch * heads), {**numbers, "enable_fp_fusion": True}


@lru_cache(maxsize=64)
def _levels(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Height, width and first pixel of each level, (L, 3) int32; kept, since copies wait for the device."""
    start, rows = 0, []
    for height, width in shapes:
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


@triton.jit
def _axis(position_px, size_px):
    """Lower pixel of samples (N,) along one axis, shares of it and the next, and whether they lie inside."""
    floor = tl.floor(position_px)
    fraction = position_px - floor
    low = floor.to(tl.int32)
    low_inside = (low >= 0) & (low < size_px)
    high_inside = (low >= -1) & (low < size_px - 1)
    return low, (1.0 - fraction) * low_inside, fraction * high_inside, low_inside, high_inside


@triton.jit
def _corners(levels_ptr, level, locations_ptr, sample, alive, stride):
    """Where samples (N,) fall: size of the level, offsets of both left pixels, shares, what lies inside."""
    height = tl.load(levels_ptr + level * 3)
    width = tl.load(levels_ptr + level * 3 + 1)
    start = tl.load(levels_ptr + level * 3 + 2)
    x_px = tl.load(locations_ptr + sample * 2, mask=alive, other=0.0) * width - 0.5
    y_px = tl.load(locations_ptr + sample * 2 + 1, mask=alive, other=0.0) * height - 0.5
    left, x0, x1, x0_inside, x1_inside = _axis(x_px, width)
    upper, y0, y1, y0_inside, y1_inside = _axis(y_px, height)
    y0_inside, y1_inside = y0_inside & alive, y1_inside & alive
    above = (start + upper * width + left).to(tl.int64) * stride
    inside = y0_inside & x0_inside, y0_inside & x1_inside, y1_inside & x0_inside, y1_inside & x1_inside
    return height, width, above, above + width * stride, (y0, y1, x0, x1), inside


@triton.jit
def _load(pointers, channels, inside, d: tl.constexpr):
    """Pixels (N, D) in float32, zero outside."""
    mask = inside[:, None] & (channels < d)[None, :]
    return tl.load(pointers[:, None] + channels[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _forward_kernel(
    value_ptr,  # (B, S, M, d)
    levels_ptr,  # (L, 3) int32
    locations_ptr,  # (B, Q, M, L, P, 2) float32
    weights_ptr,  # (B, Q, M, L, P) float32
    out_ptr,  # (B, Q, M, d)
    S,
    Q,
    M: tl.constexpr,
    d: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    query = tl.program_id(0) * N + tl.arange(0, N)  # (N,)
    image = (tl.program_id(1) // M).to(tl.int64)
    head = tl.program_id(1) % M
    alive = query < Q
    channels = tl.arange(0, D)  # (D,)
    bag = (image * Q + query) * M + head  # (N,) int64
    table = value_ptr + (image * S * M + head) * d
    stride: tl.constexpr = M * d  # from one pixel to the next
    total = tl.zeros((N, D), dtype=tl.float32)
    for level in range(L):
        for point in range(P):
            sample = bag * (L * P) + level * P + point  # (N,)
            _, _, above, below, shares, inside = _corners(
                levels_ptr, level, locations_ptr, sample, alive, stride
            )  # (N,) each
            y0, y1, x0, x1 = shares
            in00, in01, in10, in11 = inside
            weight = tl.load(weights_ptr + sample, mask=alive, other=0.0)
            total += _load(table + above, channels, in00, d) * (weight * y0 * x0)[:, None]
            total += _load(table + above + stride, channels, in01, d) * (weight * y0 * x1)[:, None]
            total += _load(table + below, channels, in10, d) * (weight * y1 * x0)[:, None]
            total += _load(table + below + stride, channels, in11, d) * (weight * y1 * x1)[:, None]
    mask = alive[:, None] & (channels < d)[None, :]
    tl.store(out_ptr + bag[:, None] * d + channels[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _pull(table, grad_table, channels, inside, d: tl.constexpr, share, grad, wants_value: tl.constexpr):
    """Add `grad` (N, D) times `share` (N,) to one corner; return the products of pixels and `grad`, (N,)."""
    if wants_value:
        mask = inside[:, None] & (channels < d)[None, :]
        tl.atomic_add(
            grad_table[:, None] + channels[None, :], grad * share[:, None], mask=mask, sem="relaxed"
        )
    return tl.sum(_load(table, channels, inside, d) * grad, axis=1)


@triton.jit
def _backward_kernel(
    value_ptr,  # (B, S, M, d)
    levels_ptr,  # (L, 3) int32
    locations_ptr,  # (B, Q, M, L, P, 2) float32
    weights_ptr,  # (B, Q, M, L, P) float32
    grad_ptr,  # (B, Q, M, d)
    grad_value_ptr,  # (B, S, M, d) float32, zeros at the start
    grad_locations_ptr,  # (B, Q, M, L, P, 2) float32
    grad_weights_ptr,  # (B, Q, M, L, P) float32
    S,
    Q,
    M: tl.constexpr,
    d: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    wants_value: tl.constexpr,
):
    query = tl.program_id(0) * N + tl.arange(0, N)  # (N,)
    image = (tl.program_id(1) // M).to(tl.int64)
    head = tl.program_id(1) % M
    alive = query < Q
    channels = tl.arange(0, D)  # (D,)
    bag = (image * Q + query) * M + head  # (N,) int64
    table = value_ptr + (image * S * M + head) * d
    sums = grad_value_ptr + (image * S * M + head) * d
    stride: tl.constexpr = M * d  # from one pixel to the next
    grad = _load(grad_ptr + bag * d, channels, alive, d)  # (N, D)
    for level in range(L):
        for point in range(P):
            sample = bag * (L * P) + level * P + point  # (N,)
            height, width, above, below, shares, inside = _corners(
                levels_ptr, level, locations_ptr, sample, alive, stride
            )  # (N,) each
            y0, y1, x0, x1 = shares
            in00, in01, in10, in11 = inside
            weight = tl.load(weights_ptr + sample, mask=alive, other=0.0)
            right, low = above + stride, below + stride
            g00 = _pull(table + above, sums + above, channels, in00, d, weight * y0 * x0, grad, wants_value)
            g01 = _pull(table + right, sums + right, channels, in01, d, weight * y0 * x1, grad, wants_value)
            g10 = _pull(table + below, sums + below, channels, in10, d, weight * y1 * x0, grad, wants_value)
            g11 = _pull(table + low, sums + low, channels, in11, d, weight * y1 * x1, grad, wants_value)
            # The product of a corner outside is 0, so only corners inside pull at the place.
            along_x = ((g01 - g00) * y0 + (g11 - g10) * y1) * weight * width
            upper, lower = g00 * x0 + g01 * x1, g10 * x0 + g11 * x1
            tl.store(grad_locations_ptr + sample * 2, along_x, mask=alive)
            tl.store(grad_locations_ptr + sample * 2 + 1, (lower - upper) * weight * height, mask=alive)
            tl.store(grad_weights_ptr + sample, upper * y0 + lower * y1, mask=alive)
