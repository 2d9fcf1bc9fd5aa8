"""Order and content of the calls to TensorRT, against a stand-in for its Python package.

What TensorRT does with the calls is not tested: that needs the package and a GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from skillbank.errors import (
    BackendError,
    ConflictError,
    InvalidValueError,
    NotFoundError,
    RuntimeMissingError,
)
from skillbank.jobs.files import read_json
from skillbank_models.deploy import engine, engine_build
from skillbank_models.deploy.engine import EngineModel, sidecar_path
from skillbank_models.deploy.engine_build import EnginePlan, batch_profile, build_engine
from skillbank_models.deploy.opened import open_deployed


class Layer:
    def __init__(self, name, dtype):
        self.name, self.dtype, self.precision, self.num_outputs, self.output_type = name, dtype, None, 1, None

    def get_output(self, index):
        return SimpleNamespace(dtype=self.dtype)

    def set_output_type(self, index, dtype):
        self.output_type = dtype


class Recorder:
    """A tensorrt package that writes down what it is asked to do."""

    def __init__(self, *, parses=True, builds=True):
        self.calls: list[tuple] = []
        self.layers = [
            Layer("head/MatMul_0", "FLOAT"),
            Layer("cross/Softmax_0", "FLOAT"),
            Layer("i/Add_0", "INT64"),
        ]
        self.parses, self.builds = parses, builds
        self.module = SimpleNamespace(
            __version__="10.9.0",
            Logger=type(
                "Logger", (), {"ERROR": 1, "WARNING": 2, "VERBOSE": 3, "__init__": lambda s, level: None}
            ),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
            BuilderFlag=SimpleNamespace(FP16="fp16", OBEY_PRECISION_CONSTRAINTS="obey"),
            DataType=SimpleNamespace(FLOAT="FLOAT", HALF="HALF", INT32="INT32", INT64="INT64", BOOL="BOOL"),
            float32="FLOAT",
            float16="HALF",
            init_libnvinfer_plugins=lambda logger, name: self.calls.append(("plugins", name)),
            Builder=lambda logger: self,
            OnnxParser=lambda network, logger: self,
        )
        self.num_inputs, self.num_layers, self.num_errors = 1, 3, 1

    def create_network(self, flags):
        self.calls.append(("network", flags))
        return self

    def parse_from_file(self, path):
        return self.parses

    def get_error(self, index):
        return "unsupported node"

    def get_input(self, index):
        return SimpleNamespace(name="inputs", shape=(-1, 3, -1, -1))

    def get_layer(self, index):
        return self.layers[index]

    def create_builder_config(self):
        return self

    def set_memory_pool_limit(self, kind, size):
        self.calls.append((kind, size))

    def create_optimization_profile(self):
        return self

    def set_shape(self, name, *shapes):
        self.calls.append((name, *shapes))

    def add_optimization_profile(self, profile):
        self.calls.append(("profile",))

    def set_flag(self, flag):
        self.calls.append((flag,))

    def create_timing_cache(self, content):
        self.calls.append(("cache", content))
        return self

    def set_timing_cache(self, cache, *, ignore_mismatch):
        self.calls.append(("ignore_mismatch", ignore_mismatch))

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"timings")

    def build_serialized_network(self, network, config):
        return b"engine" if self.builds else None


@pytest.fixture
def fake(monkeypatch):
    def use(**settings):
        found = Recorder(**settings)
        monkeypatch.setattr(engine_build, "require_tensorrt", lambda what: found.module)
        return found

    return use


def _onnx(path: Path, *ops: str) -> Path:
    names = ["inputs", *[f"t{index}" for index in range(len(ops))]]
    nodes = [helper.make_node(op, [a], [b]) for op, a, b in zip(ops, names, names[1:], strict=False)]
    if ops == ("QuantizeLinear",):
        nodes = [helper.make_node("QuantizeLinear", ["inputs", "scale"], ["t0"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "h", "w"]) for name in names]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[-1:], [scale]))
    helper.set_model_props(model, {"mode": "semantic"})
    onnx.save(model, path)
    return path


def _plan(folder: Path, **changes) -> EnginePlan:
    settings = {
        "onnx_file": folder / "model.onnx",
        "engine_file": folder / "out" / "model.engine",
        "profile": (1, 2, 4),
        "workspace_mb": 1024,
        "fp16": False,
        "layers_precision": (),
        "keep_fp32": ("cross*",),
        "size": (64, 96),
        "timing_cache": None,
        "verbose": False,
    }
    return EnginePlan(**(settings | changes))


def test_a_float_engine_gets_profile_and_scratch_memory(tmp_path, fake):
    found = fake()
    _onnx(tmp_path / "model.onnx", "Neg")
    about = build_engine(_plan(tmp_path))
    assert ("network", 0) in found.calls
    assert ("workspace", 1 << 30) in found.calls
    assert ("inputs", (1, 3, 64, 96), (2, 3, 64, 96), (4, 3, 64, 96)) in found.calls
    assert ("fp16",) not in found.calls
    assert (tmp_path / "out" / "model.engine").read_bytes() == b"engine"
    assert read_json(sidecar_path(tmp_path / "out" / "model.engine")) == about
    assert about["metadata"] == {"mode": "semantic"}
    assert about["precision"] == "fp32"


def test_half_precision_keeps_what_it_would_spoil(tmp_path, fake):
    found = fake()
    _onnx(tmp_path / "model.onnx", "Neg")
    about = build_engine(_plan(tmp_path, fp16=True, layers_precision=["head*:FP16"]))
    assert {("fp16",), ("obey",)} <= set(found.calls)
    assert [layer.precision for layer in found.layers] == ["HALF", "FLOAT", None]
    assert found.layers[1].output_type == "FLOAT"
    assert about["precision"] == "fp16"


def test_a_graph_with_integers_and_scales_is_built_as_typed(tmp_path, fake):
    found = fake()
    _onnx(tmp_path / "model.onnx", "QuantizeLinear")
    about = build_engine(_plan(tmp_path, fp16=True))
    assert ("network", 2) in found.calls
    assert ("fp16",) not in found.calls
    assert about["precision"] == "as typed"


def test_the_timing_cache_is_read_and_written(tmp_path, fake):
    found = fake()
    _onnx(tmp_path / "model.onnx", "Neg")
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"old")
    build_engine(_plan(tmp_path, timing_cache=cache))
    assert ("cache", b"old") in found.calls
    assert ("ignore_mismatch", False) in found.calls
    assert cache.read_bytes() == b"timings"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("head", "'head' is no layer:precision"),
        ("head:int8", "fp32 or fp16"),
        ("nothing*:fp32", "no layer is named"),
    ],
)
def test_precision_settings_that_cannot_be_followed(tmp_path, fake, text, said):
    fake()
    _onnx(tmp_path / "model.onnx", "Neg")
    with pytest.raises(InvalidValueError, match=said):
        build_engine(_plan(tmp_path, fp16=True, layers_precision=[text]))
    assert not (tmp_path / "out").exists()


def test_what_tensorrt_refuses_is_passed_on(tmp_path, fake):
    _onnx(tmp_path / "model.onnx", "Neg")
    fake(parses=False)
    with pytest.raises(BackendError, match="cannot read the graph \\(unsupported node\\)"):
        build_engine(_plan(tmp_path))
    fake(builds=False)
    with pytest.raises(BackendError, match="could not build"):
        build_engine(_plan(tmp_path))
    with pytest.raises(NotFoundError, match="there is no file"):
        build_engine(_plan(tmp_path, onnx_file=tmp_path / "absent.onnx"))


def test_the_batch_of_an_engine():
    assert batch_profile(None, -1, (1, 2, 8)) == (1, 2, 8)
    assert batch_profile(None, 4, (1, 2, 8)) == (4, 4, 4)
    assert batch_profile(2, -1, (1, 2, 8)) == (2, 2, 2)
    with pytest.raises(ConflictError, match="4 is asked for, but the ONNX file has the fixed batch 2"):
        batch_profile(2, 4, (1, 2, 8))


def test_without_tensorrt_or_gpu_the_way_out_is_an_onnx_file(tmp_path, monkeypatch):
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    monkeypatch.setattr(engine, "is_installed", lambda name: False)
    with pytest.raises(RuntimeMissingError, match="needs TensorRT, which is not installed") as caught:
        open_deployed(path, torch.device("cpu"))
    assert "an .onnx file runs without it" in caught.value.hint
    assert caught.value.exit_code == 5
    monkeypatch.setattr(engine, "is_installed", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeMissingError, match="needs an NVIDIA GPU"):
        open_deployed(path, torch.device("cpu"))


class FakeEngine:
    """An engine that negates, for batches of 2 to 4, reached through raw addresses as the real one is."""

    num_io_tensors = 2
    dtype = "FLOAT"

    def __init__(self):
        self.addresses, self.shape, self.batches = {}, None, []

    def get_tensor_name(self, index):
        return ("inputs", "out")[index]

    def get_tensor_mode(self, name):
        return "in" if name == "inputs" else "out"

    def get_tensor_dtype(self, name):
        return self.dtype

    def get_tensor_shape(self, name):
        return self.shape or (-1, 3, -1, -1)

    def get_tensor_profile_shape(self, name, index):
        return [(count, 3, 32, 32) for count in (2, 2, 4)]

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shape = shape
        self.batches.append(shape[0])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        import ctypes

        count = int(np.prod(self.shape))
        buffers = {name: (ctypes.c_float * count).from_address(at) for name, at in self.addresses.items()}
        np.frombuffer(buffers["out"], np.float32)[:] = -np.frombuffer(buffers["inputs"], np.float32)
        return True


def test_an_engine_runs_batches_of_any_number(tmp_path, monkeypatch):
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    sidecar_path(path).write_text('{"metadata": {"mode": "semantic"}}')
    made = FakeEngine()
    trt = Recorder().module
    trt.TensorIOMode = SimpleNamespace(INPUT="in")
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: made)
    monkeypatch.setattr(engine, "require_tensorrt", lambda what: trt)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    )
    model = EngineModel(path, device=torch.device("cuda"))
    model.device = torch.device("cpu")
    made.shape = None
    assert model.metadata == {"mode": "semantic"}
    assert model.input_size == (32, 32)
    assert model.batch_size is None
    images = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(model(images)["out"], -images, atol=0, rtol=0)
    assert made.batches == [4, 2]  # the last image is run twice, since the engine takes no single one


def test_an_engine_of_another_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.plan"
    path.write_bytes(b"engine")
    trt = Recorder().module
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: None)
    monkeypatch.setattr(engine, "require_tensorrt", lambda what: trt)
    with pytest.raises(InvalidValueError, match=r"cannot be read by TensorRT 10\.9\.0") as caught:
        open_deployed(path, torch.device("cuda"))
    assert "gen_trt_engine" in caught.value.hint
    assert "tensorrt" not in sys.modules
