"""Model settings of Sparse4D."""

from __future__ import annotations

from typing import Literal

from skillbank.specs._sparse4d_cotrain import AuxiliaryHead
from skillbank.specs._sparse4d_head import Head
from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import PositiveInt

__all__ = ["Model"]


class Backbone(StrictModel):
    """Image backbone."""

    type: Literal["resnet_101", "resnet_50"] = setting(
        "resnet_101", "Image backbone.", any_case=True, popular=True
    )


class Neck(StrictModel):
    """Feature pyramid."""

    type: Literal["FPN"] = setting("FPN", "Kind of neck.", any_case=True)
    num_outs: int = setting(4, "Feature levels it delivers.", ge=1)
    start_level: int = setting(0, "First backbone level it uses.", ge=0)
    out_channels: int = setting(256, "Channels of every level; equals model.embed_dims.", ge=1)
    in_channels: list[PositiveInt] = setting(
        [256, 512, 1024, 2048], "Channels of the backbone levels.", automl=False, min_length=1
    )
    add_extra_convs: Literal["on_input", "on_lateral", "on_output", False] = setting(
        "on_output", "What further levels are made from, where num_outs asks for more than the backbone has.",
        any_case=True, spellings={"False": False, "false": False},
    )  # fmt: skip
    relu_before_extra_convs: bool = setting(True, "Put a ReLU before the convolutions of further levels.")


class DepthBranch(StrictModel):
    """Depth prediction that helps the backbone while training."""

    type: Literal["dense_depth"] = setting(
        "dense_depth", "Kind of branch.", any_case=True, spellings={"DenseDepthNet": "dense_depth"}
    )
    embed_dims: int = setting(256, "Input channels; equals model.neck.out_channels.", ge=1)
    num_depth_layers: int = setting(3, "Feature levels that predict depth.", ge=1)
    loss_weight: float = setting(0.2, "Weight of the depth loss.", ge=0)


class Model(StrictModel):
    """Everything that shapes the network."""

    type: Literal["sparse4d"] = setting("sparse4d", "Kind of model.", any_case=True)
    embed_dims: int = setting(256, "Token width; other widths of the head follow it.", ge=1)
    use_grid_mask: bool = setting(True, "Hide parts of the images behind a grid while training.")
    use_deformable_func: bool = setting(
        True, "Use the fused kernel for sampling image features where there is one."
    )
    input_shape: list[PositiveInt] = setting(
        [1408, 512], "Width and height of the images; dataset.augmentation.final_dim turned round.",
        automl=False, min_length=2, max_length=2, unit="pixel",
    )  # fmt: skip
    backbone: Backbone = section(Backbone, "Image backbone.")
    neck: Neck = section(Neck, "Feature pyramid.")
    depth_branch: DepthBranch = section(DepthBranch, "Depth prediction while training.")
    head: Head = section(Head, "Detection and tracking head.")
    use_temporal_align: bool = setting(
        False, "While training, a query carried to the next frame keeps the object it was matched with."
    )
    cotrain_param_touch: bool = setting(False, "Part of mixed 2D and 3D supervision; off.")
    sv_scene_keywords: list[str] = setting(
        ["SV2D"], "A scene whose name contains one of these has a single camera.", automl=False
    )
    sv_aux_head: AuxiliaryHead = section(AuxiliaryHead, "Classifier of 2D boxes; off.")
