"""The actions export and quantize on a tiny network: files that answer as the network does.

Exporting takes some ten seconds of a slow core each time, whatever the size of the network, so two exports
serve all tests here; the other modes are exported, without the network, in the unit tests of the outputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import pytest
import torch
from mask2former_machine import TINY
from shapes_data import make_shapes, split_of

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError
from skillbank.specs import network
from skillbank_models.mask2former.accuracy import TorchSegmenter, agreement, measure
from skillbank_models.mask2former.data import Mask2FormerData, categories_of
from skillbank_models.mask2former.deployed import open_segmenter
from skillbank_models.mask2former.export import export, gen_trt_engine, quantize
from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.weights import load_weights
from skillbank_models.weights.writing import write_torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@dataclass
class Context:
    """What an action gets; keeps what it is told."""

    folder: Path
    action: str = "export"
    network: str = "mask2former"
    job_id: str = "job"
    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    said: list[str] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    numbers: dict = field(default_factory=dict)

    @property
    def status(self):
        return self

    def running(self, message, **fields):
        self.said.append(message)

    def register(self, path, kind, **more):
        assert path.is_file()
        self.files.append((path.name, kind))

    def write_metrics(self, kpi, **more):
        self.numbers = {"after": dict(kpi), **more}

    def check_stop(self):
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(
        tmp_path_factory.mktemp("export") / "data", images=3, size=(60, 90), formats=["coco_panoptic"]
    )


@pytest.fixture(scope="module")
def spec_of(data):
    """A spec of an action; blocks are merged over the tiny ones."""

    def build(action, *, mode="panoptic", annotated=True, **blocks):
        split = split_of(data, "coco_panoptic", batch_size=2)
        dataset = {
            **TINY["dataset"],
            "type": "coco_panoptic",
            "train": split,
            "val": split if annotated else {},
            "test": {"img_dir": str(data / "images")},
            "label_map": str(data / "label_map_panoptic.json"),
            "augmentation": {"test_min_size": 60, "test_max_size": 90},
            "quant_calibration_dataset": {"images_dir": str(data / "images")},
        }
        model = json.loads(json.dumps(TINY["model"]))
        model["mode"] = mode
        model["object_mask_threshold"] = model["overlap_threshold"] = 0.0  # untrained, it is sure of nothing
        model["mask_former"]["dec_layers"] = 2
        model["sem_seg_head"]["num_classes"] = 8
        merged = {"model": model, "dataset": dataset, **blocks}
        return network("mask2former").actions[action].model_validate(merged)

    return build


@pytest.fixture(scope="module")
def checkpoint(spec_of, tmp_path_factory):
    """A network whose every parameter matters."""
    torch.manual_seed(2)
    net = build_model(spec_of("train").model, activation_checkpoint=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        head = net.sem_seg_head.predictor.class_embed
        head.weight.mul_(20)
        head.bias[-1] = -4.0  # else no-object wins everywhere
        net.sem_seg_head.predictor.mask_embed.layers[-1].weight.mul_(10)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    tensors = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
    write_torch(path, {"state_dict": tensors, "skillbank": {"network": "mask2former"}})
    return path


@pytest.fixture(scope="module")
def network_of(checkpoint):
    def load(spec, path=checkpoint):
        net = build_model(spec.model, activation_checkpoint=False)
        load_weights(net, path, spec)
        return TorchSegmenter(net, spec=spec, categories=categories_of(spec), device=CPU)

    return load


@pytest.fixture(scope="module")
def exported(spec_of, checkpoint, tmp_path_factory):
    """Batch, height and width open, as the action writes it."""
    folder = tmp_path_factory.mktemp("onnx")
    block = {
        "checkpoint": str(checkpoint),
        "onnx_file": str(folder / "new" / "model.onnx"),
        "input_height": 64,
        "input_width": 96,
        "dynamic_size": True,
    }
    context = Context(folder)
    export(spec_of("export", export=block), context)
    return folder / "new" / "model.onnx", context


@pytest.fixture(scope="module")
def quantised(spec_of, checkpoint, tmp_path_factory):
    """A checkpoint of a semantic model that became an ONNX file with 8-bit layers."""
    folder = tmp_path_factory.mktemp("int8")
    block = {
        "model_path": str(checkpoint),
        "mode": "static_ptq",
        "device": "cpu",
        "skip_names": ["class_embed"],
        "backend_kwargs": {"input_size": [64, 96], "images": 2},
    }
    spec = spec_of("quantize", mode="semantic", quantize=block)
    context = Context(folder, action="quantize")
    quantize(spec, context)
    return spec, folder / "model_quantised.onnx", context


def test_the_export_has_standard_operators_and_open_axes_only(exported):
    path, context = exported
    report = json.loads(path.with_name("model.onnx.report.json").read_text())
    assert report["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    assert {item["shape"][0] for item in report["outputs"]} == {"batch"}
    names = [item["name"] for item in report["outputs"]]
    assert names[:4] == ["prob_masks", "pred_masks", "pred_scores", "pred_classes"]
    assert report["outputs"][0]["shape"][2:] == ["height", "width"]
    assert report["custom_operators"] == []
    assert (report["opset_asked"], report["opset"]) == (12, 17)
    assert context.files == [("model.onnx.report.json", "report")]
    assert "largest difference to torch" in context.said[-1]


def test_the_export_compared_itself_at_two_batches_and_two_sizes(exported):
    report = json.loads(exported[0].with_name("model.onnx.report.json").read_text())
    shapes = [row["inputs"]["inputs"] for row in report["comparison"]["samples"]]
    assert shapes == [[1, 3, 64, 96], [2, 3, 64, 96], [1, 3, 32, 128]]
    # float32 through some forty layers; a wrong operator is off by more than 0.01
    assert max(report["comparison"]["max_abs_diff"].values()) < 1e-4


def test_the_file_gives_the_results_of_the_network(exported, spec_of, network_of):
    spec = spec_of("evaluate", evaluate={"checkpoint": "unused"})
    opened = open_segmenter(exported[0], spec=spec, categories=categories_of(spec), device=CPU)
    data = Mask2FormerData(spec)
    data.setup("validate")
    for batch in data.val_dataloader():
        for wanted, found in zip(network_of(spec)(batch), opened(batch), strict=True):
            assert wanted.panoptic.segments
            assert len(found.panoptic.segments) == len(wanted.panoptic.segments)
            # probabilities are resized instead of logits, which moves edges by a pixel
            same = found.panoptic.segment_map == wanted.panoptic.segment_map
            assert same.float().mean() > 0.98
            assert (found.class_map == wanted.class_map).float().mean() > 0.999


def test_a_spec_for_another_mode_is_refused(exported, spec_of):
    spec = spec_of("evaluate", mode="instance", evaluate={"checkpoint": "unused"})
    with pytest.raises(ConflictError, match="was exported with panoptic, the spec says instance"):
        open_segmenter(exported[0], spec=spec, categories=categories_of(spec), device=CPU)


def test_a_quantised_graph_is_smaller_and_close(quantised):
    _, path, context = quantised
    report = json.loads(path.with_name(f"{path.name}.report.json").read_text())
    assert report["library"] == "onnxruntime"
    assert "static_ptq is done by ONNX Runtime" in report["note"]
    assert report["calibration"] == {"method": "MinMax", "images": 2}
    assert report["ratio"] > 1.5  # a network this small is half names and shapes
    assert report["operators"]["QuantizeLinear"] > 20
    assert not any("class_embed" in name for name in report["layers"]["weights_and_inputs"])
    before, after = report["accuracy"]["before"], report["accuracy"]["after"]
    assert {"mIoU", "ACC_all"} <= set(before)
    assert context.numbers["after"] == after
    assert context.numbers["before"] == before
    assert abs(after["ACC_all"] - before["ACC_all"]) < 0.1
    assert context.files == [(path.name, "onnx"), (f"{path.name}.report.json", "report")]
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name, f"{path.name}.report.json"]


def test_a_quantised_graph_runs_like_any_other(quantised, network_of):
    spec, path, _ = quantised
    opened = open_segmenter(path, spec=spec, categories=categories_of(spec), device=CPU)
    numbers = measure(spec, opened, check_stop=lambda: None)
    report = json.loads(path.with_name(f"{path.name}.report.json").read_text())
    assert numbers == report["accuracy"]["after"]
    data = Mask2FormerData(spec)
    data.setup("validate")
    found = agreement(data.val_dataloader(), network_of(spec), opened)
    assert found["images"] == 3
    assert found["mean_pixel_agreement"] > 0.8
    assert {entry.domain for entry in onnx.load(path).opset_import} == {""}


def test_a_quantised_checkpoint_loads_and_is_close(spec_of, checkpoint, network_of, tmp_path):
    block = {"model_path": str(checkpoint), "device": "cpu"}
    context = Context(tmp_path, action="quantize")
    quantize(spec_of("quantize", annotated=False, quantize=block), context)
    path = tmp_path / "model_quantised.pth"
    assert context.files == [(path.name, "checkpoint"), (f"{path.name}.report.json", "report")]
    assert path.stat().st_size < checkpoint.stat().st_size / 1.8
    report = json.loads((tmp_path / f"{path.name}.report.json").read_text())
    assert report["ratio"] > 3
    assert "names no annotations, so accuracy was not measured" in report["agreement"]["note"]
    assert report["agreement"]["compared_on"] == "calibration images"
    assert report["agreement"]["mean_pixel_agreement"] > 0.9
    assert context.numbers == {}
    spec = spec_of("evaluate", evaluate={"checkpoint": str(path)})
    data = Mask2FormerData(spec)
    data.setup("validate")
    found = agreement(data.val_dataloader(), network_of(spec), network_of(spec, path))
    assert found["mean_pixel_agreement"] > 0.9
    assert len(report["layers"]) > 40


def test_bad_requests_are_refused_before_weights_are_read(spec_of, tmp_path):
    block = {"checkpoint": "absent.pth", "onnx_file": str(tmp_path / "x.onnx")}
    with pytest.raises(ConflictError, match=r"export\.dynamic_size"):
        export(spec_of("export", export={**block, "dynamic_size": True, "on_cpu": False}), Context(tmp_path))
    with pytest.raises(InvalidValueError, match="0 images cannot") as caught:
        export(spec_of("export", export={**block, "batch_size": 0}), Context(tmp_path))
    assert caught.value.hint
    with pytest.raises(MissingValueError, match=r"export\.checkpoint"):
        export(spec_of("export", export={"onnx_file": "x.onnx"}), Context(tmp_path))
    with pytest.raises(MissingValueError, match=r"gen_trt_engine\.trt_engine"):
        gen_trt_engine(spec_of("gen_trt_engine", gen_trt_engine={"onnx_file": "x.onnx"}), Context(tmp_path))
