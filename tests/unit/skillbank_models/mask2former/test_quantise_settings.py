from __future__ import annotations

import pytest
from shapes_data import mask2former_spec

from skillbank.errors import (
    ConflictError,
    InvalidValueError,
    MissingValueError,
    NotFoundError,
    NotInThisVersionError,
    SpecError,
)
from skillbank_models.mask2former.quantise_onnx import graph_size
from skillbank_models.mask2former.quantise_settings import Method, read_settings


@pytest.fixture
def ask(tmp_path):
    """Settings from the block `quantize`; `model_path` names a file that is there."""

    def read(name="model.pth", images="", **block):
        (tmp_path / name).write_bytes(b"")
        dataset = {"quant_calibration_dataset": {"images_dir": images}}
        quantize = {"model_path": str(tmp_path / name), **block}
        return read_settings(mask2former_spec(dataset, action="quantize", quantize=quantize))

    return read


ONNX = {"backend": "modelopt.onnx"}
STATIC = {"mode": "static_ptq"}


@pytest.mark.parametrize(
    ("name", "block", "method", "library", "note"),
    [
        ("model.pth", {}, Method.TORCH_WEIGHTS, "torchao", ""),
        ("model.pth", STATIC, Method.GRAPH_STATIC, "onnxruntime", "is done by ONNX Runtime"),
        ("model.onnx", ONNX | STATIC, Method.GRAPH_STATIC, "onnxruntime", "served by ONNX Runtime's own"),
        ("model.onnx", ONNX, Method.GRAPH_WEIGHTS, "skillbank", "served by rounding the weights"),
        ("model.pth", ONNX, Method.GRAPH_WEIGHTS, "skillbank", "after an export"),
    ],
)
def test_who_serves_a_backend_is_said(ask, name, block, method, library, note):
    found = ask(name, images="images", **block)
    assert (found.method, found.library) == (method, library)
    assert note in found.note


def test_what_nothing_here_serves_is_refused_with_exit_code_5(ask):
    with pytest.raises(NotInThisVersionError, match=r"modelopt\.pytorch is not driven") as caught:
        ask(backend="modelopt.pytorch")
    assert caught.value.exit_code == 5
    assert "quantize.backend=torchao" in caught.value.hint


def test_all_settings_that_cannot_be_followed_are_listed(ask):
    with pytest.raises(SpecError) as caught:
        ask(
            "model.onnx",
            mode="static_ptq",
            algorithm="awq_lite",
            backend_kwargs={"input_size": [100, 64], "group_size": 128},
        )
    said = str(caught.value)
    assert "torchao quantises checkpoints" in said
    assert "dataset.quant_calibration_dataset.images_dir is empty" in said
    assert "awq_lite is not available in mode static_ptq here; use entropy, max, minmax" in said
    assert "backend_kwargs.input_size is [100, 64]; it must be [height, width], multiples of 32" in said
    assert "backend_kwargs.group_size is not known; use images, input_size, opset, percentile" in said
    assert len(caught.value.problems) == 5


def test_algorithms_by_mode(ask):
    assert ask(mode="static_ptq", images="images", algorithm="entropy").calibrate == "Entropy"
    kwargs = {"percentile": 99.9, "images": 8, "input_size": [64, 96], "opset": 20}
    found = ask(mode="static_ptq", images="images", backend_kwargs=kwargs)
    assert (found.calibrate, found.percentile, found.images) == ("Percentile", 99.9, 8)
    assert (found.input_size, found.opset) == ((64, 96), 20)
    assert ask(algorithm="rtn_dq").method is Method.TORCH_WEIGHTS
    with pytest.raises(InvalidValueError, match="entropy is not available in mode weight_only_ptq"):
        ask(algorithm="entropy")
    with pytest.raises(MissingValueError, match="measures ranges on a folder of images"):
        ask(mode="static_ptq")


def test_the_file_has_to_be_there(tmp_path):
    missing = mask2former_spec({}, action="quantize", quantize={"model_path": str(tmp_path / "no.pth")})
    with pytest.raises(NotFoundError, match=r"quantize\.model_path: there is no file"):
        read_settings(missing)


def test_a_single_fault_keeps_its_kind(ask):
    with pytest.raises(ConflictError, match="torchao quantises checkpoints"):
        ask("model.onnx")


def test_the_size_of_a_graph_holds_every_test_image():
    sizes = {"augmentation": {"test_min_size": 100, "test_max_size": 300}}
    assert graph_size(mask2former_spec(sizes)) == (320, 320)
    assert graph_size(mask2former_spec({**sizes, "test": {"target_size": [100, 200]}})) == (128, 224)
