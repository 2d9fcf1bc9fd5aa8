"""Depth maps to decoder levels: order, sizes, and the arithmetic of one projection."""

import torch
import torch.nn.functional as F

from skillbank_models.nvpanoptix3d.depth_projector import DepthProjector, StageTwoProjector


def random_norm(module):
    with torch.no_grad():
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
        module.norm.weight.normal_()
        module.norm.bias.normal_()


def test_a_projection_follows_the_description():
    torch.manual_seed(0)
    block = StageTwoProjector(in_channels=4, out_channels=6).eval()
    random_norm(block)
    x = torch.randn(2, 4, 6, 8)
    found = block(x, (5, 7))
    w = {name: value.double() for name, value in block.state_dict().items() if "num" not in name}
    y = F.conv2d(x.double(), w["conv.weight"], w["conv.bias"], stride=2, padding=1)
    y = (y - w["norm.running_mean"].view(-1, 1, 1)) / (w["norm.running_var"] + 1e-5).sqrt().view(-1, 1, 1)
    y = (y * w["norm.weight"].view(-1, 1, 1) + w["norm.bias"].view(-1, 1, 1)).clamp(min=0)
    y = F.interpolate(y, (5, 7), mode="bilinear", align_corners=False)
    y = F.conv2d(y, w["out.weight"], w["out.bias"])
    torch.testing.assert_close(found.double(), y, rtol=1e-4, atol=1e-5)  # float32 against float64


def test_levels_come_from_the_coarsest_maps_first():
    torch.manual_seed(0)
    projector = DepthProjector(in_channels=4, out_channels=6, num_levels=3).eval()
    maps = [torch.randn(1, 4, *size) for size in ((48, 64), (24, 32), (12, 16), (6, 8))]
    sizes = [(3, 4), (6, 8), (12, 16)]
    before = projector(maps, sizes)
    assert [tuple(level.shape) for level in before] == [(1, 6, 3, 4), (1, 6, 6, 8), (1, 6, 12, 16)]
    for changed, level in ((1, 2), (2, 1), (3, 0)):
        other = [x + (place == changed) for place, x in enumerate(maps)]
        after = projector(other, sizes)
        assert [bool((a != b).any()) for a, b in zip(after, before, strict=True)] == [
            place == level for place in range(3)
        ]
    unused = [maps[0] + 1, *maps[1:]]
    assert all(torch.equal(a, b) for a, b in zip(projector(unused, sizes), before, strict=True))
