"""Which voxels a convolution reads: rows of its input for each row of its output and each tap of its kernel.

Taps are numbered with z fastest: tap (i, j, l) of a kernel of k is `(i * k + j) * k + l`.

Letters: `B` batch, `N` input voxels, `M` output voxels, `K` taps, `S` side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.sparse.tensor import Sites, linear_keys, unique_keys

__all__ = [
    "KernelFrame",
    "KernelMap",
    "Pairs",
    "RowFinder",
    "Table",
    "child_sites",
    "coarse_sites",
    "kept_scaling_map",
    "scaling_map",
    "submanifold_map",
]

# Measured on a CPU: a table of all cells takes 1.5 ns a cell to fill, a binary search 40 ns a row and tap.
CELLS_PER_ROW = 512
AT_ONCE = 2**20  # cells looked up at a time, so that they need little memory beside the result
INT32_LIMIT = 2**31

Step = tuple[int, ...]  # along x, y, z


class Table(NamedTuple):
    """Rows that some voxels of one side of a convolution meet on the other side.

    Attributes:
        rows: (m, k) int32, row on the other side by voxel and tap; the number of rows there if there is none.
        taps: (k,) int64, the tap of each column.
        into: (m,) int64 rows of the voxels on their own side; None for all of them in order.
    """

    rows: Tensor
    taps: Tensor
    into: Tensor | None


class Pairs(NamedTuple):
    """A kernel map as pairs of rows for each tap, which is what spconv reads.

    Attributes:
        rows: (2, K, L) int32, input and output rows; -1 behind the last pair of a tap.
        counts: (K,) int32, pairs of a tap.
        total: pairs of all taps.
    """

    rows: Tensor
    counts: Tensor
    total: int


class KernelFrame(NamedTuple):
    """A kernel map without its tensors.

    Attributes:
        taps: K.
        num_in: N.
        num_out: M.
        reads: tables of `KernelMap.reads`.
    """

    taps: int
    num_in: int
    num_out: int
    reads: int

    def around(self, tensors: Sequence[Any]) -> KernelMap:
        """The map of `KernelMap.tensors()`."""
        tables = [Table(*tensors[start : start + 3]) for start in range(0, len(tensors), 3)]
        reads, feeds = tuple(tables[: self.reads]), tuple(tables[self.reads :])
        return KernelMap(self.taps, self.num_in, self.num_out, reads, feeds)


@dataclass(frozen=True, eq=False)
class KernelMap:
    """What meets what in one convolution, seen from both sides.

    Attributes:
        taps: K.
        num_in: N.
        num_out: M.
        reads: the input rows of each output voxel; together the tables name every output row once.
        feeds: the output rows of each input voxel; together the tables name every input row once.
    """

    taps: int
    num_in: int
    num_out: int
    reads: tuple[Table, ...]
    feeds: tuple[Table, ...]

    def reversed(self) -> KernelMap:
        """The map of the transposed convolution."""
        return KernelMap(self.taps, self.num_out, self.num_in, self.feeds, self.reads)

    def tensors(self) -> list[Tensor | None]:
        """All tensors of the tables, in a fixed order."""
        return [part for table in (*self.reads, *self.feeds) for part in table]

    def frame(self) -> KernelFrame:
        """What there is beside the tensors."""
        return KernelFrame(self.taps, self.num_in, self.num_out, len(self.reads))

    @cached_property
    def pairs(self) -> Pairs:
        """The same as lists of pairs, made when first asked for."""
        forward = len(self.reads) == 1
        table, limit = (self.reads[0], self.num_in) if forward else (self.feeds[0], self.num_out)
        others = table.rows.t()  # (K, m)
        there = others < limit
        column, own = there.nonzero().unbind(1)  # (P,), (P,), one column after the other
        counts = torch.bincount(column, minlength=len(table.taps))  # of each column
        places = torch.arange(len(own), device=own.device) - (counts.cumsum(0) - counts)[column]
        rows = own.new_full((2, self.taps, int(counts.max())), -1, dtype=torch.int32)
        taps = table.taps[column]
        rows[int(not forward), taps, places] = others[there]
        rows[int(forward), taps, places] = own.int()
        by_tap = torch.zeros_like(counts).index_copy_(0, table.taps, counts)
        return Pairs(rows, by_tap.int(), len(own))


def submanifold_map(sites: Sites, kernel: int) -> KernelMap:
    """Map of a centred convolution of `kernel` 1 or 3 and stride 1, at the voxels of its input."""
    return sites.kept(("submanifold", kernel), lambda: _submanifold_map(sites, kernel))


def coarse_sites(sites: Sites) -> Sites:
    """Cells of twice the edge that hold a voxel: unique floor(coord / 2)."""
    return sites.kept("coarse", lambda: _coarse_sites(sites))


def kept_scaling_map(sites: Sites, kernel: int) -> KernelMap:
    """Map of a convolution of stride 2 from some voxels to their `coarse_sites`."""
    return sites.kept(("scaling", kernel), lambda: scaling_map(sites, coarse_sites(sites), kernel))


def scaling_map(fine: Sites, coarse: Sites, kernel: int) -> KernelMap:
    """Map of a convolution of stride 2 from `fine` to `coarse`; reversed, of the transposed one.

    A coarse voxel c meets 2c-1..2c+1 with kernel 3, 2c..2c+3 with kernel 4.
    """
    first = -(kernel % 2)
    # filled from the side of the coarse voxels, whose table is an eighth of that of the fine ones
    down = torch.full(
        (coarse.num + 1, kernel**3), fine.num, dtype=torch.int32, device=fine.device
    )  # (M + 1, K), the last row for what meets nothing
    finder = RowFinder(coarse)
    image, places = fine.coords[:, 0], fine.coords[:, 1:]
    odd = places % 2  # (N, 3)
    kind = odd[:, 0] * 4 + odd[:, 1] * 2 + odd[:, 2]  # (N,)
    up = []
    for number, bits in enumerate(product((0, 1), repeat=3)):
        # Along an axis fine = 2 * coarse + first + tap, so half of the taps fit a fine voxel.
        ways = [
            [(tap, (bit - first - tap) // 2) for tap in range(kernel) if (bit - first - tap) % 2 == 0]
            for bit in bits
        ]
        pairs = list(product(*ways))
        numbers = torch.tensor([(i * kernel + j) * kernel + k for (i, _), (j, _), (k, _) in pairs])
        taps = numbers.to(fine.device, non_blocking=True)
        steps: list[Step] = [(x, y, z) for (_, x), (_, y), (_, z) in pairs]
        into = (kind == number).nonzero()[:, 0]  # (m,)
        cells = places.index_select(0, into) // 2  # (m, 3)
        rows = finder.rows(image.index_select(0, into), cells, steps)  # (m, k)
        down[rows.long(), taps] = into.int()[:, None]
        up.append(Table(rows, taps, into))
    every = torch.arange(kernel**3, device=fine.device)
    return KernelMap(kernel**3, fine.num, coarse.num, (Table(down[:-1], every, None),), tuple(up))


def child_sites(coarse: Sites, within: Tensor | None) -> Sites:
    """All voxels 2c + {0..3} of half the edge around the voxels c, inside the grid of twice the side.

    Args:
        within: (B, 2S, 2S, 2S) bool, the voxels that are allowed; None for all.

    Raises:
        ShapeError: `within` is of another size.
    """
    side = coarse.side
    wanted = (coarse.batch_size, 2 * side, 2 * side, 2 * side)
    if within is not None and within.shape != wanted:
        raise ShapeError(
            f"voxels of half the edge: the limits are {tuple(within.shape)}; they must be {wanted}.",
            hint="pass a mask of the finer level",
        )
    cells = _cells(coarse.coords, list(product((0, 1), repeat=3)))
    cells = cells[(cells[:, 1:] < side).all(1)]
    keys = unique_keys(linear_keys(cells, side))  # (D,)
    cells = Sites.of_keys(keys, side, coarse.batch_size).coords * cells.new_tensor([1, 2, 2, 2])
    children = linear_keys(_cells(cells, list(product((0, 1), repeat=3))), 2 * side)  # (8 D,)
    if within is not None:
        children = children[within.reshape(-1).index_select(0, children)]
    return Sites.of_keys(children.sort().values, 2 * side, coarse.batch_size)


class RowFinder:
    """Finds rows of voxels by their place: in a table of all cells, or by search where voxels are few.

    Args:
        tight: cover the box around the voxels and one cell on each side only; places asked for must be there.
    """

    def __init__(self, sites: Sites, *, tight: bool = False) -> None:
        self.low, high = [0, 0, 0], [sites.side - 1] * 3
        if tight and sites.num:
            places = sites.coords[:, 1:]
            self.low, high = torch.stack([places.amin(0), places.amax(0)]).tolist()
        # One cell before and one behind each line; a place behind that falls on the one before the next line.
        wide, deep, tall = (last - first + 3 for first, last in zip(self.low, high, strict=True))
        self.strides = (wide * deep * tall, deep * tall, tall)  # of image, x and y
        self.num = sites.num
        cells = sites.batch_size * self.strides[0] + self.strides[1] + self.strides[2] + 1
        self.kind = torch.int32 if cells < INT32_LIMIT else torch.int64
        self.own = self._cell(sites.coords[:, 0], sites.coords[:, 1:])  # (N,) ascending
        self.table: Tensor | None = None
        if cells <= sites.num * CELLS_PER_ROW:
            self.table = torch.full((cells,), self.num, dtype=torch.int32, device=sites.device)
            self.table[self.own.long()] = torch.arange(self.num, dtype=torch.int32, device=sites.device)

    def rows(self, image: Tensor, places: Tensor, steps: Sequence[Step]) -> Tensor:
        """Rows of the voxels at `places + steps`, (m, k) int32; N where there is no voxel.

        Args:
            image: (m,) image of each place.
            places: (m, 3), such that -1 <= x, y, z <= S + 1 after each step.
            steps: k steps.
        """
        _, of_x, of_y = self.strides
        jumps = torch.tensor([x * of_x + y * of_y + z for x, y, z in steps], dtype=self.kind)
        jumps = jumps.to(self.own.device, non_blocking=True)
        start = self._cell(image, places)  # (m,)
        out = torch.empty(len(start), len(steps), dtype=torch.int32, device=start.device)
        some = max(1, AT_ONCE // len(steps))
        for part, found in zip(torch.split(start, some), torch.split(out, some), strict=True):
            found.copy_(self._rows(part[:, None] + jumps))  # (b, k)
        return out

    def _rows(self, cells: Tensor) -> Tensor:
        if self.table is not None:
            return self.table.index_select(0, cells.view(-1)).view(cells.shape)
        if not self.num:
            return torch.zeros_like(cells, dtype=torch.int32)
        found = torch.searchsorted(self.own, cells, out_int32=True)
        nearest = self.own.index_select(0, found.clamp(max=self.num - 1).view(-1)).view(cells.shape)
        return found.masked_fill_(nearest != cells, self.num)

    def _cell(self, image: Tensor, places: Tensor) -> Tensor:
        x, y, z = (places.to(self.kind)[:, axis] + (1 - low) for axis, low in enumerate(self.low))
        of_image, of_x, of_y = self.strides
        return image.to(self.kind) * of_image + x * of_x + y * of_y + z


def _submanifold_map(sites: Sites, kernel: int) -> KernelMap:
    assert kernel in (1, 3), kernel
    steps: list[Step] = list(product(range(-(kernel // 2), kernel // 2 + 1), repeat=3))
    taps = torch.arange(len(steps), device=sites.device)
    rows = RowFinder(sites, tight=True).rows(sites.coords[:, 0], sites.coords[:, 1:], steps)  # (N, K)
    # Who reads a voxel through a tap lies where the voxel itself reads through the mirrored tap.
    reads, feeds = Table(rows, taps, None), Table(rows, taps.flip(0), None)
    return KernelMap(len(taps), sites.num, sites.num, (reads,), (feeds,))


def _coarse_sites(sites: Sites) -> Sites:
    if sites.side % 2:
        raise ShapeError(
            f"cells of twice the edge: the grid has {sites.side} voxels along an axis; it must be even.",
            hint="use a grid whose side is a power of two",
        )
    image, places = sites.coords[:, :1], sites.coords[:, 1:]
    keys = linear_keys(torch.cat([image, places // 2], 1), sites.side // 2)
    return Sites.of_keys(unique_keys(keys), sites.side // 2, sites.batch_size)


def _cells(coords: Tensor, steps: Sequence[Step]) -> Tensor:
    """Every voxel after every step, (N * k, 4)."""
    jumps = torch.tensor([(0, *step) for step in steps], dtype=coords.dtype)
    return (coords[:, None] + jumps.to(coords.device, non_blocking=True)).view(-1, 4)
