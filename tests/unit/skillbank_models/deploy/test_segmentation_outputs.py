from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from skillbank.errors import InvalidValueError
from skillbank_models.deploy.comparison import Tolerance
from skillbank_models.deploy.onnx_file import Axis, OnnxPlan, export_onnx
from skillbank_models.deploy.segmentation_outputs import OUTPUTS, graph_outputs
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.ops.exported_masks import segment_exported
from skillbank_models.ops.postprocess import segment_image

QUERIES, CLASSES, WIDTH = 7, 3, 4
IS_THING = torch.tensor([True, False, True])


class Outputs(nn.Module):
    """The outputs alone, behind a stand-in for the network that costs nothing to export."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.stem = nn.Conv2d(3, WIDTH, 4, 4)
        self.embeds = nn.Parameter(torch.randn(QUERIES, WIDTH) * 4)
        self.classes = nn.Parameter(torch.randn(QUERIES, CLASSES + 1) * 2)

    def predict(self, inputs: Tensor) -> MaskPredictions:
        features = self.stem(inputs)
        shift = features.mean((2, 3))[:, None]  # (B, 1, C), so that images differ
        embeds = self.embeds + shift  # (B, Q, C)
        return MaskPredictions((self.classes + shift)[None], embeds[None], features)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        size = (inputs.shape[2], inputs.shape[3])
        return graph_outputs(self.predict(inputs), size, mode=self.mode, topk=12)


@pytest.mark.parametrize("mode", list(OUTPUTS))
def test_every_mode_exports_with_open_batch_and_size(tmp_path, mode):
    torch.manual_seed(5)
    module = Outputs(mode)
    tolerance = Tolerance(absolute=1e-4, share=0.0)
    if mode == "instance":
        tolerance = replace(tolerance, ranked=OUTPUTS[mode][:4], row_keys=("pred_queries", "pred_classes"))
    report = export_onnx(
        module,
        OnnxPlan(
            path=tmp_path / f"{mode}.onnx",
            inputs={"inputs": torch.zeros(2, 3, 64, 64)},
            outputs=OUTPUTS[mode],
            axes={"inputs": {0: Axis("batch"), 2: Axis("height", 32), 3: Axis("width", 32)}},
            batch="batch",
            opset=17,
            metadata={},
            samples=[{"inputs": torch.randn(count, 3, *size)} for count, *size in [(1, 64, 64), (3, 32, 96)]],
            tolerance=tolerance,
        ),
    )
    assert [item["name"] for item in report["outputs"]] == list(OUTPUTS[mode])
    assert {item["shape"][0] for item in report["outputs"]} == {"batch"}
    assert report["outputs"][0]["shape"][2:] == ["height", "width"]
    assert report["custom_operators"] == []
    assert report["opset"] == 17
    assert max(report["comparison"]["max_abs_diff"].values()) < 1e-5  # float32, values of order 1


@pytest.mark.parametrize("mode", ["instance", "panoptic"])
def test_results_from_the_outputs_are_those_of_the_network(mode):
    """At the size of the graph nothing is resized, so both ways must agree in every pixel."""
    torch.manual_seed(1)
    module = Outputs(mode).eval()
    images = torch.randn(1, 3, 64, 96) * 3
    with torch.no_grad():
        predictions = module.predict(images)
        found = {name: tensor[0] for name, tensor in zip(OUTPUTS[mode], module(images), strict=True)}
    found["keep"] = found["pred_scores"] > found["class_probs"][..., -1] if mode == "panoptic" else None
    size = {"content": (64, 96), "original": (64, 96)}
    rules = {"mode": mode, "is_thing": IS_THING, "object_mask_threshold": 0.1, "overlap_threshold": 0.1}
    wanted = segment_image(
        predictions.class_logits[-1, 0],
        predictions.mask_logits()[0],
        padded=(64, 96),
        topk=12,
        **size,
        **rules,
    )
    result = segment_exported(
        {name: value for name, value in found.items() if value is not None}, **size, **rules
    )
    if mode == "panoptic":
        assert torch.equal(result.panoptic.segment_map, wanted.panoptic.segment_map)
        assert [item.label for item in result.panoptic.segments] == [
            item.label for item in wanted.panoptic.segments
        ]
        assert len(wanted.panoptic.segments) > 1
    else:
        assert torch.equal(result.instances.labels, wanted.instances.labels)
        assert torch.equal(result.instances.masks, wanted.instances.masks)
        torch.testing.assert_close(result.instances.scores, wanted.instances.scores, atol=1e-6, rtol=0)
        assert len(wanted.instances.labels) > 1


def test_an_unknown_mode_is_refused():
    predictions = Outputs("semantic").predict(torch.zeros(1, 3, 32, 32))
    with pytest.raises(
        InvalidValueError, match="'depth' cannot be exported; use semantic, instance, panoptic"
    ):
        graph_outputs(predictions, (32, 32), mode="depth", topk=1)
