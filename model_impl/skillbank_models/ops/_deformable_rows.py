"""Deformable attention as weighted sums of table rows: fast on a CPU, and deterministic on CUDA.

Pixel s of head m is row `s * M + m` of a table of width d. A query of one head is a "bag": a weighted sum of
`4 * L * P` rows, four corners around each sample. Only the inputs are kept for the backward pass, and work
goes block by block of queries, so that temporaries do not grow with the number of samples.

Letters: `B` batch, `S` pixels of all levels, `Q` queries, `M` heads, `d` channels of a head, `L` levels, `P`
points; `n` bags of a block (queries times heads), `J = L * P` samples of a bag.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
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
    """Numbers of the level that each of the J samples of a bag looks at, (J,) each; int32 but for `scale`."""

    width: Tensor
    height: Tensor
    start: Tensor
    scale: Tensor  # (2, J), width and height in the dtype of the locations

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], points: int, like: Tensor) -> _Levels:
        start, rows = 0, []
        for height, width in shapes:
            rows += [(width, height, start)] * points
            start += width * height
        numbers = torch.tensor(rows, dtype=torch.int32).to(like.device, non_blocking=True).t().contiguous()
        width_px, height_px, starts = numbers.unbind()
        return cls(width_px, height_px, starts, numbers[:2].to(like.dtype))


class _Axis(NamedTuple):
    """The two pixels around samples along one axis, (n, J) each.

    Attributes:
        low: index of the lower pixel, inside the map even where the sample is not; `high` alike.
        low_share: how much the lower pixel counts, 0 where it lies outside; `high_share` alike.
        low_inside: whether the lower pixel lies inside; `high_inside` alike.
    """

    low: Tensor
    high: Tensor
    low_share: Tensor
    high_share: Tensor
    low_inside: Tensor
    high_inside: Tensor

    @classmethod
    def around(cls, position_px: Tensor, size_px: Tensor) -> _Axis:
        floor = position_px.floor()
        fraction = position_px - floor
        first = floor.to(torch.int32)
        second = first + 1
        last = size_px - 1
        # Limits come after the cast, since a NaN casts to any integer; its share stays NaN and shows.
        low, high = first.clamp(min=0).minimum(last), second.clamp(min=0).minimum(last)
        low_inside, high_inside = low == first, high == second
        return cls(low, high, (1 - fraction) * low_inside, fraction * high_inside, low_inside, high_inside)


class _Block(NamedTuple):
    """The corners of some queries of one image."""

    x: _Axis
    y: _Axis
    rows: Tensor  # (n, 4*J) int32, corner by corner: upper left, upper right, lower left, lower right

    @classmethod
    def of(cls, locations: Tensor, levels: _Levels) -> _Block:
        """Find the corners of `locations` (q, M, L, P, 2)."""
        heads = locations.shape[1]
        samples = levels.width.numel()
        pairs = locations.reshape(-1, samples, 2)  # (n, J, 2)
        x = _Axis.around(pairs[..., 0] * levels.scale[0] - 0.5, levels.width)
        y = _Axis.around(pairs[..., 1] * levels.scale[1] - 0.5, levels.height)
        head = torch.arange(heads, dtype=torch.int32, device=pairs.device)
        first = (levels.start * heads + head[:, None]).flatten()  # (M*J,)
        left, right = x.low * heads, x.high * heads
        # One line of pixels is width * heads rows; heads repeat along n with period M.
        upper, lower = (
            (cell * (levels.width * heads)).view(-1, heads * samples).add_(first).view(-1, samples)
            for cell in (y.low, y.high)
        )
        rows = torch.cat([upper + left, upper + right, lower + left, lower + right], 1)  # (n, 4*J)
        return cls(x, y, rows)

    def shares(self, weights: Tensor) -> Tensor:
        """How much each corner counts in the sum, (n, 4*J); `weights` are (n, J)."""
        upper, lower = self.y.low_share * weights, self.y.high_share * weights
        left, right = self.x.low_share, self.x.high_share
        return torch.cat([upper * left, upper * right, lower * left, lower * right], 1)  # (n, 4*J)

    def gradients(self, corners: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of locations (n, J, 2) and weights (n, J) from those of `corners` (n, 4*J)."""
        x, y = self.x, self.y
        upper_left, upper_right, lower_left, lower_right = corners.chunk(4, 1)  # (n, J) each
        upper = upper_left * x.low_share + upper_right * x.high_share
        lower = lower_left * x.low_share + lower_right * x.high_share
        upper_step = upper_right * x.high_inside - upper_left * x.low_inside
        lower_step = lower_right * x.high_inside - lower_left * x.low_inside
        along_x = (upper_step * y.low_share + lower_step * y.high_share) * weights * scale[0]
        along_y = (lower * y.high_inside - upper * y.low_inside) * weights * scale[1]
        return torch.stack([along_x, along_y], -1), upper * y.low_share + lower * y.high_share


class _RowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        batch, _, heads, width = value.shape
        levels = _Levels.of(shapes, locations.shape[-2], locations)
        out = value.new_empty(batch, locations.shape[1], heads, width)  # (B, Q, M, d)
        for image, queries in _blocks(locations):
            block = _Block.of(locations[image, queries], levels)
            shares = block.shares(weights[image, queries].reshape(-1, levels.width.numel()))  # (n, 4*J)
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
        levels = _Levels.of(ctx.shapes, locations.shape[-2], locations)
        grad_value = value.new_zeros(value.shape) if wants_value else None
        grad_locations, grad_weights = (
            (torch.empty_like(locations), torch.empty_like(weights)) if wants_places else (None, None)
        )
        with torch.autocast(value.device.type, enabled=False):
            for image, queries in _blocks(locations):
                block = _Block.of(locations[image, queries], levels)
                scale = weights[image, queries].reshape(-1, levels.width.numel())  # (n, J)
                grad = grad_out[image, queries].reshape(-1, width)  # (n, d)
                if grad_value is not None:
                    _add_to_rows(grad_value[image].view(-1, width), block.rows, block.shares(scale), grad)
                if grad_locations is not None and grad_weights is not None:
                    corners = _row_products(value[image].reshape(-1, width), block.rows, grad)  # (n, 4*J)
                    places, parts = block.gradients(corners, scale, levels.scale)
                    grad_locations[image, queries] = places.view_as(grad_locations[image, queries])
                    grad_weights[image, queries] = parts.view_as(grad_weights[image, queries])
        return grad_value, grad_locations, grad_weights, None


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
