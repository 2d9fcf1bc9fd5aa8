"""Sparse layers against dense ones of torch at the same voxels, in float64, with gradients."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparse_cases import dense_weight, random_sites, random_tensor, values_at
from torch import nn

from skillbank_models.sparse.functional import to_dense
from skillbank_models.sparse.kernel_maps import coarse_sites
from skillbank_models.sparse.layers import (
    GenerativeConv3d,
    SparseInstanceNorm,
    SparseLinear,
    SparseVoxelNorm,
    StridedConv3d,
    SubmanifoldConv3d,
)
from skillbank_models.sparse.tensor import Sites, SparseTensor

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, sums of at most 64 * 10 products of order one
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

# Nothing, one voxel, a corner, few, many, all; images without a voxel come up among few.
shares = st.sampled_from([0.0, 0.005, 0.05, 0.3, 1.0])
channels = st.integers(1, 10)


def dense_of(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the layer would give with a voxel everywhere that `x` (B, C, S, S, S) is zero."""
    weight = dense_weight(layer.weight, layer.kernel)
    if isinstance(layer, SubmanifoldConv3d):
        return F.conv3d(x, weight, layer.bias, padding=layer.kernel // 2)
    if isinstance(layer, StridedConv3d) and layer.kernel == 3:
        return F.conv3d(x, weight, layer.bias, stride=2, padding=1)
    if isinstance(layer, StridedConv3d):
        return F.conv3d(F.pad(x, (0, 2) * 3), weight, layer.bias, stride=2)
    side = 2 * x.shape[-1]
    return F.conv_transpose3d(x, weight.transpose(0, 1), layer.bias, stride=2)[..., :side, :side, :side]


def check_against_dense(layer: nn.Module, sites: Sites, width: int, seed: int, **arguments) -> SparseTensor:
    layer = layer.double()
    x = random_tensor(sites, width, seed)
    out = layer(x, **arguments)
    wanted = dense_of(layer, to_dense(x))
    assert out.side == wanted.shape[-1]
    torch.testing.assert_close(to_dense(out), torch.where(at(out), wanted, 0), **EXACT)
    pull = torch.randn(wanted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    leaves = [x.features, *layer.parameters()]
    ours = torch.autograd.grad((to_dense(out) * pull).sum(), leaves)
    theirs = torch.autograd.grad((wanted * pull * at(out)).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        # weights: sums over up to 1024 voxels
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    return out


def at(x: SparseTensor) -> torch.Tensor:
    """(B, 1, S, S, S) bool, where there is a voxel."""
    return to_dense(SparseTensor(torch.ones(x.sites.num, 1), x.sites)).bool()


@FEW
@given(shares, channels, channels, st.booleans(), st.sampled_from([1, 3]), st.integers(0, 99))
def test_submanifold(share, width, out, bias, kernel, seed):
    sites = random_sites(8, 2, share, seed)
    layer = SubmanifoldConv3d(in_channels=width, out_channels=out, kernel=kernel, bias=bias)
    assert check_against_dense(layer, sites, width, seed).sites is sites


@FEW
@given(shares, channels, channels, st.booleans(), st.sampled_from([3, 4]), st.integers(0, 99))
def test_strided(share, width, out, bias, kernel, seed):
    sites = random_sites(8, 2, share, seed)
    layer = StridedConv3d(in_channels=width, out_channels=out, kernel=kernel, bias=bias)
    assert check_against_dense(layer, sites, width, seed).sites is coarse_sites(sites)


@FEW
@given(shares, channels, channels, st.booleans(), st.booleans(), st.integers(0, 99))
def test_generative(share, width, out, bias, limited, seed):
    sites = random_sites(4, 2, share, seed)
    generator = torch.Generator().manual_seed(seed)
    within = torch.rand(2, 8, 8, 8, generator=generator) < 0.5 if limited else None
    layer = GenerativeConv3d(in_channels=width, out_channels=out, bias=bias)
    found = check_against_dense(layer, sites, width, seed, within=within)
    ones = GenerativeConv3d(in_channels=1, out_channels=1)
    nn.init.ones_(ones.weight)
    reached = dense_of(ones, at(random_tensor(sites, 1)).float()) > 0
    assert torch.equal(at(found), reached if within is None else reached & within[:, None])


def test_a_wide_input_gives_the_same():
    sites = random_sites(6, 2, 0.2)
    check_against_dense(SubmanifoldConv3d(in_channels=300, out_channels=2), sites, 300, 0)
    check_against_dense(StridedConv3d(in_channels=300, out_channels=2, kernel=4), sites, 300, 0)
    check_against_dense(GenerativeConv3d(in_channels=300, out_channels=2), random_sites(4, 2, 0.1), 300, 0)


def test_many_blocks_give_the_same(monkeypatch):
    from skillbank_models.sparse import gather_backend, kernel_maps

    monkeypatch.setattr(gather_backend, "CPU_BLOCK", 1000)
    monkeypatch.setattr(kernel_maps, "AT_ONCE", 100)
    sites = random_sites(8, 2, 0.3)
    check_against_dense(SubmanifoldConv3d(in_channels=5, out_channels=7), sites, 5, 0)
    check_against_dense(SubmanifoldConv3d(in_channels=300, out_channels=2), sites, 300, 0)
    check_against_dense(GenerativeConv3d(in_channels=9, out_channels=3), random_sites(4, 2, 0.3), 9, 0)


def test_start_values_spread_like_those_of_torch():
    torch.manual_seed(0)
    ours = SubmanifoldConv3d(in_channels=8, out_channels=16, bias=True)
    dense = nn.Conv3d(8, 16, 3)
    assert ours.weight.std().item() == pytest.approx(dense.weight.std().item(), rel=0.05)
    assert ours.bias.abs().max() <= (8 * 27) ** -0.5
    made = GenerativeConv3d(in_channels=8, out_channels=16)
    assert made.weight.std().item() == pytest.approx((8 * 8 * 3) ** -0.5, rel=0.05)  # 8 taps meet a voxel


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_that_of_each_image_alone(affine):
    sites = Sites.of(torch.cat([random_sites(6, 2, 0.3).coords, torch.tensor([[3, 1, 2, 3]])]), 6, 4)
    assert sites.sizes[2:] == [0, 1]
    norm = SparseInstanceNorm(5, affine=affine).double()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = random_tensor(sites, 5)
    out = norm(x).features
    leaves = [x.features, *norm.parameters()]
    pull = torch.randn_like(out)
    wanted = []
    for rows in x.features.split(sites.sizes):
        if len(rows) > 1:
            wanted.append(F.instance_norm(rows.t()[None], None, None, norm.weight, norm.bias)[0].t())
        else:  # which torch refuses; the formula leaves the bias
            centred = rows - rows
            wanted.append(centred * norm.weight + norm.bias if affine else centred)
    wanted = torch.cat(wanted)
    torch.testing.assert_close(out, wanted, **EXACT)
    ours = torch.autograd.grad((out * pull).sum(), leaves)
    theirs = torch.autograd.grad((wanted * pull).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


def test_instance_norm_keeps_float32_statistics_in_half_precision():
    sites = random_sites(8, 2, 0.5)
    norm = SparseInstanceNorm(4, affine=True)
    rows = 100 + torch.randn(sites.num, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(SparseTensor(rows.bfloat16(), sites)).features
    assert out.dtype == torch.bfloat16
    exact = norm(SparseTensor(rows.bfloat16().float(), sites)).features
    # half of the last of 8 bits, relative; statistics in bfloat16 would be off by more than one
    torch.testing.assert_close(out.float(), exact, rtol=2**-8, atol=1e-6)
    assert [part.std().item() > 0.9 for part in exact.split(sites.sizes)] == [True, True]


def test_instance_norm_of_nothing_gives_every_parameter_a_gradient():
    norm = SparseInstanceNorm(4, affine=True)
    norm(random_tensor(random_sites(8, 2, 0.0), 4, dtype=torch.float32)).features.sum().backward()
    assert norm.weight.grad.tolist() == norm.bias.grad.tolist() == [0.0] * 4


def test_voxel_norm_is_over_the_channels_of_a_voxel():
    x = random_tensor(random_sites(), 6)
    found = SparseVoxelNorm(6)(x).features
    rows = x.features
    spread = rows.var(1, keepdim=True, correction=0)
    torch.testing.assert_close(found, (rows - rows.mean(1, keepdim=True)) / (spread + 1e-5).sqrt(), **EXACT)
    assert not list(SparseVoxelNorm(6).parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert SparseVoxelNorm(6)(x.with_features(rows.bfloat16())).features.dtype == torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    layer = SparseLinear(in_channels=6, out_channels=3, bias=bias).double()
    x = random_tensor(random_sites(), 6)
    torch.testing.assert_close(layer(x).features, F.linear(x.features, layer.weight, layer.bias), **EXACT)


def network() -> nn.Sequential:
    return nn.Sequential(
        SubmanifoldConv3d(in_channels=3, out_channels=8, bias=True),
        SparseInstanceNorm(8, affine=True),
        StridedConv3d(in_channels=8, out_channels=8, kernel=4, bias=True),
        GenerativeConv3d(in_channels=8, out_channels=4, bias=True),
        SparseVoxelNorm(4),
        StridedConv3d(in_channels=4, out_channels=4, kernel=3),
        SparseLinear(in_channels=4, out_channels=2),
    )


def test_nothing_goes_through_all_layers_and_all_parameters_get_a_gradient():
    x = random_tensor(random_sites(8, 2, 0.0), 3, dtype=torch.float32)
    layers = network()
    out = layers(x)
    assert (out.features.shape, out.side) == ((0, 2), 4)
    out.features.sum().backward()
    found = [parameter.grad for parameter in layers.parameters()]
    assert len(found) == 11
    assert not any(grad.any() for grad in found)
    assert x.features.grad.shape == (0, 3)


def test_autocast_computes_in_half_precision_close_to_float32():
    torch.manual_seed(0)
    x = random_tensor(random_sites(8, 2, 0.2), 3, dtype=torch.float32)
    layers = network()[:4]
    exact = layers(x).features
    exact.square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in layers.parameters()]
    layers.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        out = layers(x).features
    assert out.dtype == torch.bfloat16
    # two bits of eight are lost in three convolutions and a norm
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05 * exact.std().item())
    out.float().square().sum().backward()
    found = [parameter.grad for parameter in layers.parameters()]
    assert {grad.dtype for grad in found} == {torch.float32}
    ours, theirs = (torch.cat([grad.flatten() for grad in grads]) for grads in (found, wanted))
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.999


def test_images_of_a_batch_do_not_mix():
    both = random_tensor(random_sites(8, 2, 0.2), 3, dtype=torch.float32)
    layers = network()
    together = layers(both)
    for image, rows in enumerate(torch.arange(both.sites.num).split(both.sites.sizes)):
        coords = both.coords[rows].clone()
        coords[:, 0] = 0
        alone = layers(SparseTensor(both.features[rows], Sites.of(coords, 8, 1)))
        mine = together.features[together.coords[:, 0] == image]
        assert len(mine) > 10
        torch.testing.assert_close(alone.features, mine, rtol=1e-4, atol=1e-5)  # float32, sums of up to 200


def test_gradients_are_the_same_in_every_run():
    x = random_tensor(random_sites(8, 2, 0.3), 3, dtype=torch.float32)
    layers = network()
    runs = []
    for _ in range(2):
        layers.zero_grad()
        layers(x).features.square().sum().backward()
        runs.append([parameter.grad.clone() for parameter in layers.parameters()])
    assert all(
        torch.equal(a, b) for first, second in pairwise(runs) for a, b in zip(first, second, strict=True)
    )


def test_recomputed_activations_give_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    layers = network()
    grads = []
    for again in (False, True):
        x = random_tensor(random_sites(8, 2, 0.3), 3, dtype=torch.float32)
        out = checkpoint(layers, x, use_reentrant=False) if again else layers(x)
        grads.append(torch.autograd.grad(out.features.square().sum(), [x.features, *layers.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_values_by_hand():
    x = SparseTensor(
        torch.tensor([[1.0], [10.0]]), Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 1, 2]]), 4, 1)
    )
    layer = SubmanifoldConv3d(in_channels=1, out_channels=1)
    layer.weight.data = torch.arange(27.0).view(27, 1, 1)
    # (0,1,2) lies two cells away along z, beyond the reach of the kernel: only the central tap 13 is met
    assert layer(x).features.tolist() == [[13.0], [130.0]]
    down = StridedConv3d(in_channels=1, out_channels=1, kernel=4)
    down.weight.data = torch.arange(64.0).view(64, 1, 1)
    out = down(x)
    assert out.coords.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    # cell (0,0,0) reads tap (0,0,0) = 0 and tap (0,1,2) = 6; cell (0,0,1) reads tap (0,1,0) = 4
    assert out.features.tolist() == [[60.0], [40.0]]
    torch.testing.assert_close(values_at(to_dense(out), out.coords), out.features)
