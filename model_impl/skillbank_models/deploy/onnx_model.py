"""Running an ONNX file: tensors or arrays in, the same kind out, whatever batch the file was made for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank.errors import BackendError, InvalidValueError, NotFoundError, RuntimeMissingError
from skillbank.runtime import is_installed
from skillbank_models.deploy.batches import Tensors, Values, run_in_batches
from skillbank_models.deploy.model_io import ModelInput

__all__ = ["OnnxModel"]

log = logging.getLogger(__name__)


class OnnxModel:
    """A network in an ONNX file.

    Args:
        path: the file.
        device: where to run; CUDA is used where this ONNX Runtime has it, else the CPU, with a notice.

    Attributes:
        inputs: name -> what the file takes, in its order.
        outputs: names of the results, in order.
        metadata: what the exporter stored in the file.
        providers: what ONNX Runtime runs on.

    Raises:
        NotFoundError: no such file.
        RuntimeMissingError: ONNX Runtime is not installed.
        BackendError: the file holds operators of TensorRT plug-ins.
        InvalidValueError: no ONNX file.
    """

    def __init__(self, path: Path, *, device: torch.device) -> None:
        if not path.is_file():
            raise NotFoundError(f"there is no file {path}", hint=f"ls -l {path.parent}", key=str(path))
        if not is_installed("onnxruntime"):
            raise RuntimeMissingError(
                f"running {path.name} needs ONNX Runtime, which is not installed",
                hint="pip install -c constraints.txt 'skillbank[export]', or onnxruntime-gpu for CUDA",
                key="onnxruntime",
            )
        self.path = path
        self.device = device
        self._session = _session(path, device)
        self.providers: list[str] = self._session.get_providers()
        self.inputs: dict[str, ModelInput] = {
            found.name: ModelInput.read(found.name, found.shape, _DTYPES[found.type])
            for found in self._session.get_inputs()
        }
        self.outputs: list[str] = [found.name for found in self._session.get_outputs()]
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def batch_size(self) -> int | None:
        """Images of one call; None = any number."""
        return next(iter(self.inputs.values())).most

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the image input; None = any multiple of 32."""
        return next(iter(self.inputs.values())).size

    def __call__(self, inputs: Values) -> dict[str, Any]:
        """Run the file.

        Args:
            inputs: one array for a file with one input, else arrays by name; float32 images are (B, 3, H, W).
                B may be any number: a file of fixed batch is called as often as needed, the last time with
                copies of the last image, whose results are dropped.

        Returns:
            Results by name, tensors for tensors and arrays for arrays.

        Raises:
            ShapeError: an array does not fit what the file takes.
        """
        return run_in_batches(self._run, inputs, self.inputs, self.path)

    def _run(self, given: Tensors) -> dict[str, Tensor]:
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in given.items()}
        found = self._session.run(self.outputs, arrays)
        return {name: torch.from_numpy(array) for name, array in zip(self.outputs, found, strict=True)}


_DTYPES: Mapping[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


def _session(path: Path, device: torch.device) -> Any:
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        else:
            log.warning(
                "this ONNX Runtime has no CUDA, so %s runs on the CPU: pip install onnxruntime-gpu", path.name
            )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; its notes about single operators mean nothing to a user
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as err:  # the runtime has classes of its own, without a public base
        said = (str(err).splitlines() or [type(err).__name__])[0]
        if "Plugin" in said or "not a registered function/op" in said:
            raise BackendError(
                f"{path}: the file holds operators that only TensorRT runs ({said})",
                hint="export with export.on_cpu=true for ONNX Runtime, or build an engine with "
                "gen_trt_engine",
                key=str(path),
            ) from err
        raise InvalidValueError(
            f"{path} cannot be read as an ONNX file ({said})",
            hint="export it again; a file cut off in copying looks like this",
            key=str(path),
        ) from err
