"""Weights of Mask2Former from other programs, and for them.

| layout | files | names | no-object row |
|---|---|---|---|
| `own` | `.pth` of training here | as detectron2, below `model.` | last |
| `detectron2` | the authors' `.pkl`, `.pth` of their training | `backbone.*`, `sem_seg_head.*` | last |
| `hf` | Hugging Face folder, `.safetensors` | `model.pixel_level_module.*`, ... on disk, in memory | last |
| `tao` | `.pth` of TAO Toolkit | as detectron2, below `model.` | first |

What differs beside names:

- Hugging Face cuts the fused projections of the backbone and of the self-attention into query, key and value,
  and keeps the position table of a backbone with `ape` in rows.
- TAO counts classes from 1; its row 0 of the class layer is moved to the end when it is read, and back when
  it is written.
- Buffers that follow from the settings (`relative_position_index`, `criterion.empty_weight`) are dropped when
  reading, and added when writing for programs that demand them.
- Old detectron2 files say `static_query` for `query_feat`.
- Hugging Face has a norm behind its Swin that nothing uses; written files hold ones and zeros there.
- A ResNet backbone, which the authors publish too, does not exist here.
- EfficientViT backbones have no counterpart in the other programs; they are read, not written.

Source: facebookresearch/Mask2Former (MIT), huggingface/transformers (Apache-2.0), NVIDIA tao_pytorch_backend
(Apache-2.0): names, shapes and layouts only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from skillbank.errors import InvalidValueError
from skillbank_models.layers.backbone_weights import to_backbone
from skillbank_models.mask2former._weight_files import WEIGHT_FORMATS
from skillbank_models.mask2former._weight_names import FORMATS, from_own, layout_of, own_of, to_own
from skillbank_models.mask2former._weight_settings import describe, hf_config, settings_of_hf
from skillbank_models.mask2former.shapeless import SHAPELESS
from skillbank_models.weights.files import read_tensors
from skillbank_models.weights.matching import LoadReport, compare, load_matching, suggest

__all__ = [
    "BACKBONE_KEY",
    "FORMATS",
    "PRETRAINED_KEY",
    "WEIGHT_FORMATS",
    "describe",
    "from_own",
    "hf_config",
    "layout_of",
    "load_weights",
    "settings_of_hf",
    "start_weights",
    "to_own",
]

log = logging.getLogger(__name__)

PRETRAINED_KEY = "train.pretrained_model_path"
BACKBONE_KEY = "model.backbone.pretrained_weights"

_LEAST_SHARE = 0.5
_BACKBONE = "backbone."
_MAP_NORM = re.compile(r"norm\d\.")


def start_weights(module: LightningModule, spec: Any) -> None:
    """Load what a fresh run starts from: backbone weights, then a whole model, whichever the spec names.

    A whole model replaces what the backbone file gave. All tensors that fit by name and shape are loaded, the
    others keep their initial values; what happened is logged.

    Raises:
        NotFoundError, InvalidValueError: a file cannot be read, or less than half of the backbone is in it.
    """
    network = _network(module)
    backbone = spec.model.backbone.pretrained_weights
    if backbone:
        _start_backbone(network, Path(backbone))
    if spec.train.pretrained_model_path:
        if backbone:
            log.info("%s is loaded over the weights of %s", PRETRAINED_KEY, BACKBONE_KEY)
        _start_model(network, Path(spec.train.pretrained_model_path))


def load_weights(module: nn.Module, path: Path, spec: Any) -> None:
    """Load the weights that an action runs with; file and spec have to agree in every tensor.

    Args:
        module: holds the network under the name `model`, or is the network.

    Raises:
        NotFoundError: no such file.
        InvalidValueError: the file cannot be read or does not fit; names the settings to change.
    """
    key = f"{type(spec).action}.{'model_path' if type(spec).action == 'quantize' else 'checkpoint'}"
    network = _network(module)
    found = read_tensors(Path(path), key=key)
    tensors = own_of(found)
    _refuse_resnet(tensors, path, key)
    wanted = network.state_dict()
    report = compare(wanted, tensors, what=str(path))
    if not report.is_exact:
        raise _unfit(report, wanted, tensors, key)
    SHAPELESS.check(found.marks, spec, Path(path), key)
    load_matching(network, tensors, what=str(path), key=key, min_share=1.0)
    log.info("%s (%s layout)", report.text(), layout_of(found.tensors, found.marks))


def _network(module: nn.Module) -> nn.Module:
    """The network in a training module, which holds it under the name `model`."""
    inner = getattr(module, "model", None)
    return inner if isinstance(inner, nn.Module) else module


def _start_backbone(network: nn.Module, path: Path) -> None:
    backbone = network.get_submodule("backbone")
    found = read_tensors(path, key=BACKBONE_KEY)
    tensors = to_backbone(found.tensors, wanted=backbone.state_dict())
    report = load_matching(backbone, tensors, what=str(path), key=BACKBONE_KEY, min_share=_LEAST_SHARE)
    # a classifier has no norm for each map
    is_usual = not report.mismatched and all(_MAP_NORM.match(name) for name in report.missing)
    _tell(report, is_good=is_usual)


def _start_model(network: nn.Module, path: Path) -> None:
    tensors = _fitted(own_of(read_tensors(path, key=PRETRAINED_KEY)), network)
    _refuse_resnet(tensors, path, PRETRAINED_KEY)
    if not any(name.startswith("sem_seg_head.") for name in tensors):
        raise InvalidValueError(
            f"{PRETRAINED_KEY}: {path} holds no tensor of a segmentation head, so it is no whole model; its "
            f"names are like {', '.join(list(tensors)[:3])}",
            hint=f"for a backbone alone: {PRETRAINED_KEY}=null {BACKBONE_KEY}={path}",
            key=PRETRAINED_KEY,
            value=str(path),
        )
    report = load_matching(
        network, tensors, what=str(path), key=PRETRAINED_KEY, min_share=_LEAST_SHARE, within=_BACKBONE
    )
    _tell(report, is_good=report.is_exact)


def _fitted(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The same tensors, the position tables of the backbone resized to another window or image."""
    part = {
        name.removeprefix(_BACKBONE): item for name, item in tensors.items() if name.startswith(_BACKBONE)
    }
    rest = {name: item for name, item in tensors.items() if not name.startswith(_BACKBONE)}
    fitted = to_backbone(part, wanted=network.get_submodule("backbone").state_dict())
    return {f"{_BACKBONE}{name}": item for name, item in fitted.items()} | rest


def _tell(report: LoadReport, *, is_good: bool) -> None:
    log.log(logging.INFO if is_good else logging.WARNING, "%s", report.text())


def _refuse_resnet(tensors: Mapping[str, Tensor], path: Path, key: str) -> None:
    if describe(tensors).get("model.backbone.type") == "resnet":
        raise InvalidValueError(
            f"{key}: {path} has a ResNet backbone, which this network does not have; it has swin "
            "and efficientvit",
            hint="take published weights with a Swin backbone",
            key=key,
            value=str(path),
        )


def _unfit(
    report: LoadReport, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], key: str
) -> InvalidValueError:
    parts = [
        f"{len(names)} {title} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for title, names in report.differences()
    ]
    changes = suggest(describe(tensors), describe(wanted))
    if changes:
        hint = "set what the file was trained with: " + " ".join(changes)
    else:
        hint = f"skillbank weights inspect {report.what}"
    return InvalidValueError(
        f"{key}: {report.what} is of another architecture than the spec: of {len(wanted)} tensors "
        f"{len(report.loaded)} fit; {'; '.join(parts)}",
        hint=hint,
        key=key,
        value=report.what,
    )
