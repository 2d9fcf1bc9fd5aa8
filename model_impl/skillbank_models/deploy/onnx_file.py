"""ONNX files of a network: written, checked against torch, and only then put in place with a report."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skillbank.errors import BackendError, InvalidValueError, NotFoundError, RuntimeMissingError
from skillbank.jobs.files import write_json
from skillbank.runtime import is_installed
from skillbank_models.deploy import graph
from skillbank_models.deploy.comparison import Tolerance, compare, require_equal
from skillbank_models.deploy.folding import fold_weights
from skillbank_models.deploy.opset import EXPORTER_FLOOR, LOWEST, to_opset_17
from skillbank_models.deploy.quiet import quiet_loggers

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Axis", "OnnxPlan", "export_onnx", "report_path", "require_export_packages", "save_model"]

log = logging.getLogger(__name__)

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_TALKATIVE = ("torch.onnx", "torch._dynamo", "torch.export", "onnxscript", "onnx_ir")
# protobuf refuses 2 GiB and more; weights go to a file beside it before that, which leaves room for the nodes
_LARGEST_FILE_BYTES = 2**31 - 2**26


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of unknown length.

    Attributes:
        name: its name in the file; axes of one name have one length.
        multiple: what the length is a multiple of.
    """

    name: str
    multiple: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxPlan:
    """What to export.

    Attributes:
        path: file to write.
        inputs: example of each argument of forward, by name; open lengths are at least twice their multiple,
            because the tracer takes a length of one for a constant.
        outputs: names of what forward returns, in order.
        axes: input -> axis -> unknown length; all other lengths are fixed at those of the example.
        batch: name of the axis that every output has first; None where the batch is fixed.
        constants: outputs that are the same for every input, and so have no batch.
        opset: operator set as asked for.
        key: spec key that asks for the operator set, for messages.
        metadata: stored in the file.
        samples: inputs to compare with torch on.
        tolerance: what counts as equal.
        prefix: start of module names that is left out of node names.
        custom_operators: accept operators outside the standard set; such a graph runs in TensorRT only.
        verbose: log what the exporter says.
    """

    path: Path
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    axes: Mapping[str, Mapping[int, Axis]]
    batch: str | None
    constants: tuple[str, ...] = ()
    opset: int
    key: str = "export.opset_version"
    metadata: Mapping[str, str]
    samples: Sequence[Mapping[str, Tensor]]
    tolerance: Tolerance
    prefix: str = "model."
    custom_operators: bool = False
    verbose: bool = False


def report_path(onnx_file: Path) -> Path:
    """Where the report of an ONNX file is."""
    return onnx_file.with_name(f"{onnx_file.name}.report.json")


def require_export_packages() -> None:
    """Refuse early where the packages that write and check ONNX files are missing.

    Raises:
        RuntimeMissingError: names them, and how to get them.
    """
    absent = [name for name in _NEEDED if not is_installed(name)]
    if absent:
        raise RuntimeMissingError(
            f"writing and checking ONNX files needs {', '.join(absent)}, which "
            f"{'is' if len(absent) == 1 else 'are'} "
            "not installed",
            hint="pip install -c constraints.txt 'skillbank[export]'",
            key=absent[0],
        )


def export_onnx(module: nn.Module, plan: OnnxPlan) -> dict[str, Any]:
    """Export a module, check the file, compare it with torch, then put it and its report in place.

    The module is left in eval mode on the CPU.

    Args:
        module: its forward takes the plan's inputs by name and returns a tuple of tensors.

    Returns:
        The report that was written beside the file.

    Raises:
        RuntimeMissingError: the packages of the extra ``export`` are not there.
        InvalidValueError: the operator set cannot be written.
        NotFoundError: no folder to write to.
        BackendError: the graph cannot be exported as asked, or answers otherwise than torch.
    """
    require_export_packages()
    if not plan.path.parent.is_dir():
        raise NotFoundError(
            f"{plan.path}: there is no folder {plan.path.parent}",
            hint=f"mkdir -p {plan.path.parent}",
            key=str(plan.path),
        )
    opset = _usable(plan)
    module = module.eval()
    model = _export(module, plan, opset)
    fold_weights(model)
    graph.name_axes(
        model,
        {name: {axis: found.name for axis, found in axes.items()} for name, axes in plan.axes.items()},
        everywhere=[plan.batch] if plan.batch else [],
        but=plan.constants,
    )
    graph.tidy(model, prefix=plan.prefix, metadata=plan.metadata)
    _settle_versions(model, opset, plan.key)
    facts = graph.facts(model)
    if facts["custom_operators"] and not plan.custom_operators:
        raise BackendError(
            f"{plan.path}: the graph holds {', '.join(facts['custom_operators'])}, which are no standard "
            "operators",
            hint=f"{plan.key}={EXPORTER_FLOOR}",
        )
    report: dict[str, Any] = {"onnx_file": plan.path.name, "opset_asked": plan.opset, **facts}

    def check(file: Path) -> None:
        if facts["custom_operators"]:
            report["comparison"] = {
                "done": False,
                "reason": f"{', '.join(facts['custom_operators'])} runs in TensorRT only; "
                "the same weights written with standard operators can be compared",
            }
            return
        found = compare(module, file, plan.samples, plan.tolerance)
        require_equal(found, str(plan.path))
        report["comparison"] = {"done": True, **found}

    size = save_model(model, plan.path, check=check)
    report.update(bytes=size, metadata=dict(plan.metadata))
    write_json(report_path(plan.path), report, mode=0o644)
    return report


