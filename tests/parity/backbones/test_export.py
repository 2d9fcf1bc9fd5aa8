"""Backbones as ONNX files with free batch and image size, run by ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skillbank.specs.mask2former import Backbone
from skillbank_models.layers.backbones import build_backbone

SWIN = {"embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4, "ape": True}
TOLERANCE = 1e-5  # of the largest value of a map: float32 sums in another order


class Maps(nn.Module):
    """The maps as a tuple, which is what a graph gives."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(images).values())


@pytest.mark.parametrize("kind", ["swin", "efficientvit"])
def test_any_batch_and_size_after_export(kind: str, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    block: dict[str, Any] = {"type": kind, "swin": SWIN, "efficientvit": {"name": "b0"}}
    net = Maps(build_backbone(Backbone.model_validate(block), use_checkpoint=False)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    free = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        program = torch.onnx.export(
            net, (torch.randn(2, 3, 64, 96),), dynamo=True, verbose=False, input_names=["images"],
            dynamic_shapes={"images": {0: free, 2: free, 3: free}}, opset_version=18,
        )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    # one window for the coarsest map, several on either axis, several on both, and padding everywhere
    for batch, height, width in [(1, 64, 64), (3, 64, 288), (1, 288, 64), (2, 192, 160), (1, 101, 147)]:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = net(images)
        found = session.run(None, {"images": images.numpy()})
        assert len(found) == 4
        for mine, other in zip(found, expected, strict=True):
            assert abs(torch.from_numpy(mine) - other).max() < TOLERANCE * other.abs().max(), (height, width)
