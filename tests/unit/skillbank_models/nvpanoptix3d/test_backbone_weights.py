"""Backbone weights: the public layout in its wrappings, other grids, other files."""

import logging

import pytest
import torch
from nvpanoptix3d_tiny import TINY

from skillbank.errors import InvalidValueError, NotFoundError
from skillbank.specs._nvpanoptix3d_model import Backbone
from skillbank_models.nvpanoptix3d.backbone_weights import load_backbone
from skillbank_models.nvpanoptix3d.vggt.build import build_vggt
from skillbank_models.nvpanoptix3d.vggt.patch_embedding import resize_positions

KEY = "model.backbone.pretrained_model_path"
SIZES = TINY["model"]["backbone"]["vggt"]
POSITIONS = "aggregator.patch_embed.pos_embed"


def build(seed, **changes):
    torch.manual_seed(seed)
    block = Backbone.model_validate({"vggt": {**SIZES, **changes}})
    return build_vggt(block, frozen=True, use_checkpoint=False).eval()


def same(net, other):
    theirs = other.state_dict()
    return all(torch.equal(item, theirs[name]) for name, item in net.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.backbone.", "module.model."])
def test_public_file_in_its_wrappings(tmp_path, caplog, prefix):
    source, net = build(0), build(1)
    tensors = {prefix + name: item for name, item in source.state_dict().items()}
    for extra in ("point_head.norm.weight", "track_head.tracker.bias"):
        tensors[prefix + extra] = torch.zeros(3)
    torch.save(tensors, tmp_path / "vggt.pt")
    assert not same(net, source)
    with caplog.at_level(logging.INFO):
        report = load_backbone(net, tmp_path / "vggt.pt", key=KEY)
    count = len(source.state_dict())
    assert same(net, source)
    assert report.is_exact
    assert f"loaded {count} of {count} tensors" in caplog.text
    assert "head" not in caplog.text


def test_heads_that_a_whole_network_adds_are_told(tmp_path, caplog):
    source, net = build(0), build(1)
    tensors = {f"model.backbone.{name}": item for name, item in source.state_dict().items()}
    tensors["model.sem_seg_head.predictor.weight"] = torch.zeros(2)
    torch.save({"state_dict": tensors}, tmp_path / "whole.pth")
    with caplog.at_level(logging.INFO):
        report = load_backbone(net, tmp_path / "whole.pth", key=KEY)
    assert same(net, source)
    assert report.unexpected == ("sem_seg_head.predictor.weight",)


def test_position_table_of_another_grid(tmp_path, caplog):
    source, net = build(0, position_grid=5), build(1)
    torch.save(source.state_dict(), tmp_path / "vggt.pt")
    with caplog.at_level(logging.INFO):
        report = load_backbone(net, tmp_path / "vggt.pt", key=KEY)
    assert report.is_exact
    assert "resized from 5 x 5 to 8 x 8" in caplog.text
    wanted = resize_positions(source.state_dict()[POSITIONS], (8, 8))
    torch.testing.assert_close(net.state_dict()[POSITIONS], wanted)


def test_deeper_backbone_takes_what_fits_and_says_what_is_missing(tmp_path, caplog):
    source, net = build(0), build(1, depth=5)
    torch.save(source.state_dict(), tmp_path / "vggt.pt")
    with caplog.at_level(logging.WARNING):
        report = load_backbone(net, tmp_path / "vggt.pt", key=KEY)
    assert len(report.missing) == 36  # one pair of blocks with 18 tensors each
    assert "36 missing: aggregator.frame_blocks.4." in caplog.text


def test_other_files_are_refused(tmp_path):
    net = build(1)
    before = {name: item.clone() for name, item in net.state_dict().items()}
    torch.save(build(0, embed_dim=48, num_heads=3).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(InvalidValueError, match=r"model of another size.*aggregator") as caught:
        load_backbone(net, tmp_path / "wide.pt", key=KEY)
    assert caught.value.key == KEY
    torch.save({"layer1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(InvalidValueError, match=r"only 0%.*another architecture"):
        load_backbone(net, tmp_path / "resnet.pth", key=KEY)
    with pytest.raises(NotFoundError, match="no file"):
        load_backbone(net, tmp_path / "absent.pt", key=KEY)
    assert all(torch.equal(item, before[name]) for name, item in net.state_dict().items())


def test_a_backbone_without_memory_takes_over_the_tensors(tmp_path):
    source = build(0)
    torch.save(source.state_dict(), tmp_path / "vggt.pt")
    with torch.device("meta"):
        net = build(1)
    load_backbone(net, tmp_path / "vggt.pt", key=KEY)
    assert same(net, source)
    images = torch.rand(1, 3, 84, 112)
    with torch.no_grad():  # nothing that the file lacks was left without memory
        torch.testing.assert_close(net(images).taps[3], source(images).taps[3])
