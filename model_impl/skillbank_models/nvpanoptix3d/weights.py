"""Weights of NVPanoptix3D: what training starts from, and what other actions run with.

A checkpoint of stage 1 holds the 2D part, one of stage 2 both parts. Parts are told by module names, never by
pieces of a name: `sem_seg_head.depth_projector` belongs to the 2D part, `projector` to the 3D part.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from skillbank.errors import InvalidValueError
from skillbank_models.nvpanoptix3d.backbone_weights import load_backbone
from skillbank_models.nvpanoptix3d.graph_facts import mark_of
from skillbank_models.nvpanoptix3d.shapeless import OF_IMAGES, OF_VOLUMES, SCALE
from skillbank_models.weights.checkpoint_facts import CheckpointFacts
from skillbank_models.weights.files import FACTS, ForeignWeights, read_tensors
from skillbank_models.weights.matching import compare, load_matching

__all__ = ["IMAGE_PARTS", "VOLUME_PARTS", "load_volume", "load_weights", "start_weights"]

log = logging.getLogger(__name__)

IMAGE_PARTS = ("backbone.", "sem_seg_head.")
VOLUME_PARTS = ("projector.", "completion.")

_BACKBONE_KEY = "model.backbone.pretrained_model_path"
_IMAGE_KEY, _VOLUME_KEY = "train.checkpoint_2d", "train.checkpoint_3d"
_WRAPPER = "model."


def start_weights(module: LightningModule, spec: Any) -> None:
    """Load what a fresh run starts from: the public backbone, or whole parts of earlier checkpoints.

    Stage 1 takes the backbone and, when it is named, the 2D part of a checkpoint. Stage 2 takes the 2D part
    from `train.checkpoint_2d`, the 3D part from `train.checkpoint_3d`, and both from the latter when it alone
    is named.

    Raises:
        NotFoundError, InvalidValueError: a file cannot be read, or does not hold the part it is named for.
    """
    image_path, volume_path = spec.train.checkpoint_2d, spec.train.checkpoint_3d
    backbone = spec.model.backbone.pretrained_model_path
    of_both = volume_path and not image_path and spec.dataset.enable_3d
    if backbone and (image_path or of_both):
        log.info("%s is not read: %s brings the backbone", _BACKBONE_KEY, image_path or volume_path)
    elif backbone:
        report = load_backbone(_network(module).get_submodule("backbone"), Path(backbone), key=_BACKBONE_KEY)
        if report.share("camera_head.") == 1.0:
            _mark_camera(module)
        else:
            log.warning("%s has no whole camera head: cameras of pictures will not be told by it", backbone)
    if image_path:
        _start(module, Path(image_path), _IMAGE_KEY, IMAGE_PARTS, spec)
    if volume_path and not spec.dataset.enable_3d:
        log.warning("%s is not read: dataset.enable_3d is false, and stage 1 has no 3D part", _VOLUME_KEY)
    elif volume_path:
        parts = VOLUME_PARTS if image_path else IMAGE_PARTS + VOLUME_PARTS
        _start(module, Path(volume_path), _VOLUME_KEY, parts, spec)


def load_weights(module: nn.Module, path: Path, spec: Any) -> None:
    """Load the weights that an action runs with; file and spec have to agree in every tensor.

    Without `dataset.enable_3d` the 2D part of a checkpoint of either stage is taken.

    Args:
        module: holds the network under the name `model`, or is the network.

    Raises:
        NotFoundError: no such file.
        InvalidValueError: the file cannot be read or does not fit.
    """
    key = f"{type(spec).action}.checkpoint"
    network = _network(module)
    parts: tuple[str, ...] = IMAGE_PARTS
    if getattr(network, "completion", None) is not None:
        parts += VOLUME_PARTS
    found = read_tensors(Path(path), key=key)
    _load(network, found, path, key, parts, spec)
    _take_camera(module, found)


def load_volume(module: nn.Module, path: Path, spec: Any) -> str:
    """Load the 3D part alone, for a 2D part that comes from elsewhere.

    Args:
        module: holds the network under the name `model`, or is the network.

    Returns:
        Mark of the 2D part that the 3D part was trained behind.

    Raises:
        NotFoundError: no such file.
        InvalidValueError: the file cannot be read, has no 3D part, or does not fit.
    """
    key = f"{type(spec).action}.checkpoint"
    found = read_tensors(Path(path), key=key)
    _load(_network(module), found, path, key, VOLUME_PARTS, spec)
    return mark_of(_own_names(found.tensors))


def _start(module: LightningModule, path: Path, key: str, parts: Sequence[str], spec: Any) -> None:
    found = read_tensors(path, key=key)
    _load(_network(module), found, path, key, parts, spec)
    if IMAGE_PARTS[0] in parts:
        _take_camera(module, found)


def _load(
    network: nn.Module, found: ForeignWeights, path: Path, key: str, parts: Sequence[str], spec: Any
) -> None:
    """Load the parts exactly.

    Raises:
        InvalidValueError: a part is not in the file, is of another architecture, or was trained otherwise.
    """
    stored = _own_names(found.tensors)
    tensors = _of(stored, parts)
    for part in parts:
        if not any(name.startswith(part) for name in tensors):
            raise _absent(path, key, part, stored)
    wanted = _of(network.state_dict(), parts)
    report = compare(wanted, tensors, what=str(path))
    if not report.is_exact:
        differences = "; ".join(
            f"{len(names)} {title} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for title, names in report.differences()
        )
        raise InvalidValueError(
            f"{key}: {path} is of another architecture than the spec: of {len(wanted)} tensors "
            f"{len(report.loaded)} fit; {differences}",
            hint="give the `model` settings that the file was trained with; a parent job does it by itself",
            key=key,
            value=str(path),
        )
    for facts in _facts(parts):
        facts.check(found.marks, spec, path, key)
    if VOLUME_PARTS[0] in parts:
        _tell_scale(found, path, key, spec)
    load_matching(network, tensors, what=str(path), key=key, min_share=0.0)
    log.info("%s: loaded %d of %d tensors of %s", path, len(report.loaded), len(wanted), ", ".join(parts))


def _tell_scale(found: ForeignWeights, path: Path, key: str, spec: Any) -> None:
    facts = found.marks.get(FACTS)
    settings = facts.get("settings") if isinstance(facts, Mapping) else None
    side = settings.get(SCALE) if isinstance(settings, Mapping) else None
    now = spec.model.frustum3d.grid_dimensions
    if side is not None and side != now:
        log.warning(
            "%s: the 3D part of %s learnt with %s=%s and now works with %s, where a voxel has another size; "
            "it has to be trained on before its results mean something",
            key, path, SCALE, side, now,
        )  # fmt: skip


def _facts(parts: Sequence[str]) -> list[CheckpointFacts]:
    both = ((IMAGE_PARTS, OF_IMAGES), (VOLUME_PARTS, OF_VOLUMES))
    return [facts for members, facts in both if members[0] in parts]


def _take_camera(module: nn.Module, found: ForeignWeights) -> None:
    facts = found.marks.get(FACTS)
    if isinstance(facts, Mapping) and facts.get("camera_is_trained"):
        _mark_camera(module)


def _mark_camera(module: Any) -> None:
    module.camera_is_trained = True


def _network(module: nn.Module) -> nn.Module:
    """The network in a training module, which holds it under the name `model`."""
    inner = getattr(module, "model", None)
    return inner if isinstance(inner, nn.Module) else module


def _own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the `model.` that a training module puts before them."""
    return {name.removeprefix(_WRAPPER): item for name, item in tensors.items()}


def _of(tensors: Mapping[str, Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
    return {name: item for name, item in tensors.items() if name.startswith(tuple(parts))}


def _absent(path: Path, key: str, part: str, stored: Mapping[str, Tensor]) -> InvalidValueError:
    first = ", ".join(list(stored)[:3]) or "none"
    if part in VOLUME_PARTS and any(name.startswith(IMAGE_PARTS[1]) for name in stored):
        return InvalidValueError(
            f"{key}: {path} is a checkpoint of stage 1; it has no 3D part ({part.rstrip('.')})",
            hint="name a checkpoint of stage 2, or dataset.enable_3d=false for the 2D results",
            key=key,
            value=str(path),
        )
    return InvalidValueError(
        f"{key}: {path} holds no tensor of {part.rstrip('.')}, so it is no checkpoint of this network; its "
        f"names are like {first}",
        hint=f"name a .pth file that `train` of nvpanoptix3d wrote; backbone weights go to {_BACKBONE_KEY}",
        key=key,
        value=str(path),
    )
