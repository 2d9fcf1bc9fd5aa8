from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from skillbank.errors import BackendError, InvalidValueError, NotFoundError, RuntimeMissingError, ShapeError
from skillbank_models.deploy import onnx_model
from skillbank_models.deploy.onnx_model import OnnxModel
from skillbank_models.deploy.opened import is_deployed, open_deployed

CPU = torch.device("cpu")


@pytest.fixture
def opened(exported):
    return OnnxModel(exported[0], device=CPU)


def test_it_says_what_it_takes(opened):
    assert opened.input_size == (32, 64)
    assert opened.batch_size is None
    assert opened.outputs == ["pred_masks", "lowest"]
    assert opened.metadata == {"mode": "semantic"}


def test_tensors_for_tensors_and_arrays_for_arrays(opened, small):
    images = torch.randn(2, 3, 32, 64)
    found = opened(images)
    with torch.no_grad():
        wanted = small(images)
    torch.testing.assert_close(found["pred_masks"], wanted[0], atol=1e-5, rtol=0)
    arrays = opened({"inputs": images.numpy()})
    assert isinstance(arrays["lowest"], np.ndarray)
    np.testing.assert_array_equal(arrays["pred_masks"], found["pred_masks"].numpy())


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 3, 64, 64), r"shape \(2, 3, 64, 64\); the file takes \(batch, 3, 32, 64\)"),
        ((3, 32, 64), r"the file takes \(batch, 3, 32, 64\)"),
        ((0, 3, 32, 64), r"shape \(0, 3, 32, 64\)"),
    ],
)
def test_images_of_another_size_are_refused(opened, shape, said):
    with pytest.raises(ShapeError, match=said) as caught:
        opened(torch.zeros(shape))
    assert "dynamic_size" in caught.value.hint


def test_inputs_of_other_names_are_refused(opened):
    with pytest.raises(ShapeError, match="got the inputs images; the file takes inputs"):
        opened({"images": torch.zeros(1, 3, 32, 64)})


def _identity(path, shape, op="Neg", domain=""):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("inputs", "out")]
    node = helper.make_node(op, ["inputs"], ["out"], domain=domain)
    model = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_fixed_batch_takes_any_number_of_images(tmp_path, count):
    model = OnnxModel(_identity(tmp_path / "fixed.onnx", [4, 3, 32, 32]), device=CPU)
    assert model.batch_size == 4
    images = torch.randn(count, 3, 32, 32)
    torch.testing.assert_close(model(images)["out"], -images, atol=0, rtol=0)


def test_an_open_size_still_wants_multiples_of_the_stride(tmp_path):
    model = OnnxModel(_identity(tmp_path / "open.onnx", ["batch", 3, "height", "width"]), device=CPU)
    assert model.input_size is None
    assert model(torch.zeros(1, 3, 64, 96))["out"].shape == (1, 3, 64, 96)
    with pytest.raises(ShapeError, match="multiples of 32"):
        model(torch.zeros(1, 3, 64, 90))


def test_files_that_cannot_be_run_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(NotFoundError, match="there is no file"):
        open_deployed(tmp_path / "absent.onnx", CPU)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph at all")
    with pytest.raises(InvalidValueError, match="cannot be read as an ONNX file"):
        open_deployed(broken, CPU)
    plugin = _identity(tmp_path / "plugin.onnx", [1, 3, 32, 32], "SomePlugin_TRT", "trt.plugins")
    with pytest.raises(BackendError, match="operators that only TensorRT runs") as caught:
        open_deployed(plugin, CPU)
    assert "gen_trt_engine" in caught.value.hint
    with pytest.raises(InvalidValueError, match=r"must be one of \.onnx, \.engine, \.plan"):
        open_deployed(tmp_path / "model.pth", CPU)


def test_endings_decide_what_is_deployed():
    assert is_deployed("a/model.ONNX")
    assert is_deployed("model.engine")
    assert not is_deployed("model.pth")


def test_a_missing_runtime_is_named(exported, monkeypatch):
    monkeypatch.setattr(onnx_model, "is_installed", lambda name: False)
    with pytest.raises(RuntimeMissingError, match="needs ONNX Runtime") as caught:
        OnnxModel(exported[0], device=CPU)
    assert "skillbank[export]" in caught.value.hint


def test_a_gpu_that_the_runtime_does_not_know_is_said_once(exported, caplog, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with caplog.at_level(logging.WARNING):
        model = OnnxModel(exported[0], device=torch.device("cuda"))
    assert "onnxruntime-gpu" in caplog.text
    assert model.providers == ["CPUExecutionProvider"]
