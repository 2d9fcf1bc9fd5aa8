"""Features that voxels share against a row for each voxel."""

import pytest
import torch

from skillbank_models.nvpanoptix3d.shared_features import SharedFeatures, shared_convolution
from skillbank_models.sparse.layers import SubmanifoldConv3d
from skillbank_models.sparse.tensor import Sites


@pytest.fixture
def shared() -> SharedFeatures:
    random = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, 8, 8, 8, generator=random) > 0.7).nonzero()
    sites = Sites.of(coords, 8, 2)
    table = torch.randn(11, 6, generator=random, dtype=torch.float64)
    return SharedFeatures(table, torch.randint(0, 11, (sites.num,), generator=random), sites)


def test_reads_like_a_sparse_tensor(shared: SharedFeatures) -> None:
    spread = shared.spread()
    assert torch.equal(shared.features, shared.table[shared.rows])
    assert torch.equal(spread.features, shared.features)
    assert (shared.side, shared.batch_size) == (spread.side, spread.batch_size) == (8, 2)
    assert shared.coords is spread.coords
    keep = shared.coords[:, 0] == 1
    fewer = Sites(shared.coords[keep], 8, 2)
    assert torch.equal(shared.moved(keep, fewer).features, shared.features[keep])
    assert shared.to("cpu").rows is shared.rows


def test_convolution_and_gradients_are_those_of_the_spread_rows(shared: SharedFeatures) -> None:
    torch.manual_seed(0)
    layer = SubmanifoldConv3d(in_channels=6, out_channels=3).double()
    table = shared.table.requires_grad_()
    found = []
    for convolved in (shared_convolution(shared, layer), layer(shared.spread())):
        table.grad = layer.weight.grad = None
        convolved.features.sin().sum().backward()
        found.append((convolved.features, table.grad, layer.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        # float64, sums in another order
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
