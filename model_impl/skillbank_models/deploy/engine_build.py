"""Building a TensorRT engine from an ONNX file.

Uses the Python interface of TensorRT 10,
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from skillbank.errors import BackendError, ConflictError, InvalidValueError, NotFoundError
from skillbank.jobs.files import write_json
from skillbank_models.deploy import graph
from skillbank_models.deploy.engine import require_tensorrt, sidecar_path

__all__ = ["EnginePlan", "batch_profile", "build_engine"]

log = logging.getLogger(__name__)

_PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """What to build.

    Attributes:
        profile: smallest, usual and largest batch.
        workspace_mb: scratch memory of the builder.
        fp16: half precision where the builder finds it faster.
        layers_precision: ``pattern:fp32`` or ``pattern:fp16``; the pattern is matched with names of graph
            nodes.
        keep_fp32: patterns of nodes that half precision would spoil; `layers_precision` goes before them.
        size: height and width for a graph that leaves them open.
        timing_cache: kernel timings, read where the file exists and written afterwards.
    """

    onnx_file: Path
    engine_file: Path
    profile: tuple[int, int, int]
    workspace_mb: int
    fp16: bool
    layers_precision: Sequence[str]
    keep_fp32: Sequence[str]
    size: tuple[int, int] | None
    timing_cache: Path | None
    verbose: bool


def batch_profile(onnx_batch: int | None, asked: int, bounds: tuple[int, int, int]) -> tuple[int, int, int]:
    """The batches an engine is to take.

    Args:
        onnx_batch: of the ONNX file; None = open.
        asked: `gen_trt_engine.batch_size`, -1 = that of the file.
        bounds: the spec's smallest, usual and largest batch, for an open one.

    Raises:
        ConflictError: a file of fixed batch cannot give an engine of another.
    """
    if onnx_batch is None:
        return (asked, asked, asked) if asked > 0 else bounds
    if asked > 0 and asked != onnx_batch:
        raise ConflictError(
            f"gen_trt_engine.batch_size: {asked} is asked for, but the ONNX file has the fixed batch "
            f"{onnx_batch}",
            hint="export with export.batch_size=-1 for an open batch",
            key="gen_trt_engine.batch_size",
            value=asked,
            allowed=[-1, onnx_batch],
        )
    return (onnx_batch, onnx_batch, onnx_batch)


def build_engine(plan: EnginePlan) -> dict[str, Any]:
    """Build and put in place the engine, its metadata and the timing cache.

    A graph with integers and scales is built strongly typed: its own types hold and the precision settings do
    not.

    Returns:
        What was built, as JSON values; also stored beside the engine.

    Raises:
        NotFoundError: no ONNX file.
        RuntimeMissingError: no TensorRT, or no GPU.
        InvalidValueError: a precision setting cannot be read or matches no layer.
        BackendError: TensorRT cannot read the graph or build the engine.
    """
    if not plan.onnx_file.is_file():
        raise NotFoundError(
            f"there is no file {plan.onnx_file}",
            hint=f"ls -l {plan.onnx_file.parent}",
            key=str(plan.onnx_file),
        )
    rules = _rules(plan)
    trt = require_tensorrt("building an engine")
    import onnx

    model = onnx.load_model(str(plan.onnx_file), load_external_data=False)
    quantised = graph.is_quantised(model)
    logger = trt.Logger(trt.Logger.VERBOSE if plan.verbose else trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag) if quantised else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(plan.onnx_file)):
        said = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackendError(
            f"{plan.onnx_file}: TensorRT {trt.__version__} cannot read the graph ({said})",
            hint="export with another opset_version",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mb << 20)
    config.add_optimization_profile(_profile(builder.create_optimization_profile(), network, plan))
    if quantised:
        log.info("%s holds integers with scales: built as typed, data_type is not used", plan.onnx_file.name)
    elif plan.fp16:
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _apply(trt, network, rules)
    cache = config.create_timing_cache(_bytes(plan.timing_cache))
    config.set_timing_cache(cache, ignore_mismatch=False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise BackendError(
            f"{plan.onnx_file}: TensorRT {trt.__version__} could not build an engine",
            hint="gen_trt_engine.verbose=true logs why; a larger tensorrt.workspace_size often helps",
        )
    _replace(plan.engine_file, bytes(built))
    if plan.timing_cache is not None:
        _replace(plan.timing_cache, bytes(config.get_timing_cache().serialize()))
    about = {
        "onnx_file": plan.onnx_file.name,
        "tensorrt": trt.__version__,
        "precision": "as typed" if quantised else "fp16" if plan.fp16 else "fp32",
        "batch": dict(zip(("min", "opt", "max"), plan.profile, strict=True)),
        "bytes": plan.engine_file.stat().st_size,
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }
    write_json(sidecar_path(plan.engine_file), about, mode=0o644)
    return about


def _rules(plan: EnginePlan) -> list[tuple[str, str, bool]]:
    """Pattern, precision, and whether a user wrote it."""
    rules: list[tuple[str, str, bool]] = []
    for text in plan.layers_precision:
        pattern, _, precision = text.rpartition(":")
        if not pattern or precision.lower() not in _PRECISIONS:
            raise InvalidValueError(
                f"gen_trt_engine.tensorrt.layers_precision: {text!r} is no layer:precision; the precision "
                "is fp32 or "
                "fp16",
                hint="gen_trt_engine.tensorrt.layers_precision=['*cross_attention*:fp32']",
                key="gen_trt_engine.tensorrt.layers_precision",
                value=text,
                allowed=list(_PRECISIONS),
            )
        rules.append((pattern, precision.lower(), True))
    return rules + [(pattern, "fp32", False) for pattern in plan.keep_fp32]


def _profile(profile: Any, network: Any, plan: EnginePlan) -> Any:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        lengths = list(tensor.shape)
        sizes: Mapping[int, int] = dict(enumerate(plan.size, start=2)) if plan.size else {}
        shape = [sizes.get(axis, 1) if length < 0 else length for axis, length in enumerate(lengths)][1:]
        profile.set_shape(tensor.name, *[(batch, *shape) for batch in plan.profile])
    return profile


def _apply(trt: Any, network: Any, rules: Sequence[tuple[str, str, bool]]) -> None:
    """Set precisions, first match wins; layers that compute with integers are left alone.

    Raises:
        InvalidValueError: a pattern of the user's matches nothing.
    """
    dtypes = {"fp32": trt.float32, "fp16": trt.float16}
    used: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = range(layer.num_outputs)
        if any(layer.get_output(number).dtype not in dtypes.values() for number in outputs):
            continue
        found = next((rule for rule in rules if fnmatchcase(layer.name, rule[0])), None)
        if found is None:
            continue
        used.add(found[0])
        layer.precision = dtypes[found[1]]
        for number in outputs:
            layer.set_output_type(number, dtypes[found[1]])
    unused = [pattern for pattern, _, is_own in rules if is_own and pattern not in used]
    if unused:
        raise InvalidValueError(
            f"gen_trt_engine.tensorrt.layers_precision: no layer is named like {', '.join(unused)}",
            hint="names of layers are those of the ONNX nodes: <module>/<operator>_<number>",
            key="gen_trt_engine.tensorrt.layers_precision",
            value=unused,
        )


def _bytes(path: Path | None) -> bytes:
    return path.read_bytes() if path is not None and path.is_file() else b""


def _replace(path: Path, content: bytes) -> None:
    if path.exists():
        log.warning("%s exists and is replaced", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
