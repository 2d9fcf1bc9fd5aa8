"""The four normalisations of a fusion convolution, and batch statistics over two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from skillbank_models.layers.norms import ChannelLayerNorm, CrossProcessBatchNorm, NormedConv, build_norm

WORKER = """
import sys
import torch
import torch.distributed as dist
from skillbank_models.layers.norms import CrossProcessBatchNorm
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
state = torch.load(f"{folder}/start.pt", weights_only=True)
norm = CrossProcessBatchNorm(6)
norm.load_state_dict(state["norm"])
x = state["x"][:2] if rank == 0 else state["x"][2:]
x.requires_grad_()
out = norm(x)
(out * (state["g"][:2] if rank == 0 else state["g"][2:])).sum().backward()
torch.save({"out": out.detach(), "dx": x.grad, "dw": norm.weight.grad, "norm": norm.state_dict()},
           f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_statistics_of_two_processes_are_those_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    whole = torch.nn.BatchNorm2d(6)
    with torch.no_grad():
        whole.weight.normal_()
        whole.bias.normal_()
    x, g = torch.randn(5, 6, 3, 4) * 2 + 1, torch.randn(5, 6, 3, 4)  # uneven: 2 and 3 images
    torch.save({"norm": whole.state_dict(), "x": x, "g": g}, tmp_path / "start.pt")
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)], cwd=Path.cwd()) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x.requires_grad_()
    out = whole(x)
    (out * g).sum().backward()
    torch.testing.assert_close(torch.cat([part["out"] for part in parts]), out.detach())
    torch.testing.assert_close(torch.cat([part["dx"] for part in parts]), x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts[0]["dw"] + parts[1]["dw"], whole.weight.grad, rtol=1e-4, atol=1e-5)
    for part in parts:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(part["norm"][name], value)


def test_alone_it_is_batch_norm():
    torch.manual_seed(0)
    ours, theirs = CrossProcessBatchNorm(4), torch.nn.BatchNorm2d(4)
    x = torch.randn(3, 4, 2, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_group_of_one_process_is_batch_norm(tmp_path):
    torch.manual_seed(0)
    ours, theirs = CrossProcessBatchNorm(4), torch.nn.BatchNorm2d(4)
    x = torch.randn(3, 4, 2, 5)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_layer_norm_is_over_the_channels_of_each_pixel():
    x = torch.randn(2, 8, 3, 5) * 3 + 2
    found = ChannelLayerNorm(8)(x)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("GN", torch.nn.GroupNorm), ("LN", ChannelLayerNorm), ("SyncBN", torch.nn.SyncBatchNorm)],
)
def test_each_name_gives_its_norm(name, kind):
    norm = build_norm(name, 64)
    assert isinstance(norm, kind)
    assert getattr(norm, "num_groups", 32) == 32


@pytest.mark.parametrize(("name", "bias"), [("GN", False), ("LN", False), ("SyncBN", False), ("", True)])
def test_a_convolution_has_a_bias_only_without_norm(name, bias):
    conv = NormedConv(4, 32, kernel=3, norm=name, relu=True)
    assert (conv.bias is not None) == bias
    out = conv(torch.randn(2, 4, 5, 6))
    assert out.shape == (2, 32, 5, 6)
    assert out.min() == 0
