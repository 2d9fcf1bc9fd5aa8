from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from skillbank.errors import BackendError, InvalidValueError, NotFoundError, RuntimeMissingError
from skillbank_models.deploy import graph, onnx_file
from skillbank_models.deploy.onnx_file import export_onnx, report_path, save_model
from skillbank_models.deploy.opset import to_opset_17


def test_the_file_has_standard_operators_of_the_set_that_was_asked_for(exported):
    path, report = exported
    model = onnx.load(path)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 17)}
    assert {node.domain for node in model.graph.node} == {""}
    assert report["opset"] == 17
    assert report["custom_operators"] == []
    assert sum(report["operators"].values()) == len(model.graph.node) > 10


def test_batch_is_open_on_input_and_every_output(exported):
    _, report = exported
    assert report["inputs"] == [{"name": "inputs", "dtype": "float", "shape": ["batch", 3, 32, 64]}]
    assert [(item["name"], item["shape"]) for item in report["outputs"]] == [
        ("pred_masks", ["batch", 5, 32, 64]),
        ("lowest", ["batch", 1]),
    ]


def test_the_report_says_how_far_the_file_is_from_torch(exported):
    path, report = exported
    stored = json.loads(report_path(path).read_text())
    assert stored == report
    found = report["comparison"]
    assert found["done"]
    assert found["equal"]
    assert [row["inputs"]["inputs"][0] for row in found["samples"]] == [1, 3]
    # float32 through a few layers; a wrong operator is off by more than 0.01
    assert max(found["max_abs_diff"].values()) < 1e-5
    assert report["bytes"] == path.stat().st_size
    assert report["metadata"] == {"mode": "semantic"}


def test_nodes_carry_module_names_and_no_traces_of_the_machine(exported):
    path, _ = exported
    model = onnx.load(path)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "stem/Conv_0" in names
    assert any(name.startswith("head/") for name in names)
    assert b".py" not in path.read_bytes()


def test_cut_weights_are_constants(exported):
    path, _ = exported
    model = onnx.load(path)
    assert "Split" not in {node.op_type for node in model.graph.node}
    shapes = [tuple(tensor.dims) for tensor in model.graph.initializer]
    assert shapes.count((8, 8)) >= 3
    assert (24, 8) not in shapes


def test_the_same_module_gives_the_same_bytes(small, exported, tmp_path, make_plan):
    again = tmp_path / "small.onnx"
    export_onnx(small, make_plan(again))
    assert again.read_bytes() == exported[0].read_bytes()


def test_height_and_width_can_be_left_open(small, tmp_path, make_plan, caplog):
    asked = make_plan(tmp_path / "open.onnx", opset=20, dynamic_size=True)
    samples = [{"inputs": torch.randn(1, 3, 64, 32)}, {"inputs": torch.randn(2, 3, 96, 128)}]
    report = export_onnx(small, replace(asked, samples=samples))
    assert report["opset"] == 20
    assert report["outputs"][0]["shape"] == ["batch", 5, "height", "width"]
    assert max(report["comparison"]["max_abs_diff"].values()) < 1e-5


def test_an_old_set_is_raised_with_a_warning_and_a_file_is_replaced_with_a_notice(
    small, tmp_path, make_plan, caplog
):
    path = tmp_path / "small.onnx"
    path.write_bytes(b"old")
    with caplog.at_level(logging.WARNING):
        report = export_onnx(small, make_plan(path, opset=12, batch=1))
    assert report["opset_asked"] == 12
    assert report["opset"] == 17
    assert report["outputs"][0]["shape"] == [1, 5, 32, 64]
    assert "operator set 12 has no GridSample" in caplog.text
    assert "exists and is replaced" in caplog.text
    assert sorted(found.name for found in tmp_path.iterdir()) == ["small.onnx", "small.onnx.report.json"]


