"""`skillbank weights` for Mask2Former: what a file is, and files in the layout of another program."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank import __version__
from skillbank.errors import InvalidValueError, collect
from skillbank.specs.load import Layer, build_spec
from skillbank_models.data.label_map import load_categories
from skillbank_models.mask2former._weight_names import from_own, layout_of, own_of
from skillbank_models.mask2former._weight_settings import describe, hf_config, settings_of_hf
from skillbank_models.mask2former.model import build_model
from skillbank_models.mask2former.shapeless import SHAPELESS
from skillbank_models.protocol import WeightFormats
from skillbank_models.weights.files import ForeignWeights
from skillbank_models.weights.matching import LoadReport, compare
from skillbank_models.weights.writing import write_folder, write_pickle, write_safetensors, write_torch

__all__ = ["WEIGHT_FORMATS"]

_NAME = "mask2former"
_BACKBONE = "model.backbone.type"
_OF_OTHERS = ("task_mlp.", "text_encoder.", "prompt_ctx.", "reprojection.", "frustum")


def _inspect(found: ForeignWeights) -> dict[str, Any] | None:
    own = own_of(found)
    network = found.marks.get("skillbank")
    named = network.get("network") if isinstance(network, Mapping) else found.marks.get("tao_model")
    if named not in (None, _NAME) or not any(name.startswith("sem_seg_head.predictor.") for name in own):
        return None
    if any(part in name for name in own for part in _OF_OTHERS):
        return None
    return {"layout": layout_of(found.tensors, found.marks), "settings": _settings(found, own)}


def _convert(found: ForeignWeights, target: Path, to: str, given: Mapping[str, Any]) -> dict[str, Any]:
    own = own_of(found)
    layer = Layer("override", "", {**_settings(found, own), **given})
    spec: Any = build_spec(_NAME, "train", [layer], draft=True).spec
    report = _checked(own, spec, found.origin)
    if to == "hf":
        _check_hf(spec.model)
    kept = {name: own[name] for name in report.loaded}
    tensors = from_own(kept, to, no_object_weight=spec.model.mask_former.no_object_weight)
    if to == "hf" and target.suffix != ".safetensors":
        write_folder(target, tensors, _hf_texts(spec, kept, found))
    else:
        _write_file(target, to, tensors, found)
    return {
        "source": str(found.origin),
        "from": layout_of(found.tensors, found.marks),
        "target": str(target),
        "to": to,
        "matched": len(report.loaded),
        "missing": len(report.missing),
        "unexpected": list(report.unexpected),
        "written": len(tensors),
        "settings": describe(kept),
    }


def _settings(found: ForeignWeights, own: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a file tells about its model; its tensors are believed more than its configuration."""
    return {**settings_of_hf(found.config), **SHAPELESS.read(found.marks), **describe(own)}


def _checked(own: Mapping[str, Tensor], spec: Any, origin: Path) -> LoadReport:
    with torch.device("meta"):
        wanted = build_model(spec.model, activation_checkpoint=False).state_dict()
    report = compare(wanted, own, what=str(origin))
    if report.missing or report.mismatched:
        raise InvalidValueError(
            f"SOURCE: {origin} does not hold a whole {_NAME}:\n{report.text()}",
            hint="settings behind TARGET correct what was guessed, such as model.mask_former.nheads=8; a "
            "backbone alone needs no conversion: model.backbone.pretrained_weights takes it",
            key="SOURCE",
            value=str(origin),
        )
    return report


def _check_hf(model: Any) -> None:
    """Refuse what Hugging Face's model would compute otherwise without saying so."""
    head, swin = model.sem_seg_head, model.backbone.swin
    only = {
        "model.sem_seg_head.norm": (head.norm, "GN"),
        "model.backbone.swin.patch_norm": (swin.patch_norm, True),
        "model.backbone.swin.qk_scale": (swin.qk_scale, None),
    }
    problems = [
        InvalidValueError(
            f"--to hf: {key} is {value!r}, and Hugging Face's model has nothing but {possible!r}",
            hint="--to own",
            key=key,
            value=value,
        )
        for key, (value, possible) in only.items()
        if value != possible
    ]
    if problems:
        raise collect(problems, "--to hf")


def _write_file(target: Path, to: str, tensors: Mapping[str, Tensor], found: ForeignWeights) -> None:
    if to == "own":
        mark = {"network": _NAME, "version": __version__, "converted_from": found.origin.name}
        write_torch(target, {"state_dict": tensors, "tao_model": _NAME, "skillbank": mark})
    elif to == "tao":
        write_torch(target, _as_lightning(tensors))
    elif to == "hf":
        write_safetensors(target, tensors)
    else:
        content = {"model": tensors, "__author__": "skillbank", "matching_heuristics": False}
        (write_pickle if target.suffix == ".pkl" else write_torch)(target, content)


def _as_lightning(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "state_dict": dict(tensors),
        "tao_model": _NAME,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "epoch": 0,
        "global_step": 0,
    }


def _hf_texts(spec: Any, own: Mapping[str, Tensor], found: ForeignWeights) -> dict[str, dict[str, Any]]:
    """The JSON files of a folder, by name."""
    settings = _flat(spec.model.model_dump(), "model")
    return {
        "config.json": hf_config(settings, own, class_names=_class_names(spec, found)),
        "preprocessor_config.json": _preprocessor(spec.dataset),
    }


def _class_names(spec: Any, found: ForeignWeights) -> dict[int, str]:
    """Names from the label map, if one was given, else from the configuration that came with the weights."""
    if spec.dataset.label_map:
        count = spec.model.sem_seg_head.num_classes
        path = Path(spec.dataset.label_map)
        classes = load_categories(path, contiguous=spec.dataset.contiguous_id, num_classes=count)
        return {index: classes.name(index) for index in range(count)}
    names = found.config.get("id2label")
    if not isinstance(names, Mapping):
        return {}
    return {int(index): str(name) for index, name in names.items() if str(index).isdigit()}


def _preprocessor(dataset: Any) -> dict[str, Any]:
    sizes = dataset.augmentation
    # a spec may count them in 0 to 255
    unit = 255 if max(dataset.pixel_std) > 1 else 1
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": sizes.test_min_size, "longest_edge": sizes.test_max_size},
        "size_divisor": 32,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / unit for value in dataset.pixel_mean],
        "image_std": [value / unit for value in dataset.pixel_std],
        "ignore_index": 255,
        "do_reduce_labels": False,
    }


def _flat(nested: Mapping[str, Any], above: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in nested.items():
        key = f"{above}.{name}"
        out |= _flat(value, key) if isinstance(value, Mapping) else {key: value}
    return out


WEIGHT_FORMATS = WeightFormats(
    targets={
        "own": (".pth",),
        "detectron2": (".pkl", ".pth"),
        "hf": ("", ".safetensors"),
        "tao": (".pth",),
    },
    inspect=_inspect,
    convert=_convert,
)
