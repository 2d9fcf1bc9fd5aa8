"""The block `quantize` of a spec: which library serves it here, and what it cannot ask for."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillbank.errors import (
    ConflictError,
    InvalidValueError,
    MissingValueError,
    NotFoundError,
    NotInThisVersionError,
    SkillBankError,
    collect,
)
from skillbank_models.deploy.opset import EXPORTER_FLOOR

__all__ = ["Method", "Settings", "read_settings"]

_STATIC: Mapping[str, str] = {"minmax": "MinMax", "max": "MinMax", "entropy": "Entropy"}
_WEIGHTS = (
    "minmax",
    "max",
    "rtn_dq",
)  # one thing here: the largest value sets the scale, numbers are rounded
_STEP = 32
_IMAGES = 64


class Method(enum.Enum):
    """The ways of quantising that exist here."""

    TORCH_WEIGHTS = "weights of a checkpoint, by torchao"
    GRAPH_WEIGHTS = "weights of an ONNX file"
    GRAPH_STATIC = "weights and inputs of layers of an ONNX file, by ONNX Runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to do.

    Attributes:
        source: checkpoint or ONNX file.
        library: what does it, for the report.
        note: what is done otherwise than the spec's words suggest; empty where nothing is.
        calibrate: MinMax, Entropy or Percentile.
        percentile: for Percentile, in percent.
        images: most calibration images.
        input_size: height and width of an ONNX file that is made from a checkpoint; None follows the test
            size.
        opset: of such a file.
    """

    method: Method
    source: Path
    library: str
    note: str
    layers: Sequence[Any]
    skip_names: Sequence[str]
    calibrate: str
    percentile: float
    images: int
    input_size: tuple[int, int] | None
    opset: int


def read_settings(spec: Any) -> Settings:
    """Check the block as a whole.

    Raises:
        NotInThisVersionError: a backend that nothing here serves.
        NotFoundError: no file to quantise.
        SpecError: all settings that cannot be followed.
    """
    block = spec.quantize
    backend, mode = block.backend or "torchao", block.mode or "weight_only_ptq"
    if backend == "modelopt.pytorch":
        raise NotInThisVersionError(
            "quantize.backend: modelopt.pytorch is not driven by this version, whether it is installed or "
            "not",
            hint="quantize.backend=torchao quantises the weights of a checkpoint; quantize.mode=static_ptq "
            "with "
            "quantize.backend=modelopt.onnx writes an ONNX file for ONNX Runtime and TensorRT",
            key="quantize.backend",
            value=backend,
            allowed=["torchao", "modelopt.onnx"],
        )
    if not block.model_path:
        raise MissingValueError(
            "quantize.model_path: nothing is given",
            hint="quantize.model_path=model.pth",
            key="quantize.model_path",
        )
    source = Path(block.model_path)
    if not source.exists():
        raise NotFoundError(
            f"quantize.model_path: there is no file {source}",
            hint=f"ls -l {source.parent}",
            key="quantize.model_path",
            value=str(source),
        )
    problems: list[SkillBankError] = []
    is_onnx = source.suffix.lower() == ".onnx"
    if is_onnx and backend == "torchao":
        problems.append(
            ConflictError(
                f"quantize.backend: torchao quantises checkpoints, and {source} is an ONNX file",
                hint="quantize.backend=modelopt.onnx",
                key="quantize.backend",
                value=backend,
                allowed=["modelopt.onnx"],
            )
        )
    is_static = mode == "static_ptq"
    if is_static:
        _calibration(spec, problems)
    calibrate = _algorithm(block.algorithm or "minmax", is_static, problems)
    options = _options(block.backend_kwargs or {}, problems)
    if problems:
        raise collect(problems, "quantize")
    method, library, note = _served(backend, is_static, is_onnx)
    return Settings(
        method=method,
        source=source,
        library=library,
        note=note,
        layers=block.layers or [],
        skip_names=block.skip_names or [],
        calibrate="Percentile" if "percentile" in options else calibrate,
        percentile=options.get("percentile", 99.99),
        images=options.get("images", _IMAGES),
        input_size=options.get("input_size"),
        opset=options.get("opset", EXPORTER_FLOOR),
    )


def _served(backend: str, is_static: bool, is_onnx: bool) -> tuple[Method, str, str]:
    if backend == "torchao" and not is_static:
        return Method.TORCH_WEIGHTS, "torchao", ""
    method = Method.GRAPH_STATIC if is_static else Method.GRAPH_WEIGHTS
    library = "onnxruntime" if is_static else "skillbank"
    if backend == "torchao":
        return (
            method,
            library,
            "torchao measures no ranges of inputs here; static_ptq is done by ONNX Runtime",
        )
    note = "modelopt.onnx is served by " + (
        "ONNX Runtime's own quantiser" if is_static else "rounding the weights"
    )
    return method, library, note + ("" if is_onnx else ", after an export of the checkpoint")


def _calibration(spec: Any, problems: list[SkillBankError]) -> None:
    key = "dataset.quant_calibration_dataset.images_dir"
    if not spec.dataset.quant_calibration_dataset.images_dir:
        problems.append(
            MissingValueError(
                f"{key} is empty; static_ptq measures ranges on a folder of images",
                hint=f"{key}=images",
                key=key,
            )
        )


def _algorithm(name: str, is_static: bool, problems: list[SkillBankError]) -> str:
    allowed = sorted(_STATIC) if is_static else sorted(_WEIGHTS)
    if name not in allowed:
        mode = "static_ptq" if is_static else "weight_only_ptq"
        problems.append(
            InvalidValueError(
                f"quantize.algorithm: {name} is not available in mode {mode} here; use {', '.join(allowed)}",
                hint="quantize.algorithm=minmax",
                key="quantize.algorithm",
                value=name,
                allowed=allowed,
            )
        )
    return _STATIC.get(name, "MinMax")


def _options(given: Mapping[str, Any], problems: list[SkillBankError]) -> dict[str, Any]:
    """`backend_kwargs`, checked."""

    def side(value: Any) -> bool:
        return isinstance(value, int) and value > 0 and value % _STEP == 0

    checks: Mapping[str, tuple[Any, str]] = {
        "images": (lambda value: isinstance(value, int) and value > 0, "a whole number above 0"),
        "input_size": (
            lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(side, value)),
            f"[height, width], multiples of {_STEP}",
        ),
        "opset": (lambda value: isinstance(value, int) and value >= 17, "an ONNX operator set, 17 or later"),
        "percentile": (
            lambda value: isinstance(value, int | float) and 50 < value <= 100,
            "above 50, at most 100",
        ),
    }
    out: dict[str, Any] = {}
    for name, value in given.items():
        if name not in checks:
            wrong = f"is not known; use {', '.join(checks)}"
        elif not checks[name][0](value):
            wrong = f"is {value!r}; it must be {checks[name][1]}"
        else:
            out[name] = tuple(value) if name == "input_size" else value
            continue
        problems.append(
            InvalidValueError(
                f"quantize.backend_kwargs.{name} {wrong}",
                hint="quantize.backend_kwargs={}",
                key="quantize.backend_kwargs",
                value=name,
                allowed=list(checks),
            )
        )
    return out
