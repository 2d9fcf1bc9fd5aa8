"""The sparse part of the frustum decoder against the same network on full grids, in turn in one process.

    python tests/bench/bench_sparse_unet.py [--side 128, a multiple of 16] [--rounds 3]

A U-Net of three resolutions with the blocks and channels of the decoder (16 to 48), on the surfaces of a
furnished room: about 2 % of the cells. Prints a JSON list: inference with both backends, and a training step
with the torch backend. Each round has new voxels, so that finding neighbours is counted. Training steps are
on a grid of three quarters of the side, for the memory and time that full grids take. All on one thread: with
more, waiting for other work on the machine would count against the network of many small steps.
"""

import argparse
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skillbank.errors import BackendError
from skillbank_models.nvpanoptix3d.frustum_blocks import (
    DenseBlock,
    DenseUp,
    SparseBlock,
    sparse_norm,
    sparse_relu,
)
from skillbank_models.sparse.backend import use_backend
from skillbank_models.sparse.functional import lookup, prune, to_dense, union
from skillbank_models.sparse.layers import GenerativeConv3d, SparseLinear, SubmanifoldConv3d
from skillbank_models.sparse.spconv_backend import check_spconv
from skillbank_models.sparse.tensor import Sites, SparseTensor

ALLOWED = "0.2"
log = logging.getLogger(__name__)


def room(side: int, seed: int) -> Sites:
    """Surfaces one cell thick: floor, ceiling, two walls and ten pieces of furniture."""
    generator = torch.Generator().manual_seed(seed)
    filled = torch.zeros(side, side, side, dtype=torch.bool)
    low, high = side // 6, side - side // 6
    filled[low:high, low, low:high] = filled[low:high, high, low:high] = True
    filled[low, low:high, low:high] = filled[low:high, low:high, high] = True
    for _ in range(10):
        corner = low + (torch.rand(3, generator=generator) * (high - low) * 0.7).long()
        size = 3 + (torch.rand(3, generator=generator) * side * 0.2).long()
        box = tuple(slice(int(a), int(a + b)) for a, b in zip(corner, size, strict=True))
        inner = tuple(slice(part.start + 1, part.stop - 1) for part in box)
        solid = torch.zeros_like(filled)
        solid[box] = True
        solid[inner] = False
        filled |= solid
    return Sites.of(torch.nn.functional.pad(filled.nonzero(), (1, 0)), side, 1)


class SparseNetwork(nn.Module):
    """On voxels; after each up-sampling the cells near the surface are pruned to the surface."""

    def __init__(self) -> None:
        super().__init__()
        self.start = SparseBlock(16, 16, norm="instance")
        self.middle = self._stage(16, 16)
        self.bottom = self._stage(16, 32)
        self.up_half = GenerativeConv3d(in_channels=32, out_channels=32)
        self.norm_half = sparse_norm("instance", 32)
        self.near_half = SparseBlock(32, 32, norm="instance")
        self.occupied_half = SparseLinear(in_channels=32, out_channels=1)
        self.joined = SparseBlock(48, 48, norm="instance")
        self.up_full = GenerativeConv3d(in_channels=48, out_channels=16)
        self.norm_full = sparse_norm("instance", 16)
        self.near_full = SparseBlock(16, 16, norm="instance")
        self.occupied_full = SubmanifoldConv3d(in_channels=16, out_channels=1)
        self.geometry_block = SparseBlock(16, 16, norm="instance")
        self.geometry = SubmanifoldConv3d(in_channels=16, out_channels=1)

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        down = SparseBlock(inputs, outputs, stride=2, norm="instance")
        return nn.Sequential(down, SparseBlock(outputs, outputs, norm="instance"))

    def forward(self, x: SparseTensor) -> list[Tensor]:
        """Voxels (N, 16) to occupancy at half side, occupancy, and geometry."""
        full = self.start(x)
        half = self.middle(full)
        y = self.near_half(sparse_relu(self.norm_half(self.up_half(self.bottom(half)))))
        coarse = self.occupied_half(y)
        y = self.joined(union([prune(y, lookup(half.sites, y.coords) >= 0), half]))
        y = sparse_relu(self.norm_full(self.up_full(y)))
        fine = self.occupied_full(self.near_full(y))
        kept = prune(y, lookup(full.sites, y.coords) >= 0)
        return [coarse.features, fine.features, self.geometry(self.geometry_block(kept)).features]


