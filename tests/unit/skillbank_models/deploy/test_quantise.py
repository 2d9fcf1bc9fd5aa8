from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from skillbank.errors import InvalidValueError, RuntimeMissingError
from skillbank.specs.common import QuantizeLayer, QuantizeTensor
from skillbank_models.deploy import quantise
from skillbank_models.deploy.onnx_model import OnnxModel
from skillbank_models.deploy.quantise import quantise_weights
from skillbank_models.deploy.quantise_graph import (
    Calibration,
    choose_layers,
    quantise_static,
    weights_to_int8,
)
from skillbank_models.deploy.quantise_rules import Choice, LayerRules
from skillbank_models.weights.files import read_tensors
from skillbank_models.weights.quantised import DTYPES, restore
from skillbank_models.weights.writing import write_torch

CPU = torch.device("cpu")


def rules(*layers, skip=(), static=False):
    formats = ["int8"] if static else DTYPES
    return LayerRules(layers, skip, formats=formats, with_activations=static, in_graph=static)


def layer(pattern="*", weights="int8", axis=0, activations=None, **more):
    tensor = QuantizeTensor(dtype=weights, quant_axis=axis, **more) if weights else None
    inputs = QuantizeTensor(dtype=activations) if activations else None
    return QuantizeLayer(module_name=pattern, weights=tensor, activations=inputs)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.block = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
        self.attn = nn.MultiheadAttention(4, 2)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_without_rules_all_layers_have_one_scale_for_each_output(net):
    found = quantise_weights(net, rules())
    assert set(found.layers) == {
        "conv.weight", "block.0.weight", "block.2.weight", "attn.in_proj_weight", "attn.out_proj.weight",
    }  # fmt: skip
    assert found.tensors["conv.weight#int8"].dtype == torch.int8
    assert found.tensors["conv.weight#scale"].shape == (8, 1, 1, 1)
    assert "block.1.weight" in found.tensors  # norms keep their numbers
    assert found.bytes_before / found.bytes_after > 2


def test_numbers_come_back_within_half_a_step(net):
    found = quantise_weights(net, rules())
    back = restore(found.tensors, where="x")
    for name, weight in net.state_dict().items():
        step = found.tensors[f"{name}#scale"] if f"{name}#scale" in found.tensors else torch.zeros(1)
        assert ((back[name] - weight).abs() <= step / 2 + 1e-7).all(), name
    assert found.layers["conv.weight"]["relative_error"] == pytest.approx(
        float((back["conv.weight"] - net.conv.weight.detach()).norm() / net.conv.weight.detach().norm())
    )


def test_the_first_rule_that_matches_holds_and_skip_names_win(net):
    found = quantise_weights(
        net,
        rules(
            layer("block.0", "fp8_e4m3fn"),
            layer("Linear", axis=None),
            layer("attn.*", weights=None),
            skip=["block.2"],
        ),
    )
    assert set(found.layers) == {"block.0.weight", "attn.in_proj_weight", "attn.out_proj.weight"}
    assert found.tensors["block.0.weight#fp8_e4m3fn"].dtype == torch.float8_e4m3fn
    assert found.tensors["attn.in_proj_weight#scale"].numel() == 1
    back = restore(found.tensors, where="x")["block.0.weight"]
    # three bits of fraction: a sixteenth of the value
    torch.testing.assert_close(back, net.block[0].weight.detach(), rtol=1 / 15, atol=1e-3)


def test_rules_that_match_nothing_are_told(net, caplog):
    with caplog.at_level(logging.WARNING):
        quantise_weights(net, rules(layer(), skip=["blok.*"]))
    assert "no layer matches 'blok.*'" in caplog.text
    with pytest.raises(InvalidValueError, match="leave no layer"):
        quantise_weights(net, rules(layer("nothing")))
    with pytest.raises(InvalidValueError, match=r"quant_axis 5 does not exist in conv\.weight"):
        quantise_weights(net, rules(layer(axis=5)))


