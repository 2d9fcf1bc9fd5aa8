"""ONNX file of the 3D part: what to export, and rooms to check it with.

Letters: `N` voxels, `G` side of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank_models.deploy.comparison import Tolerance
from skillbank_models.deploy.onnx_file import Axis, OnnxPlan, export_onnx
from skillbank_models.nvpanoptix3d.exported_volume import COORDS, OUTPUTS, ExportedVolume
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder

__all__ = ["example_room", "export_volume"]

# Rounding differs by around 1e-5. Where that carries the occupancy of a voxel over zero, the 342 voxels
# around it differ as a whole, and all others by a thousandth, since norms are over all voxels. A wrong
# operator is off by more, and everywhere.
TOLERANCE = Tolerance(absolute=5e-3, share=0.1, lists=OUTPUTS[:3], list_key=COORDS)
_SIDE = 24  # of the box that example rooms are in, voxels
_QUERIES = 8


def export_volume(
    decoder: FrustumDecoder,
    path: Path,
    *,
    max_voxels: int,
    num_queries: int,
    opset: int,
    metadata: Mapping[str, str],
    verbose: bool,
) -> dict[str, Any]:
    """Write the 3D part as ONNX, with a report beside it.

    Args:
        decoder: with trained weights; left in eval mode on the CPU.
        path: file to write.
        max_voxels: most voxels at one resolution.
        num_queries: queries of the 2D part.
        opset: operator set.
        metadata: stored in the file.
        verbose: log what the exporter says.

    Returns:
        The report.

    Raises:
        SkillBankError: missing packages, a graph that cannot be exported or answers otherwise than torch.
    """
    module = ExportedVolume(decoder.cpu().eval(), max_voxels=max_voxels)
    rooms = [example_room(decoder, seed=seed, num_queries=num_queries) for seed in (0, 1)]
    plan = OnnxPlan(
        path=path,
        inputs=rooms[0],
        outputs=OUTPUTS,
        axes=_axes(rooms[0]),
        batch=None,
        opset=opset,
        metadata=metadata,
        samples=rooms,
        tolerance=TOLERANCE,
        prefix="decoder.",
        verbose=verbose,
    )
    return export_onnx(module, plan)


def example_room(decoder: FrustumDecoder, *, seed: int, num_queries: int) -> dict[str, Tensor]:
    """Inputs of the graph: random features on random voxels of a small box in the middle of the grid."""
    random = torch.Generator().manual_seed(seed)
    encoder, side = decoder.encoder, decoder.side
    low, high = (side - _SIDE) // 2, (side + _SIDE) // 2

    def voxels(share: float, factor: int) -> Tensor:
        """(N, 3) int64."""
        chosen = torch.rand((_SIDE // factor,) * 3, generator=random) < share
        return chosen.nonzero() + low // factor

    def rows(number: int, layer: torch.nn.Module) -> Tensor:
        weight = layer.get_submodule("conv1").weight
        assert isinstance(weight, Tensor)
        return torch.randn(number, weight.shape[1], generator=random)

    near, lifted = voxels(0.02, 1), voxels(0.04, 1)
    found = {
        "projected_coords": near,
        "distance": rows(len(near), encoder.distance),
        "appearance": rows(len(near), encoder.appearance),
        "classes": rows(len(near), encoder.classes),
        "lifted_coords": lifted,
        "lifted": rows(len(lifted), encoder.lifted),
        "queries": torch.randn(num_queries, decoder.fine.query.in_features, generator=random),
        "frustum": torch.zeros(side, side, side, dtype=torch.bool),
    }
    found["frustum"][low:high, low:high, low:high] = True
    for number, layer in enumerate(encoder.scales):
        stride = 2 << number
        coarse = voxels(0.3, stride)
        found[f"scale_{stride}_coords"] = coarse
        found[f"scale_{stride}"] = rows(len(coarse), layer)
    return found


def _axes(inputs: Mapping[str, Tensor]) -> dict[str, dict[int, Axis]]:
    """The lists of voxels are of any length, and those of one kind are of one."""
    kinds = {"distance": "projected", "appearance": "projected", "classes": "projected"}
    fixed = ("queries", "frustum")
    return {
        name: {0: Axis(f"{kinds.get(name, name.removesuffix('_coords'))}_voxels")}
        for name in inputs
        if name not in fixed
    }