class DenseNetwork(nn.Module):
    """The same on full grids."""

    def __init__(self) -> None:
        super().__init__()
        self.start = DenseBlock(16, 16, norm="instance")
        self.middle = self._stage(16, 16)
        self.bottom = self._stage(16, 32)
        self.up_half = DenseUp(32, 32, norm="instance")
        self.near_half = DenseBlock(32, 32, norm="instance")
        self.occupied_half = nn.Conv3d(32, 1, 1)
        self.joined = DenseBlock(48, 48, norm="instance")
        self.up_full = DenseUp(48, 16, norm="instance")
        self.near_full = DenseBlock(16, 16, norm="instance")
        self.occupied_full = nn.Conv3d(16, 1, 3, padding=1, bias=False)
        self.geometry_block = DenseBlock(16, 16, norm="instance")
        self.geometry = nn.Conv3d(16, 1, 3, padding=1, bias=False)

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        down = DenseBlock(inputs, outputs, stride=2, norm="instance")
        return nn.Sequential(down, DenseBlock(outputs, outputs, norm="instance"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(1, 16, S, S, S) to occupancy at half side, occupancy, and geometry."""
        half = self.middle(self.start(x))
        y = self.near_half(self.up_half(self.bottom(half)))
        coarse = self.occupied_half(y)
        y = self.up_full(self.joined(torch.cat([y, half], 1)))
        fine = self.occupied_full(self.near_full(y))
        return [coarse, fine, self.geometry(self.geometry_block(y))]


def seconds(network: nn.Module, x: SparseTensor | Tensor, train: bool) -> float:
    """Wall time of one pass, with its backward pass when training."""
    gc.collect()
    if isinstance(x, SparseTensor):
        x = SparseTensor(x.features, Sites(x.coords, x.side, x.batch_size))  # nothing known about neighbours
    start = time.perf_counter()
    with torch.set_grad_enabled(train):
        outputs = network(x)
        if train:
            sum(out.square().mean() for out in outputs).backward()
    taken = time.perf_counter() - start
    network.zero_grad()
    return taken


def row(name: str, side: int, rounds: int, *, backend: str, train: bool) -> dict[str, object]:
    """Sparse and dense in turn."""
    torch.manual_seed(0)
    sparse, dense = SparseNetwork(), DenseNetwork()
    found = []
    with use_backend(backend):
        for number in range(rounds + 1):
            sites = room(side, number)
            x = SparseTensor(torch.randn(sites.num, 16), sites)
            found.append((seconds(sparse, x, train), seconds(dense, to_dense(x), train)))
    found = found[1:]  # the first round pays for memory and kernels
    share = sites.num / side**3
    return {
        "name": f"sparse U-Net, {name}, side {side}, {share:.1%} occupied, against full grids",
        "command": "bench_sparse_unet.py",
        "median_s": statistics.median(ours for ours, _ in found),
        "reference_s": statistics.median(theirs for _, theirs in found),
        "ratio": statistics.median(ours / theirs for ours, theirs in found),
        "allowed": "" if backend == "spconv" else ALLOWED,  # which auto does not take on a CPU
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given, _ = parser.parse_known_args()
    side, rounds = given.side, given.rounds
    torch.set_num_threads(1)
    cases: list[Callable[[], dict[str, object]]] = [
        lambda: row("torch backend", side, rounds, backend="torch", train=False),
        lambda: row("training, torch backend", side * 3 // 4, rounds, backend="torch", train=True),
    ]
    try:
        check_spconv()
        cases.insert(1, lambda: row("spconv backend", side, rounds, backend="spconv", train=False))
    except BackendError as error:
        log.warning("no row for spconv: %s", error)
    print(json.dumps([case() for case in cases]))


if __name__ == "__main__":
    main()
