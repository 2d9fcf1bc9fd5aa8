"""The training module: what is frozen, and when 2D outputs are kept."""

import logging

import pytest
import torch
from scene_cases import tiny_spec

from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule


def stage_2(**dotted):
    return tiny_spec(dataset__enable_3d=True, train__checkpoint_2d="stage1.pth", **dotted)


@pytest.mark.parametrize(
    ("strategy", "world", "kept"), [("fsdp", 2, False), ("fsdp", 1, True), ("ddp", 2, True)]
)
def test_2d_outputs_are_not_kept_where_processes_need_each_other(tmp_path, caplog, strategy, world, kept):
    """With fsdp a process that computes what another one reads would wait for it for ever."""
    spec = stage_2(dataset__cache_dir=str(tmp_path), train__distributed_strategy=strategy)
    with caplog.at_level(logging.WARNING):
        found = NVPanoptix3DModule(spec)._image_cache(world)
    assert (found is not None) is kept
    assert ("fsdp" in caplog.text) is not kept
    assert NVPanoptix3DModule(stage_2())._image_cache(world) is None


def test_only_the_3d_part_learns_in_stage_2():
    """Running means of the frozen part rest as well, whoever calls `train`."""
    module = NVPanoptix3DModule(stage_2())
    module.eval()
    module.train()
    parts = {name: part for name, part in module.model.named_children() if name != "lifting"}
    assert set(parts) == {"backbone", "sem_seg_head", "projector", "completion"}
    for name, part in parts.items():
        learns = name in {"projector", "completion"}
        if name != "backbone":
            assert all(parameter.requires_grad is learns for parameter in part.parameters()), name
        assert all(inner.training is learns for inner in part.modules()), name
    assert not any(parameter.requires_grad for parameter in parts["backbone"].parameters())
    norms = [part for part in module.model.sem_seg_head.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