def test_a_file_that_answers_otherwise_is_not_put_in_place(small, exported, tmp_path, make_plan, monkeypatch):
    """Planted: the weights of the file are changed between export and comparison."""
    real = onnx_file.save_model

    def spoiled(model, path, *, check=None):
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
        bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + 0.01).tobytes()
        return real(model, path, check=check)

    monkeypatch.setattr(onnx_file, "_export", lambda *_: onnx.load(exported[0]))
    monkeypatch.setattr(onnx_file, "fold_weights", lambda model: None)
    monkeypatch.setattr(onnx_file.graph, "tidy", lambda *_, **__: None)
    monkeypatch.setattr(onnx_file, "_settle_versions", lambda *_: None)
    monkeypatch.setattr(onnx_file, "save_model", spoiled)
    path = tmp_path / "small.onnx"
    with pytest.raises(
        BackendError, match=r"ONNX Runtime and torch differ in pred_masks by up to 0\.0"
    ) as caught:
        export_onnx(small, make_plan(path))
    assert "the file was not written" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_the_way_to_get_them(small, tmp_path, make_plan, monkeypatch):
    monkeypatch.setattr(onnx_file, "is_installed", lambda name: name != "onnxscript")
    with pytest.raises(RuntimeMissingError, match="onnxscript, which is not installed") as caught:
        export_onnx(small, make_plan(tmp_path / "small.onnx"))
    assert "skillbank[export]" in caught.value.hint


def test_bad_requests_are_refused_before_anything_is_traced(small, tmp_path, make_plan):
    with pytest.raises(NotFoundError, match="there is no folder"):
        export_onnx(small, make_plan(tmp_path / "absent" / "small.onnx"))
    with pytest.raises(InvalidValueError, match=r"export\.opset_version: 99 is unknown"):
        export_onnx(small, make_plan(tmp_path / "small.onnx", opset=99))


def test_an_axis_that_the_graph_fixes_is_reported():
    shapes = [
        helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["s1", 3]),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 3]),
    ]
    node = helper.make_node("Relu", ["inputs"], ["out"])
    model = helper.make_model(helper.make_graph([node], "g", shapes[:1], shapes[1:]))
    with pytest.raises(BackendError, match="fixes batch of output out at 2"):
        graph.name_axes(model, {"inputs": {0: "batch"}}, everywhere=["batch"])


def _one_node(node, inputs, outputs, initial=(), opset=18):
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, list(initial)),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


def test_set_17_says_the_same_as_set_18():
    data = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    model = _one_node(helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0), [data], [out], [axes])
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": value})[0]
    to_opset_17(model, key="export.opset_version")
    onnx.checker.check_model(model)
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": value})[0]
    np.testing.assert_array_equal(before, after)
    assert model.opset_import[0].version == 17


def test_what_set_17_cannot_say_is_refused_by_name():
    data = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    model = _one_node(helper.make_node("Mish", ["x"], ["y"]), [data], [out])
    with pytest.raises(InvalidValueError, match="operator set 17 has no Mish") as caught:
        to_opset_17(model, key="export.opset_version")
    assert caught.value.hint == "export.opset_version=18"


def test_an_invalid_graph_is_refused_and_leaves_nothing(tmp_path):
    data = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    model = helper.make_model(
        helper.make_graph([helper.make_node("Nonsense", ["x"], ["y"])], "g", [data], [out])
    )
    with pytest.raises(BackendError, match="not valid ONNX"):
        save_model(model, tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_file(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_LARGEST_FILE_BYTES", 0)
    path = tmp_path / "large.onnx"
    save_model(onnx.load(exported[0]), path)
    value = {"inputs": np.ones((1, 3, 32, 64), np.float32)}
    found = onnxruntime.InferenceSession(str(path)).run(None, value)
    wanted = onnxruntime.InferenceSession(str(exported[0])).run(None, value)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert {item.name for item in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
    assert all(item.stat().st_mode & 0o444 == 0o444 for item in tmp_path.iterdir())
