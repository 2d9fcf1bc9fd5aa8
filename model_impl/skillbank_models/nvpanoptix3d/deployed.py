"""The 2D part from an ONNX file or engine: what evaluation and inference run instead of the network's.

A file has one image size, and its occupancy is about one part of it, the content. Pictures that are not of
this size are resized with their proportions until they fill the content, as the network itself brings all to
one width; the camera of a picture follows. Results are the same for both, since all of them are asked for at
sizes that do not depend on the input.

Letters: `B` batch, `Q` queries, `D` depth bins, `H W` padded input, `h w` image plane of the 3D stage.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skillbank.errors import MissingValueError, ShapeError
from skillbank_models.data.categories import Categories
from skillbank_models.deploy.fitting import fit_images
from skillbank_models.deploy.model_io import DeployedModel
from skillbank_models.deploy.opened import is_deployed, open_deployed
from skillbank_models.layers.predictions import MaskPredictions
from skillbank_models.nvpanoptix3d.batch import SceneBatch
from skillbank_models.nvpanoptix3d.export import content_size
from skillbank_models.nvpanoptix3d.graph_facts import check_agrees, check_weights, stored_classes
from skillbank_models.nvpanoptix3d.outputs import ImageOutput
from skillbank_models.nvpanoptix3d.vggt.camera_head import POSE
from skillbank_models.nvpanoptix3d.weights import load_volume

__all__ = ["DeployedImage", "ImageFile", "engine_is_part", "load_engine", "open_image"]

log = logging.getLogger(__name__)

_NEEDED = ("pred_logits", "ori_pred_masks", "pred_depths", "segm_decoder_out", "occupancy_preds")
_APPEARANCE = "encoder_features"
_LEVELS = ("enc_feat_0", "enc_feat_1", "enc_feat_2")


class ImageFile(NamedTuple):
    """A file that runs instead of the 2D part.

    Attributes:
        path: the file.
        checkpoint: where the 3D part is from; None in stage 1.
        mark: of the weights in the checkpoint.
    """

    path: Path
    checkpoint: Path | None = None
    mark: str = ""


class DeployedImage:
    """A deployed 2D part.

    Args:
        model: the opened file.
        spec: of evaluation or inference.
        where: the file, for messages.

    Raises:
        ConflictError: the file was exported for other settings.
        ShapeError: the file lacks an output of the stage, or takes no single batch of images.
    """

    def __init__(self, model: DeployedModel, *, spec: Any, where: str) -> None:
        check_agrees(model.metadata, spec, where)
        self.model = model
        self._check_outputs(spec, where)
        size = model.input_size
        told = model.metadata.get("content_size")
        if told is not None:
            height, width = json.loads(told)
            self.content: tuple[int, int] | None = (height, width)
        else:
            self.content = None if size is None else content_size(spec, size)
        self._covers_content = spec.model.compat.occupancy_head == "reduced"

    @property
    def camera_is_trained(self) -> bool:
        """Whether the file tells cameras; one whose camera head never learnt is exported without it."""
        return "pose_enc" in self.model.outputs

    @property
    def categories(self) -> Categories | None:
        """The classes that the file was exported with; None when it does not tell."""
        return stored_classes(self.model.metadata)

    @torch.no_grad()
    def __call__(self, batch: SceneBatch) -> tuple[SceneBatch, ImageOutput]:
        """Predict.

        Returns:
            The batch with images and cameras as the file took them, and what it said about these.
        """
        batch = self._fit(batch)
        outputs: dict[str, Tensor] = self.model(batch.images)
        found = {name: value.float() for name, value in outputs.items() if value.is_floating_point()}
        masks = found["ori_pred_masks"]  # (B, Q, h', w')
        count, queries = masks.shape[:2]
        # the product of masks with unit embeddings is the masks themselves
        embeds = torch.eye(queries, device=masks.device).expand(1, count, queries, queries)  # (1, B, Q, Q)
        depth = found.get("ori_pred_depths", found["pred_depths"])[:, 0]  # (B, ., .)
        return batch, ImageOutput(
            predictions=MaskPredictions(found["pred_logits"][None], embeds, masks),
            queries=found["segm_decoder_out"],
            depth=depth,
            depth_features=masks.new_zeros(count, 0, 1, 1),
            pose=found.get("pose_enc", masks.new_zeros(count, POSE)),
            occupancy=self._occupancy(found["occupancy_preds"], batch.sizes),
            levels=[found[name] for name in _LEVELS if name in found],
            appearance=found.get(_APPEARANCE),
        )

    def _fit(self, batch: SceneBatch) -> SceneBatch:
        """The batch as the file takes it."""
        images, sizes = fit_images(
            batch.images, batch.sizes, self.model.input_size, within=self.content, enlarge=True
        )
        views = [
            view if size == old else replace(view, camera=view.camera.scaled(size[1], size[0]))
            for view, size, old in zip(batch.views, sizes, batch.sizes, strict=True)
        ]
        return batch._replace(images=images, sizes=sizes, views=views)

    def _occupancy(self, occupancy: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """The part of the plane that shows each picture, at the size of the plane, (B, D, h, w)."""
        whole = self.content
        if whole is None or not self._covers_content or all(size == whole for size in sizes):
            return occupancy
        height, width = occupancy.shape[-2:]
        parts = []
        for one, size in zip(occupancy, sizes, strict=True):
            rows, columns = (
                max(1, round(length * part / full))
                for length, part, full in zip((height, width), size, whole, strict=True)
            )
            parts.append(
                F.interpolate(
                    one[None, :, :rows, :columns], (height, width), mode="bilinear", align_corners=False
                )
            )
        return torch.cat(parts)  # (B, D, h, w)

    def _check_outputs(self, spec: Any, where: str) -> None:
        needed = list(_NEEDED)
        if spec.dataset.enable_3d:
            if _APPEARANCE not in self.model.outputs:
                raise ShapeError(
                    f"{where}: there is no output {_APPEARANCE}, which the 3D part reads; files that were "
                    "exported from a checkpoint of stage 1 have none",
                    hint="export a checkpoint of stage 2, or dataset.enable_3d=false for the 2D results",
                    key=where,
                )
            needed += _LEVELS if spec.model.frustum3d.use_multi_scale else ()
        missing = [name for name in needed if name not in self.model.outputs]
        if missing or len(self.model.inputs) != 1:
            raise ShapeError(
                f"{where}: takes {', '.join(self.model.inputs)} and gives {', '.join(self.model.outputs)}; "
                f"one batch of images is given, and {', '.join(missing) or 'nothing else'} is missing",
                hint="export the 2D part again: skillbank nvpanoptix3d export",
                key=where,
            )


def open_image(file: ImageFile, *, spec: Any, device: torch.device) -> DeployedImage:
    """The 2D part in an ``.onnx``, ``.engine`` or ``.plan`` file.

    Raises:
        SkillBankError: the file cannot be opened here, or does not fit the spec or the 3D part.
    """
    found = DeployedImage(open_deployed(file.path, device), spec=spec, where=str(file.path))
    if file.checkpoint is not None:
        check_weights(found.model.metadata, file.mark, where=str(file.path), checkpoint=str(file.checkpoint))
    return found


def engine_is_part(spec: Any) -> bool:
    """Whether a file is only the 2D part of what runs, so that the checkpoint is read too: in stage 2."""
    return bool(spec.dataset.enable_3d)


def load_engine(module: Any, path: Path, spec: Any) -> None:
    """Make the module run a file instead of its 2D part; in stage 2 the 3D part is read from a checkpoint.

    Raises:
        MissingValueError: the 3D part is nowhere.
        SkillBankError: the checkpoint cannot be read, or holds no 3D part that fits.
    """
    file = ImageFile(path)
    if engine_is_part(spec):
        key = f"{type(spec).action}.checkpoint"
        checkpoint = getattr(spec, type(spec).action).checkpoint
        if not checkpoint or is_deployed(checkpoint):
            raise MissingValueError(
                f"{key}: {path} is the 2D part of stage 2, and no checkpoint is given for the 3D part",
                hint=f"{key}=PATH of the .pth file that was exported, or dataset.enable_3d=false",
                key=key,
            )
        file = ImageFile(path, Path(checkpoint), load_volume(module, Path(checkpoint), spec))
        log.info("the 2D part is that of %s, the 3D part that of %s", path, checkpoint)
    module.engine = file
    module.model.drop_image_part()
