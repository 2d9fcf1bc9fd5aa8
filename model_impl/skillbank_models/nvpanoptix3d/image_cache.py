"""2D outputs of training images on disk, so that stage 2 need not compute them again in every epoch.

The 2D part is frozen in stage 2; without augmentation its outputs for an image never change. Feature maps are
kept in 16 bits, everything that decides in 32.

Letters: `B` batch, `Q` queries, `C` channels, `K` classes.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import secrets
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.outputs import ImageOutput

__all__ = ["ImageCache"]

log = logging.getLogger(__name__)

_BROKEN = (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError)
# what decides the outputs and changes the shape of no weight
_SETTINGS = (
    "model.backbone.vggt.image_width",
    "model.backbone.vggt.num_heads",
    "model.backbone.vggt.intermediate_layers",
    "model.backbone.vggt.camera_rounds",
    "model.sem_seg_head.norm",
    "model.mask_former.nheads",
    "model.mask_former.pre_norm",
    "model.mask_former.size_divisibility",
    "model.compat.depth_features",
    "model.compat.occupancy_head",
    "dataset.reduced_target_size",
    "train.precision",
)
_HALVED = ("mask_features", "depth_features", "occupancy")


class ImageCache:
    """Outputs of the 2D part by image.

    Args:
        folder: where the files are; made when needed.
        settings: text of the settings that decide what the outputs are, besides weights and images.
        with_levels: the maps of the pixel decoder are wanted, too.
    """

    def __init__(self, folder: Path, settings: str, *, with_levels: bool) -> None:
        self._folder = folder
        self._settings = f"{settings} levels={with_levels}"
        self._with_levels = with_levels
        self._mark: str | None = None

    @staticmethod
    def of(spec: Any) -> ImageCache | None:
        """The cache that a spec asks for; None when it asks for none, or images are augmented."""
        folder = spec.dataset.cache_dir
        if not folder:
            return None
        reasons = augmentations(spec.dataset.augmentation)
        if reasons:
            log.warning(
                "2D outputs are computed in every step, not kept in dataset.cache_dir: %s changes the images",
                ", ".join(reasons),
            )
            return None
        settings = " ".join(f"{key}={attrgetter(key)(spec)}" for key in _SETTINGS)
        with_levels = spec.model.frustum3d.use_multi_scale
        return ImageCache(Path(folder) / "images", settings, with_levels=with_levels)

    def outputs(self, batch: SceneBatch, model: nn.Module) -> ImageOutput:
        """Outputs of a batch, read where all of its images are known, else computed and kept.

        Computed outputs are rounded as kept ones are, so that every epoch sees the same.
        """
        if self._mark is None:
            self._mark = fingerprint(model, self._settings)
            log.info("2D outputs are kept in %s", self._folder / self._mark)
        padded: Sequence[int] = batch.images.shape[-2:]
        paths = [
            self._path(Path(name), (*padded, *size))
            for name, size in zip(batch.file_names, batch.sizes, strict=True)
        ]
        found = [_read(path, batch.images.device) for path in paths]
        known = [item for item in found if item is not None]
        if len(known) == len(paths):
            return _joined(known)
        output: ImageOutput = model(batch.images, all_layers=False, sizes=batch.sizes)
        made = [_parts(output, place, with_levels=self._with_levels) for place in range(len(paths))]
        for path, before, parts in zip(paths, found, made, strict=True):
            if before is None:
                _write(path, parts)
        device = batch.images.device
        return _joined([{name: item.to(device) for name, item in parts.items()} for parts in made])

    def _path(self, image: Path, sizes: Sequence[int]) -> Path:
        """File of an image, another one when the image has changed, by its length and time."""
        state = image.stat()
        facts = (image.resolve(), *sizes, state.st_size, state.st_mtime_ns)
        key = hashlib.sha256(" ".join(map(str, facts)).encode()).hexdigest()[:24]
        return self._folder / str(self._mark) / f"{key}.pt"


def augmentations(settings: Any) -> list[str]:
    """The settings that make an image look different each time."""
    key = "dataset.augmentation"
    found = {
        f"{key}.random_flip": settings.random_flip and settings.random_flip_prob > 0,
        f"{key}.enable_crop": settings.enable_crop,
        f"{key}.color_aug_ssd": settings.color_aug_ssd,
        f"{key}.train_min_size": len(set(settings.train_min_size)) > 1,
    }
    return [name for name, is_on in found.items() if is_on]


def fingerprint(model: nn.Module, settings: str) -> str:
    """Text that is the same for the same weights of the 2D part, used in the same way."""
    digest = hashlib.sha256(settings.encode())
    for name, item in model.state_dict().items():
        if name.startswith(("backbone.", "sem_seg_head.")):
            total = item.double().sum(), item.double().square().sum()
            digest.update(f"{name} {tuple(item.shape)} {total[0].item()} {total[1].item()}\n".encode())
    return digest.hexdigest()[:16]


def _parts(output: ImageOutput, place: int, *, with_levels: bool) -> dict[str, Tensor]:
    predictions = output.predictions
    tensors = {
        "class_logits": predictions.class_logits[-1:, place],
        "mask_embeds": predictions.mask_embeds[-1:, place],
        "mask_features": predictions.mask_features[place],
        "queries": output.queries[place],
        "depth": output.depth[place],
        "depth_features": output.depth_features[place],
        "pose": output.pose[place],
        "occupancy": output.occupancy[place],
    }
    if with_levels:
        tensors |= {f"level_{number}": level[place] for number, level in enumerate(output.levels)}
    return {
        name: _small(item) if name in _HALVED or name.startswith("level") else item.float().cpu().clone()
        for name, item in tensors.items()
    }


def _small(x: Tensor) -> Tensor:
    """In 16 bits, unless a number is too large for them."""
    half = x.half().cpu()
    return half if bool(torch.isfinite(half).all()) else x.float().cpu().clone()


def _joined(items: list[dict[str, Tensor]]) -> ImageOutput:
    def stack(name: str, dim: int = 0) -> Tensor:
        return torch.stack([item[name].float() for item in items], dim)

    predictions = MaskPredictions(
        stack("class_logits", 1),  # (1, B, Q, K + 1)
        stack("mask_embeds", 1),  # (1, B, Q, C)
        stack("mask_features"),
    )
    return ImageOutput(
        predictions=predictions,
        queries=stack("queries"),
        depth=stack("depth"),
        depth_features=stack("depth_features"),
        pose=stack("pose"),
        occupancy=stack("occupancy"),
        levels=[stack(name) for name in sorted(items[0]) if name.startswith("level")],
    )


def _read(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Tensor] = torch.load(path, map_location=device, weights_only=True)
    except _BROKEN as err:
        log.warning("%s is damaged and is made again: %s", path, _first_line(err))
        return None
    return found


def _write(path: Path, parts: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(parts, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch's writer hides what the system said
        _tell(path.parent, _first_line(error))


@cache  # once for a folder and reason, not for each image
def _tell(folder: Path, reason: str) -> None:
    log.warning("no 2D outputs can be kept in %s (%s); they are computed in every epoch", folder, reason)


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0]
