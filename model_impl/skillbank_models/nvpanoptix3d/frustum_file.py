"""The frustum mask of a data set whose images share one camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skillbank.errors import AnnotationError, MissingFilesError
from skillbank_models.data.arrays import check_array, load_npz
from skillbank_models.nvpanoptix3d.camera import STORED_SIDE
from skillbank_models.nvpanoptix3d.front3d import MIRRORED
from skillbank_models.nvpanoptix3d.volumes import reduce_inside

__all__ = ["find_mask_file", "read_frustum_mask"]

_KEY = "dataset.frustum_mask_path"


def find_mask_file(path: str, bases: Sequence[Path]) -> Path:
    """A mask file by its path as given, else below a folder of data.

    Raises:
        MissingFilesError: in none of these places.
    """
    places = [Path(path)]
    if not Path(path).is_absolute():
        # a base may be the folder of the scenes itself
        places += [place / path for base in bases for place in (base, base.parent)]
    for place in places:
        if place.is_file():
            return place
    raise MissingFilesError(
        f"{_KEY}: there is no frustum mask {path}"
        + (f"; looked for {', '.join(str(place) for place in places)}" if len(places) > 1 else ""),
        hint=f"{_KEY}=PATH of frustum_mask.npz; or empty ({_KEY}=), to compute it from the camera",
        key=_KEY,
        value=path,
    )


def read_frustum_mask(path: Path, side: int) -> NDArray[np.bool_]:
    """Voxels inside the frustum, (G, G, G), axes x right, y down, z forward.

    Args:
        path: an archive with ``mask`` (256, 256, 256), stored mirrored as the volumes of 3D-Front are.
        side: G.

    Raises:
        DataError: damaged, without that key, of another size, or with no voxel inside.
    """
    (mask,) = load_npz(path, "mask")
    check_array(
        mask, f"{path} (mask)", shape=(STORED_SIDE,) * 3, kind="mask",
        hint=f"{_KEY}= computes the mask from the camera",
    )  # fmt: skip
    if not mask.any():
        raise AnnotationError(
            f"{path}: no voxel is inside the frustum",
            hint=f"{_KEY}= computes the mask from the camera",
            key=_KEY,
        )
    turned = np.ascontiguousarray(np.flip(mask.astype(np.bool_), MIRRORED))
    return reduce_inside(turned, STORED_SIDE // side)
