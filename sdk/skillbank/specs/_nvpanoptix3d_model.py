"""Model settings of NVPanoptix3D."""

from __future__ import annotations

from typing import Literal

from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import Index, PositiveInt

__all__ = ["Model"]

FeatureMap = Literal["res2", "res3", "res4", "res5"]


class Vggt(StrictModel):
    """Size of the backbone; the defaults are those of the public VGGT-1B."""

    image_width: int = setting(
        448, "Width that images are resized to for the backbone; a multiple of patch_size.",
        ge=14, unit="pixel",
    )  # fmt: skip
    patch_size: int = setting(14, "Side of the square that becomes one token.", ge=1, unit="pixel")
    position_grid: int = setting(37, "Side of the learned position table, in tokens.", ge=1)
    embed_dim: int = setting(1024, "Channels of a token; a multiple of four times num_heads.", ge=4)
    num_heads: int = setting(16, "Attention heads.", ge=1)
    mlp_ratio: float = setting(4.0, "Hidden channels of the feed-forward parts, as a multiple.", gt=0.0)
    num_register_tokens: int = setting(4, "Tokens without a place in the image.", ge=0)
    patch_depth: int = setting(24, "Blocks of the patch embedding.", ge=1)
    depth: int = setting(24, "Pairs of a frame block and a global block.", ge=1)
    intermediate_layers: list[Index] = setting(
        [4, 11, 17, 23], "Pairs whose output the heads read, counted from 0, coarse map last.", automl=False,
        min_length=4, max_length=4,
    )  # fmt: skip
    camera_depth: int = setting(4, "Blocks of the camera head.", ge=1)
    camera_rounds: int = setting(4, "Times that the camera head refines its answer.", ge=1)
    depth_channels: list[PositiveInt] = setting(
        [256, 512, 1024, 1024], "Channels of the four maps of the depth head; multiples of 4.", automl=False,
        min_length=4, max_length=4,
    )  # fmt: skip
    depth_features: int = setting(256, "Channels of the fused maps of the depth head; a multiple of 8.", ge=8)


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
    freeze: bool | None = setting(
        None, "Keep aggregator and camera head as they are; empty = only with pretrained_model_path."
    )
    vggt: Vggt = section(Vggt, "Size of the backbone.")


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
    adapter_dim: int = setting(
        2048, "Channels inside the adapter between backbone and pixel decoder; a multiple of 4.", ge=4
    )
    adapter_channels: list[PositiveInt] = setting(
        [256, 512, 1024, 2048], "Channels of res2 to res5, which the adapter makes.", automl=False,
        min_length=4, max_length=4,
    )  # fmt: skip


class OccupancyHead(StrictModel):
    """Head that tells how far behind each pixel there is a surface."""

    bins: int = setting(100, "Depth bins between the camera and dataset.depth_max.", ge=2)
    channels: list[PositiveInt] = setting(
        [1024, 512, 256, 128, 64], "Channels of the decoder path, coarse to fine.", automl=False,
        min_length=5, max_length=5,
    )  # fmt: skip
    fusion_channels: int = setting(16, "Channels that each backbone map adds at the finest size.", ge=1)


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
    max_voxels: int = setting(
        700000, "Most voxels of a batch at one resolution, shared evenly by its images; occupied ones stay.",
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
    depth_feature_dim: int = setting(
        256, "Accepted for older specs and not read; model.sem_seg_head.depth_dim decides.", ge=1
    )


class Compat(StrictModel):
    """Behaviour of the published implementation that this one corrects; for weights trained with it."""

    occupancy_head: Literal["reduced", "published"] = setting(
        "reduced", "reduced narrows maps before they are enlarged, at a tenth of the cost of published."
    )
    depth_features: Literal["fine", "coarse"] = setting(
        "fine", "Depth map that stage 2 reads: the finest of the depth head, or the coarsest as published."
    )
    voxel_rule: Literal["measured", "published"] = setting(
        "measured",
        "Where depth lands in the volume: on the labels, or 1.2 to 1.7 voxels beside as published.",
    )
    sparse_norm: Literal["instance", "voxel"] = setting(
        "instance", "Norm of the sparse layers: over the voxels of an image, or as published over channels."
    )
    multi_scale_sampling: Literal["aligned", "published"] = setting(
        "aligned", "Where coarse features are read: at the voxel's pixel, or as published up and left of it."
    )
    lifting_fill: bool = setting(
        True, "Extend the free space of stuff to the image border when lifting; published code does not."
    )


class Model(StrictModel):
    """Everything that shapes the network."""

    backbone: Backbone = section(Backbone, "Image backbone.")
    sem_seg_head: SemSegHead = section(SemSegHead, "Pixel decoder and head widths.")
    mask_former: MaskFormer = section(MaskFormer, "Query decoder, matching and 2D losses.")
    frustum3d: Frustum3d = section(Frustum3d, "3D completion stage.")
    projection: Projection = section(Projection, "Lifting of 2D features into the volume.")
    occupancy_head: OccupancyHead = section(OccupancyHead, "Multi-plane occupancy head.")
    compat: Compat = section(Compat, "Behaviour for weights of the published implementation.")
    mode: Literal["panoptic", "instance", "semantic"] = setting(
        "panoptic",
        "Accepted for older specs and not read; evaluation is panoptic, and inference.mode says what is "
        "written.",
        any_case=True,
    )
    object_mask_threshold: float = setting(
        0.4, "Queries with a lower class score are dropped; the published recipes use 0.8.", ge=0.0, le=1.0
    )
    overlap_threshold: float = setting(
        0.5, "Segments that keep a smaller share of their mask are dropped; the published recipes use 0.8.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    test_topk_per_image: int = setting(
        100, "Instances kept per image with inference.mode instance, in stage 1.", ge=1
    )
    precise_msda: bool = setting(
        False, "Compute deformable attention in plain PyTorch, slower and the same in every run."
    )
