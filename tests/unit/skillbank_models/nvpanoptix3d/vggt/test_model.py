"""VGGT as a whole: sizes, what is frozen, what is taught, precision and export."""

import math
import warnings

import pytest
import torch
from nvpanoptix3d_tiny import TINY
from torch import nn

from skillbank.errors import InvalidValueError
from skillbank.specs._nvpanoptix3d_model import Backbone
from skillbank_models.nvpanoptix3d.vggt.build import build_vggt
from skillbank_models.nvpanoptix3d.vggt.model import intrinsics_of_pose

SIZES = TINY["model"]["backbone"]["vggt"]


def build(*, frozen=False, use_checkpoint=False, **changes):
    torch.manual_seed(0)
    block = Backbone.model_validate({"vggt": {**SIZES, **changes}})
    return build_vggt(block, frozen=frozen, use_checkpoint=use_checkpoint)


def disturb(net):
    """Away from small scales, which hide what is not connected."""
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return net


def pictures(batch=2, height=128, width=160):
    return 255 * torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def run(net, images):
    x = net.resize(images)
    features = net(x)
    depth, maps = net.depth(features, x.shape[-2:])
    return features, depth, maps, net.pose(features)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((256, 320), (364, 448)), ((240, 320), (336, 448)), ((480, 640), (336, 448)), ((32, 640), (28, 448)),
     ((16, 900), (14, 448)), ((640, 480), (602, 448))],
)  # fmt: skip
def test_images_are_resized_to_whole_patches(size, resized):
    with torch.device("meta"):
        net = build(image_width=448, embed_dim=8)
    assert net.resized(*size) == resized
    assert net.grid_of(*size) == (resized[0] // 14, 32)


def test_shapes_and_ranges():
    net = build().eval()
    images = pictures()
    resized = net.resize(images)
    assert resized.shape == (2, 3, 84, 112)
    assert 0 <= resized.min() < 0.2 < 0.8 < resized.max() <= 1
    features, depth, maps, pose = run(net, images)
    assert features.grid == (6, 8) == net.grid_of(128, 160)
    assert [tuple(tap.shape) for tap in features.taps] == [(2, 48, 64)] * 4
    assert features.camera_token.shape == (2, 64)
    assert depth.shape == (2, 84, 112)
    assert (depth > 0).all()
    assert [tuple(item.shape) for item in maps] == [(2, 32, 6 * n, 8 * n) for n in (8, 4, 2, 1)]
    assert pose.shape == (2, 9)
    assert (pose[:, 7:] >= 0).all()


def test_images_of_a_batch_do_not_see_each_other():
    net = disturb(build().eval())
    images = pictures(3)
    with torch.no_grad():
        together = run(net, images)
        alone = [run(net, images[place : place + 1]) for place in range(3)]
    for tap in range(4):
        found = torch.cat([one[0].taps[tap] for one in alone])
        torch.testing.assert_close(together[0].taps[tap], found, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1], torch.cat([one[1] for one in alone]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(together[3], torch.cat([one[3] for one in alone]), rtol=1e-4, atol=1e-4)


def test_taps_choose_the_pairs():
    net = disturb(build(depth=6, intermediate_layers=[0, 2, 3, 5]).eval())
    other = disturb(build(depth=6, intermediate_layers=[2, 3, 4, 5]).eval())
    images = net.resize(pictures())
    with torch.no_grad():
        first, second = net(images).taps, other(images).taps
    assert torch.equal(first[1], second[0])
    assert torch.equal(first[2], second[1])
    assert torch.equal(first[3], second[3])
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_frozen_has_no_gradient_and_stays_in_evaluation_mode(frozen):
    net = build(frozen=frozen).train()
    assert not net.camera_head.training
    assert net.aggregator.training is not frozen
    assert net.aggregator.patch_embed.blocks[0].training is not frozen
    assert net.depth_head.training
    features, depth, _, pose = run(net, pictures())
    assert features.taps[0].requires_grad is not frozen
    assert not pose.requires_grad
    depth.log().sum().backward()
    for name, parameter in net.named_parameters():
        root = name.split(".")[0]
        taught = root == "depth_head" or (root == "aggregator" and not frozen and "mask_token" not in name)
        assert parameter.requires_grad is taught, name
        assert (parameter.grad is not None) is taught, name


def test_no_parameter_is_left_without_gradient_behind_the_last_tap():
    net = build(depth=6, intermediate_layers=[0, 1, 2, 3]).train()
    _, depth, _, _ = run(net, pictures())
    depth.log().sum().backward()
    left = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert left == []
    behind = [p for block in net.aggregator.frame_blocks[4:] for p in block.parameters()]
    assert behind
    assert not any(p.requires_grad for p in behind)


def test_recomputed_blocks_give_the_same_gradients():
    found = []
    for use_checkpoint in (False, True):
        net = disturb(build(use_checkpoint=use_checkpoint)).train()
        run(net, pictures())[1].log().mean().backward()
        found.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert len(found[0]) == len(found[1]) > 100
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_near_and_depth_and_pose_stay_single():
    net = disturb(build().eval())
    with torch.no_grad():
        net.depth_head.scratch.output_conv2[2].weight.mul_(0.05)  # depths of some metres, as trained
        _, depth, _, pose = run(net, pictures())
        with torch.autocast("cpu", torch.bfloat16):
            _, near, maps, near_pose = run(net, pictures())
    assert near.dtype == near_pose.dtype == torch.float32
    assert maps[0].dtype == torch.bfloat16
    assert not torch.equal(near, depth)
    torch.testing.assert_close(near, depth, rtol=0.1, atol=0)  # 8 bits through some ten layers
    torch.testing.assert_close(near_pose, pose, rtol=0.1, atol=0.1)


def test_trains_under_bfloat16():
    net = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        run(net, pictures())[1].log().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


def test_depth_can_be_learned():
    net = build().train()
    images = pictures()
    wanted = torch.linspace(1, 4, 112).expand(2, 84, 112)
    steps = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(30):
        loss = (run(net, images)[1] - wanted).abs().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_intrinsics_from_fields_of_view():
    down, across = 2 * math.atan(120 / 277.0), 2 * math.atan(160 / 277.0)
    pose = torch.tensor([[0, 0, 0, 0, 0, 0, 1, down, across], [0, 0, 0, 0, 0, 0, 1, 0.0, 4.0]])
    found = intrinsics_of_pose(pose, 240, 320)
    expected = torch.tensor([[277.0, 0, 160], [0, 277.0, 120], [0, 0, 1]])
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(intrinsics_of_pose(pose, 480, 640)[0, :2], 2 * expected[:2])
    assert found[1].isfinite().all()
    assert found[1, 0, 0] > 0


def test_sizes_that_do_not_fit_are_all_named():
    with pytest.raises(InvalidValueError) as caught:
        build(depth_channels=[16, 18, 32, 32], depth_features=20)
    text = str(caught.value)
    assert "depth_channels: [18]" in text
    assert "multiples of 4" in text
    assert "half of 20" in text


class _Outputs(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        _, depth, maps, pose = run(self.net, images)
        return depth, pose, *maps


@pytest.mark.parametrize("kept", [True, False])
def test_exported_graph_holds_finished_tables(kept):
    module = _Outputs(disturb(build(frozen=True)).eval())
    if kept:
        module.net.keep_positions(128, 160)
    images = pictures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        program = torch.export.export(
            module, (images,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}, strict=False
        )
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert torch.float64 not in {getattr(value, "dtype", None) for value in values}
    assert not [node for node in program.graph.nodes if "bicubic" in str(node.target)]
    table = next(node for node in program.graph.nodes if node.name.endswith("pos_embed"))
    assert (len(table.users) == 0) is kept
    with torch.no_grad():
        other = pictures(3)
        for mine, wanted in zip(program.module()(other), module(other), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
