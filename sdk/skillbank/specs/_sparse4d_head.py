"""Settings of the Sparse4D head: queries, attention over cameras and time, losses, decoding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skillbank.specs._sparse4d_cotrain import LooseToTight
from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import Index, PositiveInt

__all__ = ["Head"]

Operation = Literal["deformable", "ffn", "norm", "refine", "temp_gnn", "gnn"]

_SINGLE_FRAME = ["deformable", "ffn", "norm", "refine"]
_TEMPORAL = ["temp_gnn", "gnn", "norm", "deformable", "ffn", "norm", "refine"]
_BOX_STATES = 11  # x y z, log w l h, sin and cos of yaw, velocity
_LAYER_NORM = {"LayerNorm": "LN"}


class VisibilityNet(StrictModel):
    """Network that weighs cameras by how visible an object is in them."""

    type: Literal["visibility_net"] = setting("visibility_net", "Kind of network.", any_case=True)
    embedding_dim: int = setting(256, "Input channels.", ge=1)
    hidden_channels: int = setting(32, "Hidden channels.", ge=1)


class InstanceBank(StrictModel):
    """Queries, and those carried from frame to frame."""

    num_anchor: int = setting(900, "Queries per frame.", ge=1, popular=True)
    anchor: str | None = setting(
        None, "Initial boxes (.npy), made by dataset_convert; empty = all at the origin, with a warning.",
        popular=True,
    )  # fmt: skip
    num_temp_instances: int = setting(
        600, "Queries carried to the next frame; 0 = every frame stands alone.", ge=0
    )
    confidence_decay: float = setting(
        0.8, "Factor on a carried query's confidence at each frame.", ge=0, le=1
    )
    feat_grad: bool = setting(False, "Learn the features that queries start with.")
    default_time_interval: float = setting(
        0.033333, "Time between frames where it is unknown.", ge=0, unit="s"
    )
    embed_dims: int = setting(256, "Token width; equals model.embed_dims.", ge=1)
    use_temporal_align: bool = setting(False, "As model.use_temporal_align.")
    grid_size: float | None = setting(
        None, "Prefer new queries whose cell of this size holds no carried one; empty = off.", gt=0, unit="m"
    )
    reset_on_time_gap: bool = setting(False, "Forget all carried queries of a scene after a gap in time.")


class AnchorEncoder(StrictModel):
    """Embedding of a box."""

    type: Literal["SparseBox3DEncoder"] = setting("SparseBox3DEncoder", "Kind of encoder.", any_case=True)
    vel_dims: int = setting(3, "Velocity components that are embedded.", ge=1)
    embed_dims: list[PositiveInt] = setting(
        [128, 32, 32, 64],
        "Channels for position, size, yaw and velocity.",
        automl=False,
        min_length=4,
        max_length=4,
    )
    mode: Literal["cat", "add"] = setting(
        "cat", "Join the four parts side by side, or add them up.", any_case=True
    )
    output_fc: bool = setting(False, "Pass the joined parts through one more stack; add mode needs it.")
    in_loops: int = setting(1, "Linear and ReLU pairs per block.", ge=1)
    out_loops: int = setting(4, "Blocks, each closed by a layer norm.", ge=1)
    pos_embed_only: bool = setting(False, "Embed the position and nothing else.")


class Sampler(StrictModel):
    """Matching of queries with objects, and noisy queries for training."""

    num_dn_groups: int = setting(5, "Groups of noisy queries.", ge=1)
    num_temp_dn_groups: int = setting(3, "Groups of noisy queries carried to the next frame.", ge=0)
    dn_noise_scale: list[float] = setting(
        [2.0] * 3 + [0.5] * 8, "Noise on each of the box states.", automl=False,
        min_length=_BOX_STATES - 1, max_length=_BOX_STATES,
    )  # fmt: skip
    max_dn_gt: int = setting(128, "Most objects per frame that get noisy queries.", ge=1)
    add_neg_dn: bool = setting(True, "Add noisy queries that must be rejected.")
    cls_weight: float = setting(2.0, "Weight of the class in matching.", ge=0)
    box_weight: float = setting(0.25, "Weight of the box in matching.", ge=0)
    reg_weights: list[float] = setting(
        [2.0] * 3 + [0.5] * 3 + [0.0] * 5, "Weights of the box states in matching.", automl=False,
        min_length=_BOX_STATES - 1, max_length=_BOX_STATES,
    )  # fmt: skip
    use_temporal_align: bool = setting(False, "As model.use_temporal_align.")
    gt_assign_threshold: float = setting(
        0.5, "A carried query keeps its object while their matching cost is below this.", ge=0, le=1
    )


class ClassLoss(StrictModel):
    """Classification loss."""

    type: Literal["focal"] = setting(
        "focal", "Kind of loss.", any_case=True, spellings={"FocalLoss": "focal"}
    )
    use_sigmoid: bool = setting(True, "One independent probability per class.")
    gamma: float = setting(2.0, "How strongly easy examples are played down.", ge=0)
    alpha: float = setting(0.25, "Weight of positive examples.", ge=0, le=1)
    loss_weight: float = setting(2.0, "Weight of the loss.", ge=0)


class BoxLoss(StrictModel):
    """Box loss."""

    type: Literal["sparse_box_3d"] = setting(
        "sparse_box_3d", "Kind of loss.", any_case=True, spellings={"SparseBox3DLoss": "sparse_box_3d"}
    )
    box_weight: float = setting(0.25, "Weight of the absolute error.", ge=0)
    cls_allow_reverse: list[Index] = setting(
        [],
        "Labels of classes without a front, whose heading may be off by half a turn; others are ignored.",
        automl=False,
    )


class IdLoss(StrictModel):
    """Identity loss."""

    type: Literal["cross_entropy_label_smooth"] = setting(
        "cross_entropy_label_smooth", "Kind of loss.", any_case=True
    )
    num_ids: int = setting(70, "Number of identities; equals dataset.num_ids.", ge=1)


class Loss(StrictModel):
    """Losses of the head."""

    cls: ClassLoss = section(ClassLoss, "Classification loss.")
    reg: BoxLoss = section(BoxLoss, "Box loss.")
    id: IdLoss = section(IdLoss, "Identity loss.")


class BnNeck(StrictModel):
    """Embedding of the re-identification branch."""

    type: Literal["bnneck"] = setting("bnneck", "Kind of neck.", any_case=True)
    feat_dim: int = setting(256, "Channels of the feature.", ge=1)
    num_ids: int = setting(70, "Number of identities; equals dataset.num_ids.", ge=1)


class KeyPoints(StrictModel):
    """Points of a box at which image features are sampled."""

    embed_dims: int = setting(256, "Token width; equals model.embed_dims.", ge=1)
    num_learnable_pts: int = setting(6, "Points whose place is learned.", ge=1)
    fix_scale: list[Annotated[list[float], Field(min_length=3, max_length=3)]] = setting(
        [[0, 0, 0], [0.45, 0, 0], [-0.45, 0, 0], [0, 0.45, 0], [0, -0.45, 0], [0, 0, 0.45], [0, 0, -0.45]],
        "Fixed points, in units of the box.", automl=False, min_length=1,
    )  # fmt: skip


class Deformable(StrictModel):
    """Sampling of image features over cameras, levels and points."""

    embed_dims: int = setting(256, "Token width; equals model.embed_dims.", ge=1)
    num_groups: int = setting(8, "Channel groups with weights of their own; must divide embed_dims.", ge=1)
    num_levels: int = setting(4, "Feature levels that are sampled; at most model.neck.num_outs.", ge=1)
    attn_drop: float = setting(0.15, "Probability of dropping a camera and point while training.", ge=0, le=1)
    use_deformable_func: bool = setting(True, "Use the fused kernel where there is one.")
    use_camera_embed: bool = setting(
        False, "Derive weights from the camera matrix: any number of cameras, in any order."
    )
    residual_mode: Literal["cat", "add"] = setting(
        "cat", "Join input and output side by side, or add them.", any_case=True
    )
    num_cams: int = setting(6, "Usual number of cameras; nothing depends on it.", ge=1)
    max_num_cams: int = setting(20, "Most cameras in a group, unless use_camera_embed is on.", ge=1)
    proj_drop: float = setting(0.0, "Dropout after the output projection.", ge=0, le=1)
    kps_generator: KeyPoints = section(KeyPoints, "Points at which features are sampled.")


class Refinement(StrictModel):
    """Refinement of boxes after each layer."""

    type: Literal["sparse_box_3d_refinement_module"] = setting(
        "sparse_box_3d_refinement_module", "Kind of module.", any_case=True
    )
    embed_dims: int = setting(256, "Token width; equals model.embed_dims.", ge=1)
    refine_yaw: bool = setting(True, "Correct the heading instead of predicting it anew.")
    with_quality_estimation: bool = setting(True, "Predict how well centre and heading fit.")


class Graph(StrictModel):
    """Attention among queries, or from queries to those of the previous frame."""

    type: Literal["MultiheadAttention"] = setting("MultiheadAttention", "Kind of attention.", any_case=True)
    embed_dims: int = setting(512, "Attention width: twice model.embed_dims while decouple_attn is on.", ge=1)
    num_heads: int = setting(8, "Heads; must divide embed_dims.", ge=1)
    batch_first: bool = setting(
        True, "Order of the axes inside: batch, token, channel. Results are the same."
    )
    dropout: float = setting(0.1, "Dropout on attention weights and output.", ge=0, le=1)


class Decoder(StrictModel):
    """Choice of the boxes that are reported."""

    type: Literal["SparseBox3DDecoder"] = setting("SparseBox3DDecoder", "Kind of decoder.", any_case=True)
    score_threshold: float = setting(
        0.05, "Lowest class score of a reported box, and of one that gets a new track id.", ge=0, le=1
    )


class Norm(StrictModel):
    """Normalisation layer of the head."""

    type: Literal["LN"] = setting(
        "LN", "Kind of normalisation: layer norm.", any_case=True, spellings=_LAYER_NORM
    )
    normalized_shape: int = setting(256, "Channels; equals model.embed_dims.", ge=1)


class PreNorm(StrictModel):
    """Normalisation at the entry of the feed-forward part."""

    type: Literal["LN"] = setting(
        "LN", "Kind of normalisation: layer norm.", any_case=True, spellings=_LAYER_NORM
    )
    normalized_shape: int = setting(
        256, "Accepted for older specs and not read; the layer is as wide as in_channels of ffn.", ge=1
    )


class Activation(StrictModel):
    """Activation of the feed-forward part."""

    type: Literal["ReLU"] = setting("ReLU", "Kind of activation.", any_case=True)
    inplace: bool = setting(True, "Overwrite the input to save memory.")


class FeedForward(StrictModel):
    """Feed-forward part of a layer."""

    type: Literal["AsymmetricFFN"] = setting("AsymmetricFFN", "Kind of feed-forward part.", any_case=True)
    in_channels: int = setting(
        512, "Input channels: twice model.embed_dims while residual_mode is cat.", ge=1
    )
    pre_norm: PreNorm = section(PreNorm, "Normalisation at the entry.")
    embed_dims: int = setting(256, "Output channels; equals model.embed_dims.", ge=1)
    feedforward_channels: int = setting(1024, "Hidden channels.", ge=1)
    num_fcs: int = setting(2, "Linear layers.", ge=1)
    ffn_drop: float = setting(0.1, "Dropout after each linear layer.", ge=0, le=1)
    act_cfg: Activation = section(Activation, "Activation.")


class Head(StrictModel):
    """Sparse queries, refined layer by layer over cameras and time."""

    type: Literal["sparse4d"] = setting(
        "sparse4d", "Kind of head.", any_case=True, spellings={"Sparse4DHead": "sparse4d"}
    )
    num_output: int = setting(300, "Most boxes reported per frame.", ge=1, popular=True)
    cls_threshold_to_reg: float = setting(
        0.05, "Matched queries with a lower class score add nothing to the box loss.", ge=0, le=1
    )
    decouple_attn: bool = setting(
        True, "Put features and box embeddings side by side in attention instead of adding."
    )
    return_feature: bool = setting(True, "Report the feature of each box as well.")
    use_reid_sampling: bool = setting(False, "Turn the re-identification branch on.")
    embed_dims: int = setting(256, "Token width; equals model.embed_dims.", ge=1)
    reid_dims: int = setting(0, "Further channels for re-identification in the sampled features.", ge=0)
    num_groups: int = setting(8, "Attention groups; must divide embed_dims.", ge=1)
    num_decoder: int = setting(6, "Layers; equals the number of refine steps in operation_order.", ge=1)
    num_single_frame_decoder: int = setting(1, "Layers before the queries of the previous frame join.", ge=1)
    drop_out: float = setting(0.1, "Dropout in the head.", ge=0, le=1)
    temporal: bool = setting(True, "Carry queries from frame to frame.")
    with_quality_estimation: bool = setting(True, "Predict how well centre and heading fit.")
    operation_order: list[Operation] = setting(
        _SINGLE_FRAME + 5 * _TEMPORAL, "Steps of the head in order; each refine closes a layer.",
        automl=False, min_length=1,
    )  # fmt: skip
    visibility_net: VisibilityNet = section(VisibilityNet, "Weights of cameras in re-identification.")
    instance_bank: InstanceBank = section(InstanceBank, "Queries and what is carried over.")
    anchor_encoder: AnchorEncoder = section(AnchorEncoder, "Embedding of boxes.")
    sampler: Sampler = section(Sampler, "Matching and noisy queries.")
    reg_weights: list[float] = setting(
        [2.0] * 3 + [1.0] * 8, "Weights of the box states in the box loss.", automl=False,
        min_length=_BOX_STATES - 1, max_length=_BOX_STATES,
    )  # fmt: skip
    loss: Loss = section(Loss, "Losses.")
    bnneck: BnNeck = section(BnNeck, "Embedding of the re-identification branch.")
    deformable_model: Deformable = section(Deformable, "Sampling of image features.")
    refine_layer: Refinement = section(Refinement, "Refinement of boxes.")
    valid_vel_weight: float = setting(
        -1,
        "Weight of a velocity loss of its own for moving objects; -1 = velocity is part of the box loss.",
        ge=-1,
    )
    graph_model: Graph = section(Graph, "Attention among the queries of a frame.")
    temp_graph_model: Graph = section(Graph, "Attention to the queries of the previous frame.")
    decoder: Decoder = section(Decoder, "Choice of the boxes that are reported.")
    norm_layer: Norm = section(Norm, "Normalisation layer.")
    ffn: FeedForward = section(FeedForward, "Feed-forward part.")
    loose_to_tight: LooseToTight = section(LooseToTight, "Supervision by 2D boxes; off.")
