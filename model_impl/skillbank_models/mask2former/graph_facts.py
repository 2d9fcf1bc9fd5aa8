"""What an exported file says about itself, so that running it needs no guessing; whether a spec agrees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from skillbank import __version__
from skillbank_models.data.categories import Categories
from skillbank_models.deploy.agreement import check_settings

__all__ = ["check_agrees", "graph_metadata"]

_NETWORK = "mask2former"


def graph_metadata(spec: Any, categories: Categories, *, size: tuple[int, int]) -> dict[str, str]:
    """Texts to store in the file; lists and numbers are JSON.

    Args:
        size: height and width that the graph was traced with.
    """
    model, dataset = spec.model, spec.dataset
    classes = [
        {
            "index": index,
            "id": categories.category_id(index),
            "name": categories.name(index),
            "isthing": int(categories.is_thing(index)),
            "color": list(categories.color(index)),
        }
        for index in categories.used
    ]
    mean, std = _unit_range(dataset)
    values: dict[str, Any] = {
        "input_size": list(size),
        "num_classes": model.sem_seg_head.num_classes,
        "pixel_mean": mean,
        "pixel_std": std,
        "object_mask_threshold": model.object_mask_threshold,
        "overlap_threshold": model.overlap_threshold,
        "test_topk_per_image": model.test_topk_per_image,
        "classes": classes,
    }
    return {
        "network": _NETWORK,
        "mode": model.mode,
        "skillbank_version": __version__,
        "input": "RGB, 0 to 1, minus pixel_mean, over pixel_std; padded with 0 at right and bottom",
        **{name: json.dumps(value) for name, value in values.items()},
    }


def check_agrees(metadata: Mapping[str, str], spec: Any, where: str) -> None:
    """Refuse a file that was exported for other settings than the spec's, where these are inside the graph.

    Files of other programs say nothing about themselves and pass.

    Raises:
        ConflictError: lists every setting that differs.
    """
    mean, std = _unit_range(spec.dataset)
    wanted: dict[str, tuple[str, Any]] = {
        "mode": ("model.mode", spec.model.mode),
        "num_classes": ("model.sem_seg_head.num_classes", spec.model.sem_seg_head.num_classes),
        "pixel_mean": ("dataset.pixel_mean", mean),
        "pixel_std": ("dataset.pixel_std", std),
    }
    stored = {
        name: text if name == "mode" else json.loads(text)
        for name, text in metadata.items()
        if name in wanted
    }
    settings = {key: (stored[name], value) for name, (key, value) in wanted.items() if name in stored}
    check_settings(metadata, settings, network=_NETWORK, where=where)


def _unit_range(dataset: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation for pixels in 0 to 1."""
    divisor = 255.0 if max(dataset.pixel_std) > 1 else 1.0
    return [value / divisor for value in dataset.pixel_mean], [value / divisor for value in dataset.pixel_std]
