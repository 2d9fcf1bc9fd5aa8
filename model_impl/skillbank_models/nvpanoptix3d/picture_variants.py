"""Generated variants of training pictures, which share the labels of the original."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from skillbank_models.nvpanoptix3d.scene_files import SceneRecord

__all__ = ["with_variants"]

log = logging.getLogger(__name__)

_FOLDER = "augment"  # beside the folder of the scenes


def with_variants(records: Sequence[SceneRecord], data: Path, weight: float) -> list[SceneRecord]:
    """The records, and one more for each variant ``augment/<scene_id>/rgb_<image_id>*.png``.

    Args:
        data: the folder of the scenes of 3D-Front.
        weight: of a variant in the losses; an original counts 1.
    """
    folder = data.parent / _FOLDER
    names: dict[str, list[str]] = {}
    found = []
    for record in records:
        if record.scene_id not in names:
            names[record.scene_id] = _pictures(folder / record.scene_id)
        start = f"rgb_{record.image_id}"
        for name in names[record.scene_id]:
            rest = name[len(start) :]
            if name.startswith(start) and not rest[0].isdigit():  # rgb_10.png is no variant of image 1
                picture = folder / record.scene_id / name
                found.append(record._replace(file_name=str(picture.absolute()), weight=weight))
    if found:
        log.info("%d variants of %d pictures are in %s", len(found), len(records), folder)
    else:
        log.warning(
            "dataset.augmentation.gen_aug_weight is %g, but there is no variant of a picture in %s",
            weight,
            folder,
        )
    return [*records, *found]


def _pictures(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    except FileNotFoundError:
        return []
