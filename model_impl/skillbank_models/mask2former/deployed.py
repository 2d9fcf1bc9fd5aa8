"""Results from an ONNX file or engine: what evaluation and inference run instead of the network.

A file of fixed image size gets each image at its own scale, padded at right and bottom; only an image that is
larger than the file's input is made smaller, with its proportions. So a file exported at the test size sees
the same pixels as the network would.

Letters: `B` batch, `K` classes, `H W` padded batch, `h w` content of an image, `H0 W0` image as stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skillbank.errors import ShapeError
from skillbank_models.data.batch import SegmentationBatch
from skillbank_models.data.categories import Categories
from skillbank_models.deploy.fitting import fit_images
from skillbank_models.deploy.model_io import DeployedModel
from skillbank_models.deploy.opened import open_deployed
from skillbank_models.deploy.segmentation_outputs import OUTPUTS
from skillbank_models.mask2former.graph_facts import check_agrees
from skillbank_models.ops.exported_masks import segment_exported
from skillbank_models.ops.image_result import ImageResult
from skillbank_models.ops.postprocess import segment_image

__all__ = ["DeployedSegmenter", "fit_images", "open_segmenter", "thing_flags"]

_EXTRA = ("pred_queries", "class_probs", "mask_logits")  # absent from files of other programs


class DeployedSegmenter:
    """A deployed network with the post-processing of a spec.

    Args:
        model: the opened file.
        spec: thresholds and mode are read from its `model` block.
        categories: class index -> category.
        where: the file, for messages.

    Raises:
        ConflictError: the file was exported for other settings.
        ShapeError: the file lacks an output of the mode, or takes no single batch of images.
    """

    def __init__(self, model: DeployedModel, *, spec: Any, categories: Categories, where: str) -> None:
        check_agrees(model.metadata, spec, where)
        mode = spec.model.mode
        missing = [name for name in OUTPUTS[mode] if name not in model.outputs and name not in _EXTRA]
        if missing or len(model.inputs) != 1:
            raise ShapeError(
                f"{where}: takes {', '.join(model.inputs)} and gives {', '.join(model.outputs)}; mode "
                f"{mode} takes one "
                f"batch of images and gives {', '.join(OUTPUTS[mode])}",
                hint=f"export again with model.mode={mode}",
                key="model.mode",
                value=mode,
            )
        self.model = model
        self.settings = spec.model
        self.is_thing = thing_flags(categories, spec.model.sem_seg_head.num_classes)  # (K,)

    def __call__(self, batch: SegmentationBatch) -> list[ImageResult]:
        """The result of each image of a batch, at its stored size and on the CPU."""
        images, contents = fit_images(batch.images, batch.sizes, self.model.input_size)
        outputs: dict[str, Tensor] = self.model(images)
        if "class_probs" in outputs and self.settings.mode == "panoptic":
            outputs["keep"] = outputs["pred_scores"] > outputs["class_probs"][..., -1]  # (B, Q)
        padded = images.shape[-2], images.shape[-1]
        return [
            self._result({name: tensor[place] for name, tensor in outputs.items()}, padded, content, original)
            for place, (content, original) in enumerate(zip(contents, batch.original_sizes, strict=True))
        ]

    def _result(
        self,
        outputs: dict[str, Tensor],
        padded: tuple[int, int],
        content: tuple[int, int],
        original: tuple[int, int],
    ) -> ImageResult:
        settings = self.settings
        found = segment_exported(
            outputs,
            mode=settings.mode,
            content=content,
            original=original,
            is_thing=self.is_thing,
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
        if "class_probs" not in outputs:
            return found
        # all classes of all queries: the class map is that of the network, not of the segments alone
        whole = segment_image(
            outputs["class_probs"].log(),
            outputs["mask_logits"],
            mode="semantic",
            padded=padded,
            content=content,
            original=original,
            is_thing=self.is_thing,
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
            topk=settings.test_topk_per_image,
        )
        return found._replace(class_map=whole.class_map)


def open_segmenter(
    path: Path, *, spec: Any, categories: Categories, device: torch.device
) -> DeployedSegmenter:
    """The segmenter in an ``.onnx``, ``.engine`` or ``.plan`` file.

    Raises:
        SkillBankError: the file cannot be opened here, or does not fit the spec.
    """
    return DeployedSegmenter(open_deployed(path, device), spec=spec, categories=categories, where=str(path))


def thing_flags(categories: Categories, num_classes: int) -> Tensor:
    """Which classes are countable, (K,) bool."""
    count = len(categories)
    return torch.tensor(
        [index >= count or categories.is_thing(index) for index in range(num_classes)]
    )  # (K,)
