"""Opening a deployed network by the ending of its file."""

from __future__ import annotations

from pathlib import Path

import torch

from skillbank.errors import InvalidValueError
from skillbank_models.deploy.engine import EngineModel
from skillbank_models.deploy.model_io import DeployedModel
from skillbank_models.deploy.onnx_model import OnnxModel

__all__ = ["ENDINGS", "is_deployed", "open_deployed"]

ENDINGS = (".onnx", ".engine", ".plan")


def is_deployed(path: str | Path) -> bool:
    """Whether a path names a file that is run as a whole rather than loaded into a module."""
    return Path(path).suffix.lower() in ENDINGS


def open_deployed(path: Path, device: torch.device) -> DeployedModel:
    """The network in an ONNX file or TensorRT engine.

    Raises:
        InvalidValueError: another kind of file.
    """
    ending = path.suffix.lower()
    if ending == ".onnx":
        return OnnxModel(path, device=device)
    if ending in ENDINGS:
        return EngineModel(path, device=device)
    raise InvalidValueError(
        f"{path} is no deployed network; its ending must be one of {', '.join(ENDINGS)}",
        hint="export writes .onnx files, gen_trt_engine writes .engine files",
        key=str(path),
        value=ending,
        allowed=list(ENDINGS),
    )
