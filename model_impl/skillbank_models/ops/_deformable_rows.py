"""Deformable attention as weighted sums of table rows: fast on a CPU, and deterministic on CUDA.

Pixel s of head m is row `s * M + m` of a table of width d. A query of one head is a "bag": a weighted sum of
`4 * L * P` rows, four corners around each sample. Only the inputs are kept for the backward pass, and work
goes block by block of queries, so that temporaries do not grow with the number of samples.

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `d` channels of a head, `L` levels, `P`
points; `n` bags of a block (queries times heads), `J = L * P` samples of a bag.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["row_attention"]

BLOCK_SAMPLES = 2**18  # 1 M corners, about 20 MB of indices, shares and their temporaries in float32


def row_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples; arguments and result as in `deformable_attention`, all of one dtype.

    Gradients are bitwise equal from run to run on CPU and on CUDA. Second derivatives are not available.
    """
    out: Tensor = _RowAttention.apply(value, locations, weights, tuple(shapes))  # type: ignore[no-untyped-call]
    return out  # (B, Q, M*d)


class _Levels(NamedTuple):
    """Numbers of the level that each of the J samples of a bag looks at.

    Attributes:
        size: (2, 1, J), width and height in the dtype of the locations.
        last: (2, 1, J) int32, the last column and line.
        step: (2, 1, J) int32, table rows from one column and from one line to the next.
        first: (M * J,) int32, table row of the first pixel, for each head.
    """

    size: Tensor
    last: Tensor
    step: Tensor
    first: Tensor

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], locations: Tensor) -> _Levels:
        heads, points = locations.shape[2], locations.shape[4]
        start, numbers = 0, []
        for height, width in shapes:
            numbers += [(width, height, heads, width * heads, start * heads)] * points
            start += width * height
        table = torch.tensor(numbers, dtype=torch.int32).to(locations.device, non_blocking=True).t()  # (5, J)
        size, step = table[:2, None], table[2:4, None].contiguous()  # (2, 1, J)
        head = torch.arange(heads, dtype=torch.int32, device=locations.device)
        return cls(size.to(locations.dtype), size - 1, step, (table[4] + head[:, None]).flatten())


class _Block(NamedTuple):
    """The four corners around each sample of some queries of one image.

    Both sides (lower, upper) and both axes (x, y) are worked on at once: few operations, each on much, suit
    machines with many cores.

    Attributes:
        shares: (2 sides, 2 axes, n, J), how much a column or line counts, 0 where it lies outside.
        inside: alike, 1 where it lies inside.
        rows: (n, 4 * J) int32, table rows; lines before columns, lower before upper.
    """

    shares: Tensor
    inside: Tensor
    rows: Tensor

    @classmethod
    def of(cls, locations: Tensor, levels: _Levels) -> _Block:
        """Find the corners of `locations` (q, M, L, P, 2)."""
        samples = levels.size.shape[-1]
        pairs = locations.reshape(-1, samples, 2).permute(2, 0, 1)  # (2, n, J)
        position_px = torch.mul(pairs, levels.size, out=pairs.new_empty(pairs.shape)).sub_(0.5)
        floor = position_px.floor()
        fraction = position_px.sub_(floor)
        lower = floor.to(torch.int32)
        near = torch.stack([lower, lower + 1])  # (2, 2, n, J)
        # Limits come after the cast, since a NaN casts to any integer; its share stays NaN and shows.
        cells = near.clamp(min=0).minimum(levels.last)
        inside = (cells == near).to(position_px.dtype)
        shares = torch.stack([1 - fraction, fraction]).mul_(inside)  # (2, 2, n, J)
        columns, lines = cells.mul_(levels.step).unbind(1)  # (2, n, J)
        lines.view(2, -1, levels.first.numel()).add_(levels.first)
        return cls(shares, inside, _by_corner(torch.add, lines, columns))

    def corner_shares(self, weights: Tensor) -> Tensor:
        """How much each corner counts in the sum, (n, 4 * J); `weights` are (n, J)."""
        columns, lines = self.shares.unbind(1)  # (2, n, J)
        return _by_corner(torch.mul, lines * weights, columns)  # (n, 4*J)

    def gradients(self, corners: Tensor, weights: Tensor, levels: _Levels) -> tuple[Tensor, Tensor]:
        """Gradients of locations (n, J, 2) and weights (n, J) from those of `corners` (n, 4 * J)."""
        by_side = corners.view(-1, 2, 2, weights.shape[1]).permute(2, 1, 0, 3)  # (2 columns, 2 lines, n, J)
        columns, lines = self.shares.unbind(1)  # (2, n, J)
        column_inside, line_inside = self.inside.unbind(1)  # (2, n, J)
        along = by_side[0] * columns[0] + by_side[1] * columns[1]  # (2 lines, n, J)
        across = by_side[1] * column_inside[1] - by_side[0] * column_inside[0]  # (2 lines, n, J)
        slopes = torch.stack(
            [
                across[0] * lines[0] + across[1] * lines[1],
                along[1] * line_inside[1] - along[0] * line_inside[0],
            ]
        )  # (2, n, J)
        places = slopes.mul_(weights).mul_(levels.size).permute(1, 2, 0)  # (n, J, 2)
        return places, along[0] * lines[0] + along[1] * lines[1]


