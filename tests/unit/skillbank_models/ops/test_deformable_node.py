"""Deformable attention as the node of TensorRT's plug-in."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxscript")

from skillbank.errors import BackendError
from skillbank_models.deploy.comparison import Tolerance
from skillbank_models.deploy.onnx_file import Axis, OnnxPlan, export_onnx
from skillbank_models.layers.deformable_attention import MultiScaleDeformableAttention
from skillbank_models.ops import _deformable_node

SHAPES = [(4, 8), (2, 4)]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiScaleDeformableAttention(
            dim=16, num_levels=2, nheads=2, num_points=3, deterministic=False
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        reference = torch.full((tokens.shape[1], 2), 0.5)
        return (self.attention(tokens, reference, tokens, SHAPES),)


def _plan(path, *, custom):
    return OnnxPlan(
        path=path,
        inputs={"tokens": torch.zeros(2, 40, 16)},
        outputs=("mixed",),
        axes={"tokens": {0: Axis("batch")}},
        batch="batch",
        opset=17,
        metadata={},
        samples=[{"tokens": torch.randn(1, 40, 16)}],
        tolerance=Tolerance(absolute=1e-4, share=0.0),
        prefix="",
        custom_operators=custom,
    )


def test_the_node_has_the_inputs_of_the_plug_in(tmp_path):
    path = tmp_path / "node.onnx"
    with _deformable_node.writing_nodes():
        report = export_onnx(Layer(), _plan(path, custom=True))
    model = onnx.load(path)
    (node,) = [node for node in model.graph.node if node.domain]
    assert (node.domain, node.op_type) == ("trt.plugins", "MultiscaleDeformableAttnPlugin_TRT")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    value, sizes, starts, locations, weights = node.input
    assert constants[sizes].dtype == constants[starts].dtype == "int32"  # the plug-in takes no others
    assert constants[sizes].tolist() == [[4, 8], [2, 4]]
    assert constants[starts].tolist() == [0, 32]
    assert {value, locations, weights}.isdisjoint(constants)
    assert "GridSample" not in report["operators"]
    assert report["custom_operators"] == ["trt.plugins::MultiscaleDeformableAttnPlugin_TRT"]
    assert not report["comparison"]["done"]
    assert "runs in TensorRT only" in report["comparison"]["reason"]


def test_a_file_that_must_be_standard_refuses_the_node(tmp_path):
    with (
        _deformable_node.writing_nodes(),
        pytest.raises(
            BackendError, match="MultiscaleDeformableAttnPlugin_TRT, which are no standard operators"
        ),
    ):
        export_onnx(Layer(), _plan(tmp_path / "node.onnx", custom=False))
    assert list(tmp_path.iterdir()) == []


def test_outside_of_the_context_nothing_changes():
    assert not _deformable_node.is_wanted()
    tokens = torch.randn(1, 40, 16)
    layer = Layer().eval()
    (wanted,) = layer(tokens)
    with _deformable_node.writing_nodes():
        assert _deformable_node.is_wanted()
        (found,) = layer(tokens)  # not exporting: the arithmetic runs
    torch.testing.assert_close(found, wanted, atol=0, rtol=0)
