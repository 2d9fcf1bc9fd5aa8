"""Maps and volumes as stored, checked: sizes, types, classes, and that there is something in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError, DataError
from skillbank_models.data.arrays import check_array, load_npz
from skillbank_models.nvpanoptix3d.camera import STORED_SIDE

__all__ = ["Rules", "clean_depth", "read_maps", "read_volume", "read_volume_labels", "read_weighting"]

_CUBE = (STORED_SIDE,) * 3
_MOST_ID = np.iinfo(np.int32).max
_SIDE_HINT = (
    "volumes are stored at 256 voxels per side; model.frustum3d.grid_dimensions reduces them when read"
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What values of files mean.

    Attributes:
        num_classes: classes are 0 (void) to this number minus one.
        ignore_label: class that is void too.
        near: metres.
        far: metres.
        bound: depth of 3D-Front that is not between `near` and `far` is unknown.
    """

    num_classes: int
    ignore_label: int
    near: float
    far: float
    bound: bool


def read_maps(
    path: Path, size: tuple[int, int], channels: int, rules: Rules
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Classes and instance ids of the pixels, (H0, W0) each, from an archive with key ``data``.

    Raises:
        DataError: missing, damaged, of another size, with unknown classes, or without any label.
    """
    (maps,) = load_npz(path, "data")
    check_array(
        maps, path, shape=(*size, channels), kind="integer",
        hint="labels have the size of the image, with class and instance id as last axis",
    )  # fmt: skip
    semantic = _classes(maps[..., 0], path, rules, "pixel")
    return semantic, _ids(maps[..., 1], path)


def read_volume_labels(path: Path, rules: Rules) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Classes and instance ids of the voxels in stored orientation, (256, 256, 256) each.

    Raises:
        DataError: missing, damaged, of another size, with unknown classes, or without any label.
    """
    (volume,) = load_npz(path, "data")
    check_array(volume, path, shape=(2, *_CUBE), kind="integer", hint=_SIDE_HINT)
    return _classes(volume[0], path, rules, "voxel"), _ids(volume[1], path)


def read_volume(path: Path, *, with_mask: bool) -> list[NDArray[Any]]:
    """The distance field in stored orientation, and the mask that some formats have beside it.

    Raises:
        DataError: missing, damaged, of another size, or not a number somewhere.
    """
    found = load_npz(path, "data", *(["mask"] if with_mask else []))
    check_array(found[0], path, shape=_CUBE, kind="real", hint=_SIDE_HINT)
    if with_mask:
        check_array(found[1], f"{path} (mask)", shape=_CUBE, kind="mask", hint=_SIDE_HINT)
    if not np.isfinite(found[0].min() + found[0].max()):
        raise AnnotationError(
            f"{path}: the distance field has voxels that are infinite or no number",
            hint="write the volume again; distances are in voxels, 0 to 12",
            key=str(path),
        )
    return found


def read_weighting(path: Path) -> NDArray[np.uint8]:
    """Weights of the voxels in stored orientation, (256, 256, 256).

    Raises:
        DataError: missing, damaged, of another size, or with values outside 0 to 255.
    """
    (weights,) = load_npz(path, "data")
    check_array(weights, path, shape=_CUBE, kind="integer", hint=_SIDE_HINT)
    if weights.dtype != np.uint8 and (weights.min() < 0 or weights.max() > 255):
        raise AnnotationError(
            f"{path}: weights reach from {weights.min()} to {weights.max()}; they are 0 to 255",
            hint="3D-Front has 1, 2, 5 and 10",
            key=str(path),
        )
    return weights.astype(np.uint8, copy=False)


def clean_depth(depth: NDArray[np.float32], path: Path, rules: Rules, *, bound: bool) -> NDArray[np.float32]:
    """Depth in metres with 0 where it is unknown.

    Args:
        bound: unknown outside the frustum too.

    Raises:
        DataError: no pixel is left.
    """
    valid = np.isfinite(depth) & (depth > 0)
    if bound:
        valid &= (depth >= rules.near) & (depth <= rules.far)
    if not valid.any():
        known = depth[np.isfinite(depth)]
        seen = (
            f"values reach from {known.min():g} to {known.max():g} m" if known.size else "all are no number"
        )
        allowed = f"{rules.near:g} to {rules.far:g} m" if bound else "above 0"
        raise DataError(
            f"{path}: no pixel has a valid depth ({seen}; valid is {allowed})",
            hint="take the image out of the split, or write its depth again, in metres along the axis",
            key=str(path),
        )
    return np.where(valid, depth, np.float32(0.0))


def _classes(values: NDArray[Any], path: Path, rules: Rules, what: str) -> NDArray[np.int32]:
    void = values == rules.ignore_label
    classes = np.where(void, 0, values).astype(np.int64) if void.any() else values
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= rules.num_classes:
        unknown = np.unique(classes[(classes < 0) | (classes >= rules.num_classes)])
        raise AnnotationError(
            f"{path}: class {', '.join(map(str, unknown[:5].tolist()))} of a {what}; allowed are 0 (void) to "
            f"{rules.num_classes - 1}, and {rules.ignore_label} (dataset.ignore_label)",
            hint="raise model.sem_seg_head.num_classes, or map the labels to those classes",
            key=str(path),
            value=int(unknown[0]),
        )
    if high == 0:
        raise AnnotationError(
            f"{path}: the room is empty, no {what} has a class above 0",
            hint="take the image out of the split, or annotate it",
            key=str(path),
        )
    return classes.astype(np.int32, copy=False)


def _ids(values: NDArray[Any], path: Path) -> NDArray[np.int32]:
    if values.min() < 0 or values.max() > _MOST_ID:
        raise AnnotationError(
            f"{path}: instance ids reach from {values.min()} to {values.max()}; they are 0 to {_MOST_ID}",
            hint="number the instances of an image from 1",
            key=str(path),
        )
    return values.astype(np.int32, copy=False)
