"""The 2D part of a tiny network as ONNX: names, sizes, numbers, and checkpoints of both stages.

Exporting takes some ten seconds of a slow core each time, so one export of each stage serves all tests here.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deployed_cases import pictures, results, shaken, stage_spec
from scene_cases import tiny_spec

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, SpecError
from skillbank_models.nvpanoptix3d.deployed import ImageFile, open_image
from skillbank_models.nvpanoptix3d.depth_projector import StageTwoProjector
from skillbank_models.nvpanoptix3d.export import content_size, export, gen_trt_engine
from skillbank_models.nvpanoptix3d.graph_facts import mark_of
from skillbank_models.nvpanoptix3d.image_model import build_image_model
from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule
from skillbank_models.weights.files import FACTS
from skillbank_models.weights.writing import write_torch

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SHAPES = {
    "pred_logits": ["batch", 12, 14],
    "pred_masks": ["batch", 12, 64, 80],
    "pred_depths": ["batch", 1, 64, 80],
    "encoder_features": ["batch", 64, 24, 32],
    "segm_decoder_out": ["batch", 12, 32],
    "occupancy_preds": ["batch", 25, 60, 80],
    "enc_feat_0": ["batch", 32, 3, 4],
    "enc_feat_1": ["batch", 32, 6, 8],
    "enc_feat_2": ["batch", 32, 12, 16],
    "ori_pred_masks": ["batch", 12, 24, 32],
    "orig_pad_shape": [2],
    "ori_pred_depths": ["batch", 1, 84, 112],
    "pose_enc": ["batch", 9],
}


@dataclass
class Context:
    """What an action gets; keeps what it is told."""

    folder: Path
    action: str = "export"
    network: str = "nvpanoptix3d"
    job_id: str = "job"
    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    said: list[str] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status(self):
        return self

    def running(self, message, **fields):
        self.said.append(message)

    def register(self, path, kind, **more):
        assert path.is_file()
        self.files.append((path.name, kind))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    return shaken(build_image_model(tiny_spec(), activation_checkpoint=False))


@pytest.fixture(scope="module")
def projector():
    torch.manual_seed(3)
    return shaken(StageTwoProjector(in_channels=32, out_channels=32))


@pytest.fixture(scope="module")
def checkpoints(network, projector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    image = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    more = {f"model.projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    marks = {"skillbank": {"network": "nvpanoptix3d"}}
    write_torch(folder / "one.pth", {"state_dict": image, **marks})
    marks[FACTS] = {"camera_is_trained": True}
    write_torch(folder / "two.pth", {"state_dict": {**image, **more}, **marks})
    return folder


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {"batch_inputs": images.numpy()})
    return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    context = Context(folder)
    spec = tiny_spec(
        "export",
        export__checkpoint=str(checkpoints / "two.pth"),
        export__onnx_file_2d=str(folder / "new" / "model_2d.onnx"),
    )
    export(spec, context)
    return folder / "new" / "model_2d.onnx", context


def test_names_and_sizes_are_those_of_the_documents(exported):
    path, context = exported
    report = json.loads(path.with_name("model_2d.onnx.report.json").read_text())
    assert {item["name"]: item["shape"] for item in report["outputs"]} == SHAPES
    assert [item["name"] for item in report["outputs"]] == list(SHAPES)
    assert report["inputs"] == [{"name": "batch_inputs", "dtype": "float", "shape": ["batch", 3, 128, 160]}]
    assert report["custom_operators"] == []
    assert report["opset"] == 17
    assert report["metadata"]["content_size"] == "[120, 160]"
    assert [row["inputs"]["batch_inputs"][0] for row in report["comparison"]["samples"]] == [1, 2]
    # float32 through some forty layers; a wrong operator is off by more than 0.01
    assert max(report["comparison"]["max_abs_diff"].values()) < 2e-3
    assert context.files == [("model_2d.onnx.report.json", "report")]
    assert "largest difference to torch" in context.said[-1]


def test_the_file_answers_as_the_network(exported, network, projector):
    images = torch.rand(3, 3, 128, 160, generator=torch.Generator().manual_seed(5)) * 255
    found = run(exported[0], images)
    with torch.no_grad():
        wanted = network(images, all_layers=False, sizes=[(120, 160)] * 3)
        masks = wanted.predictions.mask_logits()
        half = F.interpolate(masks, (64, 80), mode="bilinear", align_corners=False)
        features = wanted.predictions.mask_features
        depth = projector(wanted.depth_features, features.shape[-2:])
    assert found["orig_pad_shape"].tolist() == [128, 160]
    pairs = {
        "pred_logits": wanted.predictions.class_logits[-1],
        "pred_masks": half,
        "ori_pred_masks": masks,
        "pred_depths": F.interpolate(wanted.depth[:, None], (64, 80), mode="bilinear", align_corners=False),
        "encoder_features": torch.cat([features, depth], 1),
        "segm_decoder_out": wanted.queries,
        "occupancy_preds": wanted.occupancy,
        "ori_pred_depths": wanted.depth[:, None],
        "pose_enc": wanted.pose,
        **{f"enc_feat_{number}": level for number, level in enumerate(wanted.levels)},
    }
    assert set(pairs) | {"orig_pad_shape"} == set(found)
    # a mask logit that rounding carries over zero moves all numbers of its query a little
    asked = {"pred_logits", "pred_masks", "ori_pred_masks", "segm_decoder_out"}
    for name, value in pairs.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0.1 if name in asked else 1e-3, msg=name)
    assert wanted.predictions.class_logits.std() > 0.5  # so that 0.1 is little


def test_the_volume_behind_the_file_is_that_behind_the_network(exported, network, projector):
    spec = stage_spec()
    module = NVPanoptix3DModule(spec).eval()
    weights = {f"projector.{name}": value for name, value in projector.state_dict().items()}
    module.model.load_state_dict({**network.state_dict(), **weights}, strict=False)
    image, wanted = results(module, pictures())
    file = ImageFile(exported[0], Path("two.pth"), mark_of(module.model.state_dict()))
    module._deployed = open_image(file, spec=spec, device=CPU)
    assert module._deployed.camera_is_trained
    assert module._deployed.categories.used
    found_image, found = results(module, pictures())
    torch.testing.assert_close(found_image.pose, image.pose, rtol=0, atol=1e-3)
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.segments
        assert (ours.segment_map != theirs.segment_map).sum() <= 5  # of 4800 pixels, at borders
        np.testing.assert_allclose(ours.depth, theirs.depth, atol=1e-3)
        assert (theirs.panoptic_volume > 0).any()
        assert (ours.panoptic_volume == theirs.panoptic_volume).mean() > 0.999
        assert (abs(ours.geometry - theirs.geometry) < 1e-2).mean() > 0.999
    with pytest.raises(ConflictError, match="do not belong together"):
        open_image(file._replace(mark="another"), spec=spec, device=CPU)


def test_a_checkpoint_of_stage_one_has_no_features_for_the_volume(checkpoints, tmp_path, caplog):
    context = Context(tmp_path)
    spec = tiny_spec(
        "export",
        export__checkpoint=str(checkpoints / "one.pth"),
        export__onnx_file=str(tmp_path / "model.onnx"),
        export__batch_size=1,
        export__input_height=120,
        export__input_channel=1,
        export__opset_version=18,
    )
    with caplog.at_level(logging.WARNING):
        export(spec, context)
    assert "is of stage 1, which has no projector" in caplog.text
    report = json.loads((tmp_path / "model.onnx.report.json").read_text())
    wanted = {name: [1 if size == "batch" else size for size in shape] for name, shape in SHAPES.items()}
    del wanted["encoder_features"], wanted["pose_enc"]  # nor a camera head that has learnt
    assert {item["name"]: item["shape"] for item in report["outputs"]} == wanted
    assert report["inputs"][0]["shape"] == [1, 1, 120, 160]
    assert report["opset"] == 18


def test_inputs_as_loaders_pad_them_hold_a_smaller_picture():
    spec = tiny_spec("export")
    assert content_size(spec, (128, 160)) == (120, 160)
    assert content_size(spec, (120, 160)) == (120, 160)
    assert content_size(spec, (256, 320)) == (256, 320)
    full = tiny_spec("export", base={}, dataset__augmentation={"size_divisibility": -1})
    assert content_size(full, (256, 320)) == (240, 320)


def test_wrong_settings_are_told_all_at_once(tmp_path):
    with pytest.raises(SpecError) as caught:
        export(tiny_spec("export", export__batch_size=0, export__format="xdl"), Context(tmp_path))
    text = str(caught.value)
    assert "export.checkpoint: nothing is given" in text
    assert "export.onnx_file_2d: nothing is given" in text
    assert "export.batch_size: 0 images" in text
    assert "export.format: 'xdl' is not written" in text


def test_a_projector_of_another_width_is_refused(checkpoints, tmp_path):
    spec = tiny_spec(
        "export",
        model__sem_seg_head__depth_dim=16,
        export__checkpoint=str(checkpoints / "two.pth"),
        export__onnx_file_2d=str(tmp_path / "model.onnx"),
    )
    with pytest.raises(InvalidValueError, match=r"export.checkpoint: only .* of the tensors are in"):
        export(spec, Context(tmp_path))


def test_an_engine_needs_its_files_named(tmp_path):
    with pytest.raises(MissingValueError, match=r"gen_trt_engine.onnx_file: nothing is given"):
        gen_trt_engine(tiny_spec("gen_trt_engine"), Context(tmp_path, action="gen_trt_engine"))
