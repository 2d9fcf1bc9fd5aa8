"""The 2D part as a graph for other runtimes: raw pixels to everything that the 3D part and results need.

Letters: `B` batch, `Q` queries, `K` classes, `C` channels, `D` depth bins, `H W` padded image, `H' W'`
resized image, `h' w'` mask map, `h w` image plane of the 3D stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.nvpanoptix3d.depth_projector import StageTwoProjector
from skillbank_models.nvpanoptix3d.image_model import ImageModel

__all__ = ["CONSTANTS", "INPUT", "OUTPUTS", "ExportedImage"]

INPUT = "batch_inputs"
# Names, order and shapes as public documentation of NVPanoptix3D has them.
OUTPUTS = (
    "pred_logits",  # (B, Q, K + 1)
    "pred_masks",  # (B, Q, H / 2, W / 2) logits
    "pred_depths",  # (B, 1, H / 2, W / 2) metres
    "encoder_features",  # (B, C, h', w') mask features and projected depth features
    "segm_decoder_out",  # (B, Q, C) normalised queries
    "occupancy_preds",  # (B, D, h, w) logits on the image plane of the 3D stage
    "enc_feat_0",  # (B, C, ., .), coarse to fine
    "enc_feat_1",
    "enc_feat_2",
    "ori_pred_masks",  # (B, Q, h', w') logits
    "orig_pad_shape",  # (2,) H and W
    # further ones, for running without the network: evaluation at full size, cameras of unknown pictures
    "ori_pred_depths",  # (B, 1, H', W') metres
    "pose_enc",  # (B, 9), see CameraHead
)
CONSTANTS = ("orig_pad_shape",)


class ExportedImage(nn.Module):
    """Raw images of one size to the outputs of `outputs`.

    Args:
        model: the 2D part.
        projector: of stage 2; without it there is no ``encoder_features``.
        size: height and width of the images.
        content: the part of them that is no padding, which the occupancy is about.
        camera: whether the camera head has learnt; without that there is no ``pose_enc``.

    Attributes:
        outputs: names of what forward returns.
    """

    padded: Tensor

    def __init__(
        self,
        model: ImageModel,
        projector: StageTwoProjector | None,
        *,
        size: tuple[int, int],
        content: tuple[int, int],
        camera: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.projector = projector
        self.content = content
        levels = model.sem_seg_head.pixel_decoder.num_levels
        left_out = {f"enc_feat_{number}" for number in range(levels, 3)}
        if projector is None:
            left_out.add("encoder_features")
        if not camera:
            left_out.add("pose_enc")
        self.outputs = tuple(name for name in OUTPUTS if name not in left_out)
        self.register_buffer("padded", torch.tensor(model.padded_size(*size)), persistent=False)
        model.backbone.keep_positions(*model.padded_size(*size))

    def weights(self) -> dict[str, Tensor]:
        """Weights by their names in the network."""
        found = dict(self.model.state_dict())
        if self.projector is not None:
            found |= {f"projector.{name}": value for name, value in self.projector.state_dict().items()}
        return found

    def forward(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Predict; images are (B, 3, height, width) or (B, 1, height, width) grey, RGB 0..255."""
        height, width = self.model.padded_size(batch_inputs.shape[-2], batch_inputs.shape[-1])
        half = (-(-height // 2), -(-width // 2))
        images = batch_inputs.expand(-1, 3, -1, -1)  # (B, 3, ., .)
        found = self.model(images, all_layers=False, sizes=[self.content])
        masks = found.predictions.mask_logits()  # (B, Q, h', w')
        named = {
            "pred_logits": found.predictions.class_logits[-1],
            "pred_masks": F.interpolate(masks, half, mode="bilinear", align_corners=False),
            "pred_depths": F.interpolate(found.depth[:, None], half, mode="bilinear", align_corners=False),
            "segm_decoder_out": found.queries,
            "occupancy_preds": found.occupancy,
            "ori_pred_masks": masks,
            "orig_pad_shape": self.padded.clone(),
            "ori_pred_depths": found.depth[:, None],
            "pose_enc": found.pose,
            **{f"enc_feat_{number}": level for number, level in enumerate(found.levels)},
        }
        if self.projector is not None:
            features = found.predictions.mask_features  # (B, C, h', w')
            depth = self.projector(found.depth_features, features.shape[-2:])  # (B, C, h', w')
            named["encoder_features"] = torch.cat([features, depth], 1)  # (B, 2 C, h', w')
        return tuple(named[name] for name in self.outputs)
