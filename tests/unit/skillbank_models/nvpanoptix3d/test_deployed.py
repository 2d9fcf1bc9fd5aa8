"""A tiny stage-2 network whose 2D part runs as a file would: results, other sizes, and what is refused.

Writing an ONNX file takes a minute of a slow core, so the graph that is exported runs here as it is; the file
itself runs in tests/parity/nvpanoptix3d/test_export_image.py.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from deployed_cases import pictures, results, stage_spec, write_checkpoint

from skillbank.errors import ConflictError, InvalidValueError, MissingValueError, ShapeError
from skillbank_models.deploy.batches import run_in_batches
from skillbank_models.deploy.model_io import ModelInput
from skillbank_models.nvpanoptix3d import deployed as under_test
from skillbank_models.nvpanoptix3d.camera import FRONT3D_CAMERA
from skillbank_models.nvpanoptix3d.deployed import DeployedImage, load_engine, open_image
from skillbank_models.nvpanoptix3d.exported_image import ExportedImage
from skillbank_models.nvpanoptix3d.graph_facts import part_facts
from skillbank_models.nvpanoptix3d.module import NVPanoptix3DModule
from skillbank_models.nvpanoptix3d.weights import load_weights

CPU = torch.device("cpu")
ENGINE = Path("model_2d.engine")
CLASSES = [{"index": 2, "id": 7, "name": "seat", "isthing": 1, "color": [1, 2, 3]}]


class File:
    """The graph of a file that takes one image of 128 x 160 at a time, run by torch."""

    def __init__(self, graph, metadata, left_out=()):
        self.graph = graph
        self.inputs = {"batch_inputs": ModelInput.read("batch_inputs", (1, 3, 128, 160), torch.float32)}
        self.outputs = [name for name in graph.outputs if name not in left_out]
        self.metadata = metadata
        self.batch_size = 1
        self.input_size = (128, 160)

    def __call__(self, images):
        return run_in_batches(self._run, images, self.inputs, ENGINE)

    def _run(self, given):
        with torch.no_grad():
            found = dict(zip(self.graph.outputs, self.graph(given["batch_inputs"]), strict=True))
        return {name: found[name] for name in self.outputs}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "two.pth", seed=2)


@pytest.fixture(scope="module")
def own(checkpoint):
    """The network itself."""
    module = NVPanoptix3DModule(stage_spec())
    load_weights(module, checkpoint, stage_spec())
    return module.eval()


@pytest.fixture(scope="module")
def graph(own):
    torch.manual_seed(0)
    return ExportedImage(
        own.model, own.model.projector, size=(128, 160), content=(120, 160), camera=own.camera_is_trained
    ).eval()


@pytest.fixture(scope="module")
def metadata(own):
    facts = part_facts(stage_spec(), own.model.state_dict())
    classes = {"classes": json.dumps(CLASSES), "num_classes": "13"}
    return {"network": "nvpanoptix3d", "content_size": "[120, 160]", **classes, **facts}


@pytest.fixture
def file(graph, metadata, monkeypatch):
    """What is found under the name of the engine."""
    found = File(graph, dict(metadata))
    monkeypatch.setattr(under_test, "open_deployed", lambda path, device: found)
    return found


def opened(stage, checkpoint, **more):
    """A module behind the engine."""
    spec = stage_spec("evaluate", stage, evaluate__checkpoint=str(checkpoint), **more)
    module = NVPanoptix3DModule(spec)
    load_engine(module, ENGINE, spec)
    module._deployed = open_image(module.engine, spec=spec, device=CPU)
    return module.eval()


def test_volumes_behind_a_file_are_those_of_the_network(file, own, checkpoint):
    wanted_image, wanted = results(own, pictures())
    image, found = results(opened(2, checkpoint), pictures())
    torch.testing.assert_close(image.pose, wanted_image.pose, rtol=0, atol=1e-4)
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(theirs.segments) > 1
        assert (ours.segment_map != theirs.segment_map).sum() <= 3  # pixels; of equal queries either may win
        np.testing.assert_allclose(ours.depth, theirs.depth, atol=1e-4)
        assert (theirs.panoptic_volume > 0).sum() > 1000
        for name in ("panoptic_volume", "semantic_volume"):
            assert (getattr(ours, name) == getattr(theirs, name)).mean() > 0.9999
        np.testing.assert_allclose(ours.geometry, theirs.geometry, atol=1e-2)


def test_images_of_stage_one_are_those_of_the_network(file, own, checkpoint):
    wanted = opened(1, checkpoint)
    wanted.model, wanted._deployed = own.model, None
    _, expected = results(wanted, pictures())
    _, found = results(opened(1, checkpoint), pictures())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.geometry is None
        assert ours.depth.shape in {(240, 320), (90, 120)}
        assert (ours.segment_map != theirs.segment_map).mean() < 1e-3
        np.testing.assert_allclose(ours.depth, theirs.depth, atol=1e-4)
    # files of other programs have depth at half the size of the image alone
    file.outputs.remove("ori_pred_depths")
    _, found = results(opened(1, checkpoint), pictures())
    np.testing.assert_allclose(found[0].depth, expected[0].depth, rtol=0.05)


@pytest.mark.parametrize(
    ("content", "size", "fitted"),
    [((240, 320), (256, 320), (120, 160)), ((60, 80), (64, 96), (120, 160)), ((96, 64), (96, 64), (120, 80))],
)
def test_pictures_of_other_sizes_fill_the_content_and_their_cameras_follow(
    file, checkpoint, content, size, fitted
):
    batch, found = opened(2, checkpoint)._predict(pictures(content, size))
    assert batch.images.shape == (2, 3, 128, 160)
    assert batch.sizes == [fitted] * 2
    assert not batch.images[:, :, fitted[0] :].any()
    assert not batch.images[:, :, :, fitted[1] :].any()
    corner = batch.images[:, :, fitted[0] - 1, fitted[1] - 1]
    assert (corner > 0).all()
    camera = FRONT3D_CAMERA.scaled(content[1], content[0]).scaled(fitted[1], fitted[0])
    assert [view.camera for view in batch.views] == [camera] * 2
    assert found.occupancy.shape == (2, 25, 60, 80)


def test_a_picture_of_another_shape_gets_its_part_of_the_occupancy(file, checkpoint):
    model = opened(2, checkpoint)._deployed
    ramp = torch.arange(80.0).expand(2, 25, 60, 80)
    found = model._occupancy(ramp, [(120, 80), (120, 160)])
    # half the picture: columns 0 to 39 on all of the plane, each twice as wide
    np.testing.assert_allclose(found[0, 0, 0, 1:-1], np.arange(1, 79) / 2 - 0.25, atol=1e-5)
    assert torch.equal(found[1], ramp[1])


def test_the_network_goes_where_a_file_runs_instead(file, checkpoint):
    module = opened(2, checkpoint)
    assert {name.split(".")[0] for name in module.model.state_dict()} == {"completion"}
    assert not module.train(False).training
    assert not list(opened(1, "unread.pth").model.parameters())


def test_a_file_tells_the_camera_only_where_its_head_has_learnt(own, file, metadata):
    assert DeployedImage(file, spec=stage_spec(), where="x.onnx").camera_is_trained
    silent = ExportedImage(
        own.model, own.model.projector, size=(128, 160), content=(120, 160), camera=False
    ).eval()
    model = DeployedImage(File(silent, metadata), spec=stage_spec(), where="x.onnx")
    assert not model.camera_is_trained
    assert not model(pictures())[1].pose.any()


def test_inference_takes_the_classes_of_the_file(file, checkpoint):
    module = NVPanoptix3DModule(stage_spec("inference", inference__checkpoint=str(checkpoint)))
    module._deployed = DeployedImage(file, spec=module.spec, where="x.onnx")
    found = module._find_categories()
    assert (found.name(2), found.category_id(2), found.is_thing(2), len(found)) == ("seat", 7, True, 13)


@pytest.mark.parametrize("given", [None, "model.onnx"])
def test_the_volume_needs_a_checkpoint(given):
    spec = stage_spec(evaluate__trt_engine=str(ENGINE), evaluate__checkpoint=given)
    with pytest.raises(
        MissingValueError, match=r"evaluate\.checkpoint: .* no checkpoint is given for the 3D"
    ):
        load_engine(NVPanoptix3DModule(spec), ENGINE, spec)


def test_a_checkpoint_of_stage_one_has_no_volume(tmp_path):
    path = write_checkpoint(tmp_path / "one.pth", seed=1, stage=1)
    spec = stage_spec(evaluate__checkpoint=str(path))
    with pytest.raises(InvalidValueError, match="is a checkpoint of stage 1; it has no 3D part"):
        load_engine(NVPanoptix3DModule(spec), ENGINE, spec)


def test_a_file_of_stage_one_is_refused_in_stage_two_alone(graph, metadata):
    file = File(graph, metadata, left_out=("encoder_features",))
    with pytest.raises(ShapeError, match=r"x\.onnx: there is no output encoder_features.*stage 1 have none"):
        DeployedImage(file, spec=stage_spec(), where="x.onnx")
    DeployedImage(file, spec=stage_spec(stage=1), where="x.onnx")


def test_missing_outputs_are_listed(graph, metadata):
    file = File(graph, metadata, left_out=("ori_pred_masks", "enc_feat_1"))
    with pytest.raises(ShapeError, match="ori_pred_masks is missing"):
        DeployedImage(file, spec=stage_spec(), where="x.onnx")
    with pytest.raises(ShapeError, match="ori_pred_masks, enc_feat_1 is missing"):
        DeployedImage(file, spec=stage_spec(model__frustum3d__use_multi_scale=True), where="x.onnx")


def test_another_two_d_part_than_the_volume_knows_is_refused(file, tmp_path):
    other = write_checkpoint(tmp_path / "other.pth", seed=9)
    with pytest.raises(ConflictError, match=r"model_2d\.engine and .*other\.pth do not belong together"):
        opened(2, other)
    del file.metadata["weights"]  # files of other programs do not tell
    opened(2, other)


def test_settings_inside_the_graph_are_compared(graph, metadata):
    file = File(graph, metadata)
    spec = stage_spec(model__compat__depth_features="coarse", model__mask_former__size_divisibility=64)
    with pytest.raises(ConflictError) as caught:
        DeployedImage(file, spec=spec, where="x.onnx")
    said = str(caught.value)
    assert "model.compat.depth_features: x.onnx was exported with fine, the spec says coarse" in said
    assert "model.mask_former.size_divisibility: x.onnx was exported with 32, the spec says 64" in said
    flat = stage_spec(stage=1, model__compat__depth_features="coarse")
    DeployedImage(file, spec=flat, where="x.onnx")
    with pytest.raises(ConflictError, match="holds the network mask2former, not nvpanoptix3d"):
        DeployedImage(File(graph, {"network": "mask2former"}), spec=flat, where="x.onnx")


def test_a_log_line_says_where_both_parts_are_from(file, checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        opened(2, checkpoint)
    assert f"the 2D part is that of {ENGINE}, the 3D part that of {checkpoint}" in caplog.text
