"""``gen_trt_engine.py``: the stand-alone engine builder of the product documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from skillbank_runners.cli.options import DryRun, Output
from skillbank_runners.cli.output import talk
from skillbank_runners.cli.table import Leaf, Scope

__all__ = ["build_engine", "command", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from skillbank_runners.cli.app import run

    return run("gen_trt_engine.py", command, argv)


def command() -> Leaf:
    """The one command there is."""
    return Leaf(
        target="gen_trt_engine:build_engine", scope=Scope(network="nvpanoptix3d", action="gen_trt_engine")
    )


def build_engine(
    ctx: typer.Context,
    onnx_file_2d: Annotated[str, typer.Option("--onnx-file-2d", metavar="FILE", help="Exported ONNX file.")],
    trt_engine_2d: Annotated[
        str, typer.Option("--trt-engine-2d", metavar="FILE", help="Engine file to write.")
    ],
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Batch of the engine.", min=1)
    ] = 1,
    input_height: Annotated[
        int,
        typer.Option("--input-height", metavar="N", help="Height the ONNX file was exported with.", min=1),
    ] = 256,
    input_width: Annotated[
        int, typer.Option("--input-width", metavar="N", help="Width the ONNX file was exported with.", min=1)
    ] = 320,
    workspace_gb: Annotated[
        int, typer.Option("--workspace-gb", metavar="N", help="Scratch memory.", min=1)
    ] = 8,
    dry_run: DryRun = False,
    output: Output = None,
) -> None:
    """Build a TensorRT engine from an exported 2D model; the same as tao nvpanoptix3d gen_trt_engine.

    Example:
    python3 gen_trt_engine.py --onnx_file_2d model_2d.onnx --trt_engine_2d model_2d.engine --workspace_gb 8
    """
    from skillbank_runners.cli.actions import run_in_foreground
    from skillbank_runners.cli.submit import Submission, explain

    scope: Scope = ctx.obj
    asked = Submission(
        network=scope.network,
        action=scope.action,
        settings=(
            f"gen_trt_engine.onnx_file={onnx_file_2d}",
            f"gen_trt_engine.trt_engine={trt_engine_2d}",
            f"gen_trt_engine.batch_size={batch_size}",
            f"gen_trt_engine.tensorrt.workspace_size={workspace_gb * 1024}",
        ),
    )
    if dry_run:
        explain(asked, dry_run=True, explained=False, output=output)
        return
    talk(f"the engine takes images of {input_height} x {input_width} pixels, as the ONNX file has them")
    run_in_foreground(asked, output)