def save_model(model: ModelProto, path: Path, *, check: Callable[[Path], None] | None = None) -> int:
    """Check a model and put it in place; an existing file is replaced, with a notice.

    A model of 2 GiB or more keeps its weights in ``<path>.data`` beside it.

    Args:
        check: called with the file under a temporary name; what it raises keeps the file from being put in
            place.

    Returns:
        Bytes written.

    Raises:
        BackendError: the checker of ONNX refuses the model.
    """
    import onnx

    if path.exists():
        log.warning("%s exists and is replaced", path)
    with _private_folder(path.parent) as folder:
        file = folder / path.name
        # weight by weight: protobuf cannot even count what it cannot write
        if sum(tensor.ByteSize() for tensor in model.graph.initializer) < _LARGEST_FILE_BYTES:
            onnx.save_model(model, str(file))
        else:
            onnx.save_model(model, str(file), save_as_external_data=True, location=f"{path.name}.data")
        try:
            onnx.checker.check_model(str(file), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
            said = (str(err).splitlines() or ["no reason given"])[0]
            raise BackendError(
                f"{path}: the exported graph is not valid ONNX ({said})",
                hint="try another opset_version, and report the case with the spec",
            ) from err
        if check is not None:
            check(file)
        written = sorted(folder.iterdir(), key=lambda found: found.name == path.name)  # the graph itself last
        size = sum(found.stat().st_size for found in written)
        for found in written:
            found.chmod(0o644)  # weights beside a file are written for the owner alone
            found.replace(path.with_name(found.name))
    return size


@contextlib.contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """A folder on the same disk, so that renaming out of it is one step; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".onnx.", suffix=".part", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _usable(plan: OnnxPlan) -> int:
    """The operator set to write."""
    from onnx import defs

    if plan.opset > defs.onnx_opset_version():
        raise InvalidValueError(
            f"{plan.key}: {plan.opset} is unknown to the installed onnx; use {LOWEST} to "
            f"{defs.onnx_opset_version()}",
            hint=f"{plan.key}={LOWEST}",
            key=plan.key,
            value=plan.opset,
        )
    if plan.opset < LOWEST:
        log.warning(
            "%s: operator set %d has no GridSample or LayerNormalization; %d is written instead",
            plan.key,
            plan.opset,
            LOWEST,
        )
        return LOWEST
    return plan.opset


def _export(module: nn.Module, plan: OnnxPlan, opset: int) -> ModelProto:
    lengths = _lengths(plan)
    shapes = {
        name: {axis: lengths[found.name] for axis, found in plan.axes.get(name, {}).items()} or None
        for name in plan.inputs
    }
    try:
        with _quiet(verbose=plan.verbose), torch.no_grad():
            program = torch.onnx.export(
                module,
                (),
                kwargs=dict(plan.inputs),
                dynamo=True,
                opset_version=max(opset, EXPORTER_FLOOR),
                input_names=list(plan.inputs),
                output_names=list(plan.outputs),
                dynamic_shapes=shapes if lengths else None,
                verbose=plan.verbose,
            )
    except torch.onnx.OnnxExporterError as err:
        raise BackendError(
            f"{plan.path}: torch cannot export this network ({_reason(err)})",
            hint="export.verbose=true logs what the exporter does",
        ) from err
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def _lengths(plan: OnnxPlan) -> dict[str, Any]:
    """One symbol for each name of an axis."""
    largest = 2**16
    found: dict[str, Any] = {}
    for axis in (axis for axes in plan.axes.values() for axis in axes.values()):
        if axis.multiple == 1:
            found[axis.name] = torch.export.Dim.DYNAMIC
        else:
            steps = torch.export.Dim(f"{axis.name}_steps", min=1, max=largest // axis.multiple)
            found.setdefault(axis.name, axis.multiple * steps)
    return found


def _reason(err: BaseException) -> str:
    """The first cause in its own words; the exporter wraps it in a page of general advice."""
    while err.__cause__ is not None:
        err = err.__cause__
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0] if lines else type(err).__name__


def _settle_versions(model: ModelProto, opset: int, key: str) -> None:
    """Reach the operator set that was asked for, and the oldest file version that can hold it."""
    from onnx import helper

    if opset < EXPORTER_FLOOR:
        to_opset_17(model, key=key)
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written[""] != opset:
        raise InvalidValueError(
            f"{key}: the exporter wrote operator set {written['']} instead of {opset} for this network",
            hint=f"{key}={written['']}",
            key=key,
            value=opset,
        )
    used = {node.domain for node in model.graph.node} | {""}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    model.ir_version = helper.find_min_ir_version_for(standard)


@contextlib.contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    """Keep the exporter's progress lines and notices off the streams; with `verbose` they go to the log."""
    said = io.StringIO()
    with (
        quiet_loggers(_TALKATIVE, level=logging.INFO if verbose else logging.ERROR),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(said),
    ):
        warnings.simplefilter("ignore")  # of the exporter's own calls; nothing here for a user to act on
        yield
    if verbose and said.getvalue().strip():
        log.info("exporter:\n%s", said.getvalue().rstrip())