class _RowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        batch, _, heads, width = value.shape
        levels = _Levels.of(shapes, locations)
        out = value.new_empty(batch, locations.shape[1], heads, width)  # (B, Q, M, d)
        for image, queries in _blocks(locations):
            block = _Block.of(locations[image, queries], levels)
            shares = block.corner_shares(
                weights[image, queries].reshape(-1, levels.size.shape[-1])
            )  # (n, 4*J)
            table = value[image].reshape(-1, width)  # (S*M, d)
            sums = F.embedding_bag(block.rows, table, mode="sum", per_sample_weights=shares)  # (n, d)
            out[image, queries] = sums.view(-1, heads, width)
        return out.flatten(2)  # (B, Q, M*d)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        wants_value, wants_places = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        width = value.shape[-1]
        levels = _Levels.of(ctx.shapes, locations)
        grad_value = value.new_zeros(value.shape) if wants_value else None
        grad_locations, grad_weights = (
            (torch.empty_like(locations), torch.empty_like(weights)) if wants_places else (None, None)
        )
        with torch.autocast(value.device.type, enabled=False):
            for image, queries in _blocks(locations):
                block = _Block.of(locations[image, queries], levels)
                scale = weights[image, queries].reshape(-1, levels.size.shape[-1])  # (n, J)
                grad = grad_out[image, queries].reshape(-1, width)  # (n, d)
                if grad_value is not None:
                    _add_to_rows(
                        grad_value[image].view(-1, width), block.rows, block.corner_shares(scale), grad
                    )
                if grad_locations is not None and grad_weights is not None:
                    corners = _row_products(value[image].reshape(-1, width), block.rows, grad)  # (n, 4*J)
                    places, parts = block.gradients(corners, scale, levels)
                    grad_locations[image, queries] = places.reshape(grad_locations[image, queries].shape)
                    grad_weights[image, queries] = parts.view_as(grad_weights[image, queries])
        return grad_value, grad_locations, grad_weights, None


def _by_corner(operation: Callable[[Tensor, Tensor], Tensor], lines: Tensor, columns: Tensor) -> Tensor:
    """Both lines with both columns (2, n, J): (n, 4 * J), lines before columns, lower before upper."""
    return torch.cat([operation(line, column) for line in lines for column in columns], 1)  # (n, 4*J)


def _blocks(locations: Tensor) -> Iterator[tuple[int, slice]]:
    """Image by image, as many queries as make about `BLOCK_SAMPLES` samples."""
    batch, queries, heads, levels, points, _ = locations.shape
    step = max(1, BLOCK_SAMPLES // max(1, heads * levels * points))
    for image in range(batch):
        for start in range(0, queries, step):
            yield image, slice(start, start + step)


def _row_products(table: Tensor, rows: Tensor, grad: Tensor) -> Tensor:
    """Inner products of `grad` (n, d) with the named rows of `table`: what each share is worth, (n, 4*J)."""
    bags, corners = rows.shape
    # A sparse pattern cannot have more entries in a row than columns, which maps of a few pixels would need.
    if rows.is_cuda or table.shape[0] < corners:
        planes = [
            (table[plane] * grad[:, None]).sum(-1)  # (n, J)
            for plane in rows.long().chunk(4, 1)
        ]
        return torch.cat(planes, 1)  # (n, 4*J)
    _silence_sparse_notice()
    ends = torch.arange(0, rows.numel() + 1, corners, dtype=torch.int32)
    pattern = torch.sparse_csr_tensor(
        ends,
        rows.flatten(),
        grad.new_zeros(1).expand(rows.numel()),
        (bags, table.shape[0]),
        check_invariants=False,
    )  # (n, S*M)
    products: Tensor = torch.sparse.sampled_addmm(pattern, grad, table.t(), beta=0.0)  # (n, S*M)
    return products.values().view(bags, corners)


def _add_to_rows(table: Tensor, rows: Tensor, shares: Tensor, grad: Tensor) -> None:
    """Add `grad` (n, d), times `shares` (n, 4*J), to the named rows of `table` in place, in a fixed order."""
    if rows.is_cuda:
        for plane, share in zip(rows.long().chunk(4, 1), shares.chunk(4, 1), strict=True):
            # On CUDA this sorts first, unlike index_add_ and scatter_add_, which add as they come.
            table.index_put_((plane,), share[..., None] * grad[:, None], accumulate=True)
        return
    from scipy.sparse import csc_array

    ends = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
    parts = (shares.flatten().numpy(), rows.flatten().numpy(), ends.numpy())
    table += torch.from_numpy(csc_array(parts, shape=(table.shape[0], rows.shape[0])) @ grad.numpy())


@lru_cache(maxsize=1)
def _silence_sparse_notice() -> None:
    """Make the first sparse tensor here: torch says once for each process that these are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))
