"""Weights of both stages: what a backbone file brings, and settings that no tensor tells."""

import logging

import pytest
import torch
from scene_cases import tiny_spec

from skillbank_models.nvpanoptix3d.data import categories_of
from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule
from skillbank_models.nvpanoptix3d.weights import load_weights, start_weights


@pytest.mark.parametrize("whole", [True, False])
def test_a_camera_head_counts_as_trained_only_when_the_file_has_it(tmp_path, caplog, whole):
    path = tmp_path / "vggt.pt"
    spec = tiny_spec(model__backbone__pretrained_model_path=str(path))
    module = NVPanoptix3DModule(spec)
    tensors = module.model.backbone.state_dict()
    torch.save({k: v for k, v in tensors.items() if whole or not k.startswith("camera_head.")}, path)
    with caplog.at_level(logging.WARNING):
        start_weights(module, spec)
    assert module.camera_is_trained is whole
    assert ("no whole camera head" in caplog.text) is not whole


def test_another_grid_is_told(tmp_path, caplog):
    """No tensor tells the side of the grid, and at another one every distance is that of other voxels."""
    spec = tiny_spec("evaluate", dataset__enable_3d=True, evaluate__checkpoint="x.pth")
    module = NVPanoptix3DModule(spec)
    module._categories = categories_of(spec)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "stage2.pth")
    with caplog.at_level(logging.WARNING):
        load_weights(module, tmp_path / "stage2.pth", spec)
    assert not caplog.text
    other = tiny_spec(
        "evaluate",
        dataset__enable_3d=True,
        evaluate__checkpoint="x.pth",
        model__frustum3d__grid_dimensions=128,
        model__frustum3d__frustum_dims=128,
    )
    with caplog.at_level(logging.WARNING):
        load_weights(NVPanoptix3DModule(other), tmp_path / "stage2.pth", other)
    assert "grid_dimensions=64 and now works with 128" in caplog.text
