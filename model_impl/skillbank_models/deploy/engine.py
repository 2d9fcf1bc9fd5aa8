"""Running a TensorRT engine, through the interface of `OnnxModel`.

Uses the Python interface of TensorRT 10,
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank.errors import BackendError, InvalidValueError, NotFoundError, RuntimeMissingError
from skillbank.jobs.files import read_json
from skillbank.runtime import is_installed
from skillbank_models.deploy.batches import Tensors, Values, run_in_batches
from skillbank_models.deploy.model_io import ModelInput

__all__ = ["EngineModel", "require_tensorrt", "sidecar_path"]

log = logging.getLogger(__name__)


def require_tensorrt(what: str) -> Any:
    """The TensorRT package.

    Raises:
        RuntimeMissingError: it is not installed, or there is no GPU; says how to get it or do without.
    """
    if not is_installed("tensorrt"):
        raise RuntimeMissingError(
            f"{what} needs TensorRT, which is not installed",
            hint="pip install -c constraints.txt 'skillbank[trt]' on a machine with an NVIDIA GPU; an .onnx "
            "file runs "
            "without it",
            key="tensorrt",
        )
    if not torch.cuda.is_available():
        raise RuntimeMissingError(
            f"{what} needs an NVIDIA GPU, and this machine shows none",
            hint="nvidia-smi; an .onnx file runs on the CPU",
            key="cuda",
        )
    import tensorrt

    return tensorrt


def sidecar_path(engine: Path) -> Path:
    """Where the metadata of the ONNX file is kept, which an engine itself cannot hold."""
    return engine.with_name(f"{engine.name}.json")


class EngineModel:
    """A network in an engine file; the file fits only the kind of GPU and TensorRT it was built with.

    Args:
        path: the file.
        device: a CUDA device.

    Raises:
        NotFoundError: no such file.
        RuntimeMissingError: no TensorRT, or no GPU.
        InvalidValueError: the file cannot be read, or was built for another version or GPU.
    """

    def __init__(self, path: Path, *, device: torch.device) -> None:
        if not path.is_file():
            raise NotFoundError(f"there is no file {path}", hint=f"ls -l {path.parent}", key=str(path))
        trt = require_tensorrt(f"running {path.name}")
        self.path, self.device = path, device if device.type == "cuda" else torch.device("cuda")
        logger = trt.Logger(trt.Logger.ERROR)
        trt.init_libnvinfer_plugins(logger, "")
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise InvalidValueError(
                f"{path} cannot be read by TensorRT {trt.__version__}; an engine fits only the version and "
                "the kind "
                "of GPU it was built with",
                hint="build it again here: tao model mask2former gen_trt_engine",
                key=str(path),
            )
        self._context = self._engine.create_execution_context()
        self._dtypes = _dtypes(trt)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs: dict[str, ModelInput] = {name: self._input(name) for name in names if is_input[name]}
        self.outputs: list[str] = [name for name in names if not is_input[name]]
        stored = read_json(sidecar_path(path)) or {}
        self.metadata: dict[str, str] = {
            str(key): str(value) for key, value in stored.get("metadata", {}).items()
        }

    @property
    def batch_size(self) -> int | None:
        """Images of one call; None = several numbers are possible."""
        first = next(iter(self.inputs.values()))
        return first.most if first.least == first.most else None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the image input."""
        return next(iter(self.inputs.values())).size

    def __call__(self, inputs: Values) -> dict[str, Any]:
        """Run the engine; see `OnnxModel.__call__`."""
        return run_in_batches(self._run, inputs, self.inputs, self.path)

    def _input(self, name: str) -> ModelInput:
        dtype = self._dtypes[self._engine.get_tensor_dtype(name)]
        found = ModelInput.read(name, list(self._engine.get_tensor_shape(name)), dtype)
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        # the builder fixes image sizes, so an axis whose bounds agree is no open one
        shape = tuple(
            low if length is None and axis > 0 and low == high else length
            for axis, (length, low, high) in enumerate(zip(found.shape, least, most, strict=True))
        )
        return replace(found, shape=shape, least=least[0], most=most[0])

    def _run(self, given: Tensors) -> dict[str, Tensor]:
        held = {name: tensor.to(self.device).contiguous() for name, tensor in given.items()}
        for name, tensor in held.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        results = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=self._dtypes[self._engine.get_tensor_dtype(name)],
                device=self.device,
            )
            for name in self.outputs
        }
        for name, tensor in results.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise BackendError(f"{self.path}: TensorRT could not run the engine", hint="nvidia-smi")
        stream.synchronize()
        return results


def _dtypes(trt: Any) -> dict[Any, torch.dtype]:
    return {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
        trt.DataType.BOOL: torch.bool,
    }
