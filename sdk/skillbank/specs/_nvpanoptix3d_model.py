"""Model settings of NVPanoptix3D."""

from __future__ import annotations

from typing import Literal

from skillbank.specs.base import StrictModel, section, setting

__all__ = ["Model"]

FeatureMap = Literal["res2", "res3", "res4", "res5"]


class Backbone(StrictModel):
    """Image backbone."""

    backbone_type: Literal["vggt"] = setting(
        "vggt", "Image backbone; VGGT is the only one.", popular=True, any_case=True
    )
    pretrained_model_path: str | None = setting(
        None,
        "File with public VGGT-1B weights; empty = the backbone starts from random weights.",
        popular=True,
    )


class SemSegHead(StrictModel):
    """Pixel decoder and the widths of the heads."""

    common_stride: int = setting(
        4, "Stride of the mask features; decides how many upsampling steps follow the encoder.", ge=2
    )
    transformer_enc_layers: int = setting(6, "Layers of the deformable encoder in the pixel decoder.", ge=1)
    convs_dim: int = setting(256, "Channels inside the pixel decoder.", ge=1)
    mask_dim: int = setting(256, "Channels of the mask embedding.", ge=1)
    depth_dim: int = setting(256, "Channels of the depth features that the 3D stage receives.", ge=1)
    ignore_value: int = setting(
        255,
        "Accepted for older specs and not read; dataset.ignore_label names the ignored label.",
        ge=0,
        le=255,
    )
    deformable_transformer_encoder_in_features: list[FeatureMap] = setting(
        ["res3", "res4", "res5"],
        "Backbone maps that enter the deformable encoder.",
        automl=False,
        min_length=1,
    )
    num_classes: int = setting(13, "Number of classes, class 0 (void) included.", ge=1, popular=True)
    norm: Literal["GN", "SyncBN", "LN", ""] = setting(
        "GN", "Normalisation after the convolutions of the pixel decoder; empty = none.", any_case=True
    )
    in_features: list[FeatureMap] = setting(
        ["res2", "res3", "res4", "res5"],
        "Backbone maps used by the pixel decoder.",
        automl=False,
        min_length=1,
    )


class MaskFormer(StrictModel):
    """Query decoder, matching costs and loss weights of the 2D stage."""

    dropout: float = setting(0.0, "Dropout in the encoder of the pixel decoder.", ge=0.0, le=1.0)
    nheads: int = setting(8, "Attention heads; must divide hidden_dim.", ge=1)
    num_object_queries: int = setting(
        100, "Object queries, the largest number of segments per image.", ge=1, popular=True
    )
    hidden_dim: int = setting(256, "Channels of the query decoder.", ge=1)
    transformer_dim_feedforward: int = setting(
        1024, "Hidden channels of the feed-forward part, pixel decoder.", ge=1
    )
    dim_feedforward: int = setting(2048, "Hidden channels of the feed-forward part, query decoder.", ge=1)
    dec_layers: int = setting(
        10, "Sets of predictions; the decoder has one layer less, as the queries alone predict first.", ge=1
    )
    pre_norm: bool = setting(False, "Normalise before instead of after each part of the query decoder.")
    class_weight: float = setting(2.0, "Weight of the class term in matching cost and loss.", ge=0.0)
    dice_weight: float = setting(5.0, "Weight of the dice term in matching cost and loss.", ge=0.0)
    mask_weight: float = setting(5.0, "Weight of the mask cross-entropy in matching cost and loss.", ge=0.0)
    depth_weight: float = setting(5.0, "Weight of the depth loss; it has no part in matching.", ge=0.0)
    mp_occ_weight: float = setting(
        5.0, "Weight of the multi-plane occupancy loss; it has no part in matching.", ge=0.0
    )
    train_num_points: int = setting(12544, "Points per mask at which the mask losses are evaluated.", ge=1)
    oversample_ratio: float = setting(3.0, "Candidate points drawn for each point that is kept.", ge=1.0)
    importance_sample_ratio: float = setting(
        0.75,
        "Share of the points taken where the mask is most uncertain; the rest is random.",
        ge=0.0,
        le=1.0,
    )
    deep_supervision: bool = setting(True, "Apply class, mask and dice losses to every set of predictions.")
    no_object_weight: float = setting(0.1, "Class weight of 'no object' in the class loss.", ge=0.0)
    size_divisibility: int = setting(
        32, "Images are padded to a multiple of this inside the model.", ge=1, unit="pixel"
    )


