"""A small network with the parts of a segmentation network that are hard to export, and its ONNX file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from skillbank_models.deploy.comparison import Tolerance
from skillbank_models.deploy.onnx_file import Axis, OnnxPlan, export_onnx


class Small(nn.Module):
    """Convolution, normalisation, sampling, attention with a cut weight, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.GroupNorm(2, 8)
        self.packed = nn.Parameter(torch.randn(24, 8) * 0.3)
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.norm(self.stem(inputs))
        height, width = maps.shape[-2:]
        tokens = maps.flatten(2).transpose(1, 2)
        query, key, value = (F.linear(tokens, part) for part in self.packed.split(8))
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        scores = self.head(mixed)  # (B, h w, 5)
        grid = torch.tanh(scores[..., :2]).unsqueeze(2)
        sampled = F.grid_sample(maps, grid, align_corners=False)  # (B, 8, h w, 1)
        lowest = sampled.mean((2, 3)).amax(1, keepdim=True)  # (B, 1)
        picture = scores.transpose(1, 2).reshape(inputs.shape[0], 5, height, width)
        size = (inputs.shape[2], inputs.shape[3])
        return F.interpolate(picture, size=size, mode="bilinear", align_corners=False), lowest


def plan(path: Path, *, opset: int = 17, dynamic_size: bool = False, batch: int = -1) -> OnnxPlan:
    axes = {0: Axis("batch")} if batch == -1 else {}
    if dynamic_size:
        axes |= {2: Axis("height", 32), 3: Axis("width", 32)}
    counts = (1, 3) if batch == -1 else (batch,)
    return OnnxPlan(
        path=path,
        inputs={"inputs": torch.zeros(2 if batch == -1 else batch, 3, 64 if dynamic_size else 32, 64)},
        outputs=("pred_masks", "lowest"),
        axes={"inputs": axes} if axes else {},
        batch="batch" if batch == -1 else None,
        opset=opset,
        metadata={"mode": "semantic"},
        samples=[{"inputs": torch.randn(count, 3, 32, 64)} for count in counts],
        tolerance=Tolerance(absolute=1e-4, share=0.0),
        prefix="",
    )


@pytest.fixture(scope="session")
def small() -> Small:
    torch.manual_seed(3)
    return Small().eval()


@pytest.fixture(scope="session")
def exported(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The file with an open batch, and the report of its export."""
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    return path, export_onnx(small, plan(path))


@pytest.fixture(scope="session")
def make_plan():
    return plan
