"""Weights of the public VGGT file, as the backbone of NVPanoptix3D."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from skillbank_models.nvpanoptix3d.vggt.patch_embedding import resize_positions
from skillbank_models.weights.files import read_tensors
from skillbank_models.weights.matching import LoadReport, load_matching

__all__ = ["load_backbone"]

log = logging.getLogger(__name__)

MIN_SHARE = 0.5  # below it, a file is of something else
POSITIONS = "aggregator.patch_embed.pos_embed"
_WRAPPERS = re.compile(r"^(?:module\.|model\.|backbone\.)+")
_UNUSED = ("point_head.", "track_head.")


def load_backbone(backbone: nn.Module, path: Path, *, key: str) -> LoadReport:
    """Load the public VGGT-1B file, or any file that holds such a backbone.

    Names may begin with ``module.``, ``model.`` or ``backbone.``, or several of these; heads for points and
    tracks are left out; a position table for another grid is resized. The log tells how many tensors fit.

    Args:
        backbone: takes the weights; on the meta device it takes over the tensors themselves.
        path: weight file or folder.
        key: spec key that named it.

    Returns:
        What fits and what does not.

    Raises:
        NotFoundError: there is no such file.
        InvalidValueError: the file cannot be read, or fits less than half of the backbone.
    """
    path = Path(path)
    tensors = _own_names(read_tensors(path, key=key).tensors)
    wanted = backbone.state_dict()
    if POSITIONS in tensors and POSITIONS in wanted:
        tensors[POSITIONS] = _fit(tensors[POSITIONS], wanted[POSITIONS])
    report = load_matching(backbone, tensors, what=str(path), key=key, min_share=MIN_SHARE)
    log.log(logging.INFO if report.is_exact else logging.WARNING, "%s", report.text())
    return report


def _own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith(_UNUSED)}


def _fit(table: Tensor, wanted: Tensor) -> Tensor:
    """Resize a position table to the grid that is wanted; what is no square table stays as it is."""
    if table.ndim != 3 or table.shape == wanted.shape or table.shape[2] != wanted.shape[2]:
        return table
    old, new = (round((own.shape[1] - 1) ** 0.5) for own in (table, wanted))
    if old < 1 or old * old + 1 != table.shape[1]:
        return table
    log.info("%s: resized from %d x %d to %d x %d", POSITIONS, old, old, new, new)
    return resize_positions(table, (new, new))
