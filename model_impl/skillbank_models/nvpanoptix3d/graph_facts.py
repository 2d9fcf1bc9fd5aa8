"""What an exported 2D part says about itself, and whether a spec and a 3D part belong to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from skillbank.errors import ConflictError
from skillbank_models.data.categories import Categories, Category
from skillbank_models.deploy.agreement import check_settings

__all__ = ["NETWORK_NAME", "check_agrees", "check_weights", "mark_of", "part_facts", "stored_classes"]

NETWORK_NAME = "nvpanoptix3d"
# what changes between trainings of one backbone: enough to tell two of them apart, and small
_MARKED = ("sem_seg_head.", "projector.")
_SETTINGS = ("model.sem_seg_head.num_classes", "model.mask_former.size_divisibility")
_SETTINGS_3D = (
    "dataset.reduced_target_size",
    "model.compat.depth_features",
    "model.compat.occupancy_head",
    "model.occupancy_head.bins",
)


def part_facts(spec: Any, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Texts to store in the file: settings that are inside the graph, and which weights it has.

    Args:
        spec: of the export.
        tensors: weights of the 2D part and the projector, with the names that they have in the network.
    """
    settings = {key: _value(spec, key) for key in _SETTINGS + _SETTINGS_3D}
    return {"settings": json.dumps(settings), "weights": mark_of(tensors)}


def mark_of(tensors: Mapping[str, Tensor]) -> str:
    """Text that is the same only for the same trained 2D part.

    Args:
        tensors: by their names in the network; others than those of heads and projector are passed over.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith(_MARKED):
            values = tensors[name].detach().float().cpu().contiguous()
            digest.update(f"{name} {tuple(values.shape)}\n".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_agrees(metadata: Mapping[str, str], spec: Any, where: str) -> None:
    """Refuse a file that was exported for other settings than the spec's, where these are inside the graph.

    Raises:
        ConflictError: lists every setting that differs.
    """
    keys = _SETTINGS + (_SETTINGS_3D if spec.dataset.enable_3d else ())
    stored = json.loads(metadata.get("settings", "{}"))
    settings = {key: (stored[key], _value(spec, key)) for key in keys if key in stored}
    check_settings(metadata, settings, network=NETWORK_NAME, where=where)


def check_weights(metadata: Mapping[str, str], mark: str, *, where: str, checkpoint: str) -> None:
    """Refuse a file whose 2D part is not the one that the 3D part of a checkpoint was trained behind.

    Args:
        mark: of the weights in the checkpoint.

    Raises:
        ConflictError: they differ.
    """
    if metadata.get("weights", mark) == mark:
        return
    raise ConflictError(
        f"{where} and {checkpoint} do not belong together: the file was exported from other weights, and a "
        "3D part knows only the 2D part that it was trained behind",
        hint=f"export again with export.checkpoint={checkpoint}, or name the checkpoint of the export",
        key=where,
    )


def stored_classes(metadata: Mapping[str, str]) -> Categories | None:
    """The classes that the file was exported with; None when it does not tell."""
    if "classes" not in metadata or "num_classes" not in metadata:
        return None
    by_index: list[Category | None] = [None] * int(json.loads(metadata["num_classes"]))
    for row in json.loads(metadata["classes"]):
        red, green, blue = row["color"]
        by_index[row["index"]] = Category(row["id"], row["name"], (red, green, blue), bool(row["isthing"]))
    return Categories(tuple(by_index))


def _value(spec: Any, key: str) -> Any:
    value = spec
    for part in key.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, (list, tuple)) else value
