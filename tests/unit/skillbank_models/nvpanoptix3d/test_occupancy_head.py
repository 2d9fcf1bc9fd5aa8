"""Occupancy along rays: the published form against its description, and what the reduced form keeps of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skillbank_models.nvpanoptix3d.occupancy_head import OccupancyHead

SMALL = {
    "in_channels": (4, 6, 8, 10),
    "channels": (16, 8, 8, 6, 4),
    "fusion_channels": 2,
    "bins": 5,
    "plane": (9, 12),
}
FULL = {
    "in_channels": (256, 512, 1024, 2048),
    "channels": (1024, 512, 256, 128, 64),
    "fusion_channels": 16,
    "bins": 100,
    "plane": (120, 160),
}
FULL_SIZES = ((104, 128), (52, 64), (26, 32), (13, 16))


def build(variant, settings=SMALL):
    torch.manual_seed(0)
    head = OccupancyHead(variant=variant, **settings).eval()
    for norm in head.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.2)
    return head


def maps(finest=(12, 16), batch=2):
    draw = torch.Generator().manual_seed(1)
    sizes = [(finest[0] >> step, finest[1] >> step) for step in range(4)]
    channels = SMALL["in_channels"]
    return [torch.randn(batch, c, *size, generator=draw) for c, size in zip(channels, sizes, strict=True)]


class Plain:
    """The published head as its description says, in float64."""

    def __init__(self, head):
        self.weights = {name: value.double() for name, value in head.state_dict().items()}

    def conv(self, x, name, bias=None):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def norm(self, x, name):
        mean, var, weight, bias = (
            self.weights[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def unit(self, x, name, size):
        x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        a = self.norm(self.conv(x, f"{name}.main.0"), f"{name}.main.1").relu()
        a = self.norm(self.conv(a, f"{name}.main.3"), f"{name}.main.4")
        return (a + self.norm(self.conv(x, f"{name}.side.0"), f"{name}.side.1")).relu()

    def __call__(self, given):
        res2, res3, res4, res5 = (x.double() for x in given)
        finest = (2 * res2.shape[-2], 2 * res2.shape[-1])
        x = self.norm(self.conv(res5, "entry.0"), "entry.1").relu()
        for place, size in enumerate((res4.shape[-2:], res3.shape[-2:], res2.shape[-2:], finest)):
            x = self.unit(x, f"path.{place}", size)
        direct = [self.unit(y, f"direct.{i}", finest) for i, y in enumerate((res2, res3, res4, res5))]
        fused = self.norm(self.conv(torch.cat(direct, 1), "fuse.0"), "fuse.1").relu()
        x = self.unit(torch.cat([x, fused], 1), "plane_unit", SMALL["plane"])
        x = self.norm(self.conv(x, "predict.0"), "predict.1").relu()
        x = self.norm(self.conv(x, "predict.3"), "predict.4").relu()
        return self.conv(x, "predict.6", self.weights["predict.6.bias"])


def test_the_published_form_follows_its_description():
    head, given = build("published"), maps()
    # float32 through a dozen layers against float64
    torch.testing.assert_close(head(given, None).double(), Plain(head)(given), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["published", "reduced"])
def test_the_plane_comes_out_and_everything_learns(variant):
    head = build(variant).train()
    found = head(maps(), [(0.75, 1.0), (0.75, 1.0)])
    assert found.shape == (2, 5, 9, 12)
    found.square().mean().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def reach(variant):
    """Pixels of each map that one bin of the middle pixel depends on."""
    head = build(variant, {**SMALL, "plane": (60, 80)})
    with torch.no_grad():
        for module in head.modules():  # only positive factors, so that nothing cancels
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1.0 / module.weight[0].numel())
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.fill_(1.0)
                module.bias.fill_(1.0)
    given = [x.abs().requires_grad_() for x in maps((96, 128), batch=1)]
    head(given, None)[0, 0, 30, 40].backward()
    boxes = []
    for x in given:
        rows, columns = (x.grad[0].sum(0) > 0).nonzero().unbind(1)
        boxes.append([int(v) for v in (rows.min(), rows.max(), columns.min(), columns.max())])
    return torch.tensor(boxes)


def test_both_forms_see_equally_far():
    # resizing by corners or by pixel centres moves an edge by at most one pixel for each of five enlargements
    difference = (reach("published") - reach("reduced")).abs()
    assert difference.max() <= 2
    assert (reach("reduced")[0, 1] - reach("reduced")[0, 0]) > 20


def test_the_reduced_form_costs_a_tenth():
    found = {}
    for variant in ("published", "reduced"):
        with torch.device("meta"):
            head = OccupancyHead(variant=variant, **FULL).eval()
            given = [
                torch.empty(1, c, *size) for c, size in zip(FULL["in_channels"], FULL_SIZES, strict=True)
            ]
        with FlopCounterMode(display=False) as counter:
            assert head(given, [(240 / 256, 1.0)]).shape == (1, 100, 120, 160)
        found[variant] = counter.get_total_flops() / 1e9, sum(p.numel() for p in head.parameters()) / 1e6
    assert found["published"] == pytest.approx((611, 45.3), rel=0.005)  # section 12 of the description
    assert found["reduced"][0] <= 61.1


def test_the_reduced_form_looks_at_the_image_and_not_at_its_padding():
    given = maps((96, 16))
    changed = [given[0].clone(), *given[1:]]
    changed[0][:, :, 60:] += 1  # far below the first quarter
    content = [(0.25, 1.0)] * 2
    reduced = build("reduced")
    torch.testing.assert_close(reduced(changed, content), reduced(given, content))
    assert (reduced(changed, None) - reduced(given, None)).abs().max() > 1e-3
    published = build("published")
    torch.testing.assert_close(published(given, content), published(given, None))


def test_images_of_one_batch_may_be_padded_differently():
    head, given = build("reduced"), maps()
    shares = [(0.5, 1.0), (1.0, 0.75)]
    together = head(given, shares)
    for image, share in enumerate(shares):
        alone = head([x[image : image + 1] for x in given], [share])
        torch.testing.assert_close(together[image : image + 1], alone, rtol=1e-4, atol=1e-5)


def test_widths_of_one_are_enough():
    head = OccupancyHead(
        in_channels=(1, 1, 1, 1),
        channels=(1,) * 5,
        fusion_channels=1,
        bins=2,
        plane=(3, 4),
        variant="reduced",
    )
    given = [torch.randn(2, 1, 8 >> step, 8 >> step) for step in range(4)]
    assert head(given, None).shape == (2, 2, 3, 4)