class Frustum3d(StrictModel):
    """Volume, loss weights and widths of the 3D stage."""

    truncation: float = setting(
        3.0,
        "Largest distance to a surface that is predicted, and the value of voxels without one.",
        gt=0.0,
        unit="voxel",
    )
    iso_recon_value: float = setting(
        2.0,
        "Predicted voxels nearer to a surface than this are surface; 1.0 for 3D-Front, 2.0 for Matterport3D.",
        gt=0.0,
        unit="voxel",
    )
    panoptic_weight: float = setting(
        25.0, "Weight of the 3D mask loss at each of the three resolutions.", ge=0.0
    )
    completion_weights: list[float] = setting(
        [50.0, 25.0, 10.0], "Weights of the occupancy loss at 64, 128 and 256 voxels per side.", automl=False,
        min_length=3, max_length=3,
    )  # fmt: skip
    surface_weight: float = setting(5.0, "Weight of the distance-field loss.", ge=0.0)
    unet_output_channels: int = setting(16, "Channels at the finest level of the frustum decoder.", ge=1)
    unet_features: int = setting(16, "Base width of the frustum decoder.", ge=1)
    use_multi_scale: bool = setting(
        False, "Feed projected features also into the coarser levels of the decoder."
    )
    grid_dimensions: int = setting(
        256,
        "Side of the decoder volume; lower it when the 3D stage runs out of GPU memory.",
        ge=1,
        unit="voxel",
    )
    frustum_dims: int = setting(
        256, "Side of the volume that image features are lifted into; lower it with grid_dimensions.",
        ge=1, unit="voxel",
    )  # fmt: skip
    signed_channel: int = setting(
        3, "Accepted for older specs and not read; model.projection.sign_channel decides.", ge=0
    )


class Projection(StrictModel):
    """How image features become voxels."""

    voxel_size: float = setting(0.03, "Edge of a voxel.", gt=0.0, unit="m")
    sign_channel: bool = setting(
        True, "Give sign and magnitude of the distance as two channels instead of one."
    )
    depth_feature_dim: int = setting(256, "Channels of the depth features.", ge=1)


class Model(StrictModel):
    """Everything that shapes the network."""

    backbone: Backbone = section(Backbone, "Image backbone.")
    sem_seg_head: SemSegHead = section(SemSegHead, "Pixel decoder and head widths.")
    mask_former: MaskFormer = section(MaskFormer, "Query decoder, matching and 2D losses.")
    frustum3d: Frustum3d = section(Frustum3d, "3D completion stage.")
    projection: Projection = section(Projection, "Lifting of 2D features into the volume.")
    mode: Literal["panoptic", "instance", "semantic"] = setting(
        "panoptic", "Kind of segmentation made from the predicted masks.", any_case=True, popular=True
    )
    object_mask_threshold: float = setting(
        0.4, "Queries with a lower class score are dropped; the published recipes use 0.8.", ge=0.0, le=1.0
    )
    overlap_threshold: float = setting(
        0.5, "Segments that keep a smaller share of their mask are dropped; the published recipes use 0.8.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    test_topk_per_image: int = setting(100, "Instances kept per image in instance mode.", ge=1)
    precise_msda: bool = setting(
        False, "Compute deformable attention in plain PyTorch, slower and the same in every run."
    )