def test_all_rules_that_cannot_be_followed_are_listed():
    bad = [
        layer(weights="int4"),
        layer(activations="int8"),
        layer(observer_or_fake_quant="HistogramObserver", kwargs={"bins": 3}),
    ]
    with pytest.raises(InvalidValueError) as caught:
        rules(*bad)
    said = str(caught.value)
    assert (
        "quantize.layers[0].weights.dtype: 'int4' is no format this backend writes; use int8, fp8_e4m3fn"
        in said
    )
    assert "quantize.layers[1].activations: 'int8' cannot be used in mode weight_only_ptq" in said
    assert "quantize.layers[2].weights.observer_or_fake_quant: 'HistogramObserver' is not known here" in said
    assert "quantize.layers[2].weights.kwargs" in said
    assert len(caught.value.problems) == 4


def test_a_file_of_quantised_weights_is_read_like_any_other(net, tmp_path):
    found = quantise_weights(net, rules())
    path = tmp_path / "quantised.pth"
    write_torch(path, {"state_dict": dict(found.tensors), "skillbank": {"network": "x"}})
    torch.load(path, weights_only=True)  # plain tensors: no class of any library is needed
    again = read_tensors(path, key="evaluate.checkpoint").tensors
    net.load_state_dict(again, strict=True)
    torch.testing.assert_close(again, restore(found.tensors, where="x"), atol=0, rtol=0)
    del found.tensors["conv.weight#scale"]
    write_torch(path, {"state_dict": dict(found.tensors)})
    with pytest.raises(InvalidValueError, match=r"without their numbers or scale: conv\.weight"):
        read_tensors(path, key="evaluate.checkpoint")


def test_missing_torchao_is_named(net, monkeypatch):
    monkeypatch.setattr(quantise, "is_installed", lambda name: False)
    with pytest.raises(RuntimeMissingError, match="needs torchao") as caught:
        quantise_weights(net, rules())
    assert "skillbank[quantize]" in caught.value.hint


# --- ONNX files


@pytest.fixture
def images():
    draws = np.random.default_rng(0)
    return [draws.normal(size=(1, 3, 32, 64)).astype(np.float32) for _ in range(4)]


def _off(first, second, images):
    value = np.concatenate(images)
    one, other = OnnxModel(first, device=CPU)(value), OnnxModel(second, device=CPU)(value)
    spread = one["pred_masks"].std()
    return float(np.abs(one["pred_masks"] - other["pred_masks"]).mean() / spread)


@pytest.mark.parametrize("method", ["MinMax", "Entropy", "Percentile"])
def test_layers_compute_with_measured_ranges(exported, tmp_path, images, method):
    source, target = exported[0], tmp_path / "static.onnx"
    chosen = choose_layers(onnx.load(source), rules(static=True))
    assert "stem/Conv_0" in chosen.full
    assert chosen.weights == {}
    calibration = Calibration(
        batches=lambda: iter({"inputs": image} for image in images),
        method=method,
        providers=["CPUExecutionProvider"],
    )
    quantise_static(source, target, chosen.full, calibration, per_channel=chosen.per_channel)
    model = onnx.load(target)
    assert {node.domain for node in model.graph.node} <= {""}
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) >= 4
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len(weights) >= len(chosen.full)
    # one step of 8 bits over the range is about 1 % of the spread for each layer on the way; noise would be 1
    assert _off(source, target, images) < 0.1


@pytest.mark.parametrize("axis", [0, None])
def test_the_axis_decides_how_many_scales_the_weights_have(exported, tmp_path, images, axis):
    chosen = choose_layers(onnx.load(exported[0]), rules(layer(axis=axis, activations="int8"), static=True))
    assert chosen.per_channel == (axis == 0)
    calibration = Calibration(
        batches=lambda: iter({"inputs": image} for image in images),
        method="MinMax",
        providers=["CPUExecutionProvider"],
    )
    target = tmp_path / "static.onnx"
    quantise_static(exported[0], target, chosen.full, calibration, per_channel=chosen.per_channel)
    graph = onnx.load(target).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    counts = {
        int(np.prod(tensors[node.input[1]].dims))
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in tensors
        and tensors[node.input[0]].data_type == onnx.TensorProto.INT8
    }
    assert (counts == {1}) == (axis is None)


