"""Where activations are recomputed, tables of neighbours are not kept either."""

import gc
import weakref

import torch
from torch.utils.checkpoint import checkpoint

from skillbank_models.sparse.kernel_maps import submanifold_map
from skillbank_models.sparse.layers import SubmanifoldConv3d
from skillbank_models.sparse.tensor import Sites, SparseTensor


def test_tables_are_dropped_between_the_passes_and_gradients_stay_the_same() -> None:
    torch.manual_seed(0)
    sites = Sites.of((torch.rand(1, 6, 6, 6) > 0.5).nonzero(), 6, 1)
    layer = SubmanifoldConv3d(in_channels=3, out_channels=3)
    features = torch.randn(sites.num, 3, requires_grad=True)
    tables: list[weakref.ref[torch.Tensor]] = []

    def convolved(rows: torch.Tensor) -> torch.Tensor:
        own = sites.without_tables()
        found = layer(SparseTensor(rows, own)).features
        tables.append(weakref.ref(submanifold_map(own, 3).reads[0].rows))
        return found

    out = checkpoint(convolved, features, use_reentrant=False)
    gc.collect()
    assert tables[0]() is None
    out.sin().sum().backward()
    again = features.detach().requires_grad_()
    layer(SparseTensor(again, sites)).features.sin().sum().backward()
    torch.testing.assert_close(features.grad, again.grad)


def test_sites_without_tables_are_the_same_voxels() -> None:
    sites = Sites.of(torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]]), 4, 2)
    own = sites.without_tables()
    assert own is not sites
    assert own.coords is sites.coords
    assert (own.side, own.batch_size) == (4, 2)
    assert submanifold_map(own, 3) is not submanifold_map(sites, 3)