def test_a_graph_has_one_kind_of_scales(exported):
    model = onnx.load(exported[0])
    mixed = [layer("Conv2d", activations="int8"), layer("*", axis=None, activations="int8")]
    with pytest.raises(InvalidValueError, match=r"quant_axis is 0 for stem/Conv_0 and empty for "):
        choose_layers(model, rules(*mixed, static=True))
    alone = [layer("Conv2d", activations="int8"), layer("*", axis=None)]  # rounded here, each as it likes
    assert choose_layers(model, rules(*alone, static=True)).per_channel


def test_axes_and_observers_do_what_they_say():
    inputs = QuantizeTensor(dtype="int8", quant_axis=1)
    by_axis = QuantizeTensor(observer_or_fake_quant="PerChannelMinMaxObserver")
    bad = [
        layer(axis=1),
        QuantizeLayer(weights=QuantizeTensor(), activations=inputs),
        QuantizeLayer(weights=by_axis, activations=by_axis),
        layer(observer_or_fake_quant="MinMaxObserver"),
    ]
    with pytest.raises(InvalidValueError) as caught:
        rules(*bad, static=True)
    said = str(caught.value)
    assert "quantize.layers[0].weights.quant_axis: 1 cannot be followed in an ONNX file" in said
    assert "quantize.layers[1].activations.quant_axis: 1 cannot be followed: inputs of a layer" in said
    assert "quantize.layers[2].activations.observer_or_fake_quant: 'PerChannelMinMaxObserver' is not" in said
    assert "'MinMaxObserver' finds one scale, and quant_axis 0 wants several" in said
    assert len(caught.value.problems) == 4
    one = QuantizeTensor(observer_or_fake_quant="MinMaxObserver")
    assert rules(QuantizeLayer(weights=one)).choice("a", ["Linear"]) == Choice("int8", None, None)
    assert rules(QuantizeLayer(weights=by_axis)).choice("a", ["Linear"]) == Choice("int8", 0, None)
    assert rules(layer(axis=1)).choice("a", ["Linear"]) == Choice("int8", 1, None)  # of a module
    with pytest.raises(InvalidValueError, match="which is Entropy"):
        LayerRules(
            [QuantizeLayer(weights=one, activations=one)], [],
            formats=["int8"], with_activations=True, in_graph=True, ranges="Entropy",
        )  # fmt: skip


def test_weights_alone_become_integers(exported, tmp_path, images):
    source, target = exported[0], tmp_path / "weights.onnx"
    model = onnx.load(source)
    chosen = choose_layers(model, rules())
    assert chosen.full == ()
    weights_to_int8(model, chosen.weights)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    assert _off(source, target, images) < 0.03


def test_a_graph_follows_the_same_rules(exported):
    model = onnx.load(exported[0])
    only = choose_layers(model, rules(layer("Conv2d", activations="int8"), layer("head"), static=True))
    assert only.full == ("stem/Conv_0",)
    assert only.weights
    assert set(only.weights.values()) == {Choice("int8", 0, None)}
    assert all(name.startswith("head/") for name in only.weights)
    skipped = choose_layers(model, rules(skip=["stem", "head/*"], static=True))
    assert all(not name.startswith(("stem", "head")) for name in skipped.full)
    with pytest.raises(InvalidValueError, match="leave no layer"):
        choose_layers(model, rules(skip=["*"], static=True))


def test_products_of_two_computed_tensors_are_left_alone(exported):
    model = onnx.load(exported[0])
    constants = {tensor.name for tensor in model.graph.initializer}
    computed = [
        node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in constants
    ]
    assert computed
    chosen = choose_layers(model, rules(static=True))
    assert not set(computed) & set(chosen.full)


def test_settings_of_rules_are_those_of_the_spec():
    plain = SimpleNamespace(module_name="*", weights=None, activations=None)
    assert LayerRules([plain], [], formats=["int8"], with_activations=True).choice("a", ["Linear"]) is None
