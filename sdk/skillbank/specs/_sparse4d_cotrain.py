"""Settings of mixed 2D and 3D supervision that the newest reference release has.

They are accepted, so that specs written for that release load, and they are all off. A rule refuses to turn
them on, as nothing here would follow them.
"""

from __future__ import annotations

from skillbank.specs.base import Rule, StrictModel, setting
from skillbank.specs.common import PositiveInt

__all__ = ["COTRAIN_RULES", "AuxiliaryHead", "CotrainData", "LooseToTight"]

_SCENE_PREFIX = r"^CT[\w.]+?__"


class CotrainData(StrictModel):
    """Sources of 2D labels and the order in which 3D and 2D scenes are visited."""

    ltt_2dgt_sidecar_dir: str | None = setting(None, "Folder of 2D box files, one per scene; empty = none.")
    ltt_2dgt_frame_regex: str | None = setting(None, "Pattern that finds the frame number in a 2D box file.")
    ltt_2dgt_dedup_regex: str = setting(
        _SCENE_PREFIX, "Pattern cut off a scene name before its file is looked up."
    )
    ltt_2dgt_cache_size: int = setting(8, "Scenes of 2D boxes each loader keeps in memory.", ge=1)
    ltt_2dgt_warn_on_miss: bool = setting(True, "Warn once for a scene that has no 2D boxes.")
    rtdetr_2d_cache_dir: str | None = setting(
        None, "Folder of predicted 2D boxes, one file per scene; empty = none."
    )
    rtdetr_2d_cache_path: str | None = setting(
        None, "One file of predicted 2D boxes for all scenes; empty = none."
    )
    rtdetr_2d_dedup_regex: str = setting(
        _SCENE_PREFIX, "Pattern cut off a scene name before its file is looked up."
    )
    rtdetr_2d_score_thr: float = setting(0.0, "Lowest score of a predicted 2D box.", ge=0, le=1)
    rtdetr_2d_per_class_score_thr: dict[str, float] = setting(
        {}, "Lowest score by class, where it differs from rtdetr_2d_score_thr.", automl=False
    )
    rtdetr_2d_cache_size: int = setting(4, "Scenes of predicted 2D boxes each loader keeps in memory.", ge=1)
    rtdetr_2d_mark_real: bool = setting(True, "Scenes with predicted 2D boxes count as lacking 3D labels.")
    resize_to_canonical_2d: bool = setting(False, "Bring images that have 2D labels only to one size first.")
    canonical_2d_height: int = setting(1080, "Height of that size.", ge=1, unit="pixel")
    canonical_2d_width: int = setting(1920, "Width of that size.", ge=1, unit="pixel")
    sync_route: bool = setting(False, "All GPUs work on the same kind of labels in a step.")
    real_scene_keywords: list[str] = setting(
        [], "A scene whose name contains one of these has 2D labels only.", automl=False
    )
    real_block_prob: float = setting(
        -1.0, "Probability of a block of scenes with 2D labels; -1 = their share of the scenes.", ge=-1, le=1
    )
    scene_switch_iters: int = setting(
        0, "Steps before the scene changes; 0 = at the end of a chunk.", ge=0, unit="step"
    )


class LooseToTight(StrictModel):
    """Supervision of 3D boxes by tight 2D boxes."""

    enable: bool = setting(False, "Use this supervision.")
    mlp_ckpt: str | None = setting(None, "Weights of the network that tightens projected boxes.")
    loss_weight: float = setting(0.1, "Weight of the 2D box loss.", ge=0)
    num_classes: int = setting(0, "Classes of the tightening network; 0 = as many as dataset.classes.", ge=0)
    tight_l1_weight: float = setting(1.0, "Weight of the distance to the 2D box.", ge=0)
    containment_weight: float = setting(1.0, "Weight of lying inside the 2D box.", ge=0)
    box2d_key: str = setting("gt_boxes_2d_visible", "Name under which the 2D boxes are found in a sample.")
    occ_key: str = setting("gt_occ_weight", "Name under which occlusion weights are found in a sample.")
    instance_id_key: str = setting("instance_id", "Name under which object ids are found in a sample.")
    ego2cam_key: str = setting("cam2world_transform", "Name under which camera poses are found in a sample.")
    min_gt_area: float = setting(1.0, "Smaller 2D boxes are left out.", ge=0, unit="pixel^2")
    eps: float = setting(0.1, "Smallest depth in front of a camera that still counts.", ge=0, unit="m")
    pseudo_enable: bool = setting(False, "Also learn from predicted 2D boxes.")
    det_box_key: str = setting("det_boxes_2d", "Name under which predicted 2D boxes are found in a sample.")
    det_cls_key: str = setting("det_classes_2d", "Name under which their classes are found in a sample.")
    det_score_key: str = setting("det_scores_2d", "Name under which their scores are found in a sample.")
    has_3d_gt_key: str = setting("has_3d_gt", "Name of the flag that a sample has 3D labels.")
    giou_thr: float = setting(0.3, "Lowest generalised IoU of a match.", ge=-1, le=1)
    cost_giou: float = setting(2.0, "Weight of the generalised IoU in matching.", ge=0)
    cost_l1: float = setting(1.0, "Weight of the distance in matching.", ge=0)
    cost_cls: float = setting(1.0, "Weight of the class in matching.", ge=0)
    det_score_thr: float = setting(0.0, "Lowest score of a predicted 2D box that is matched.", ge=0, le=1)
    min_cams: int = setting(1, "Cameras that must agree on a match.", ge=1)
    dedup_dist: float = setting(0.0, "Matches nearer to each other than this are merged.", ge=0, unit="m")
    class_gate: bool = setting(True, "Match only boxes of the same class.")
    pseudo_box_weight: float = setting(0.1, "Weight of the box loss of predicted 2D boxes.", ge=0)
    pseudo_cls_weight: float = setting(1.0, "Weight of the class loss of predicted 2D boxes.", ge=0)
    sv_depth_weight: float = setting(
        0.0, "Share of the depth gradient kept for single-camera samples.", ge=0, le=1
    )
    sv_size_weight: float = setting(
        0.25, "Share of the size gradient kept for single-camera samples.", ge=0, le=1
    )
    sv_yaw_weight: float = setting(
        0.0, "Share of the heading gradient kept for single-camera samples.", ge=0, le=1
    )


class AuxiliaryHead(StrictModel):
    """Classifier of 2D boxes beside the 3D head."""

    enable: bool = setting(False, "Use this head.")
    in_channels: int = setting(256, "Channels of its feature maps.", ge=1)
    num_classes: int = setting(0, "Its classes; 0 = as many as dataset.classes.", ge=0)
    roi_size: int = setting(7, "Side of the grid sampled in each box.", ge=1)
    hidden_dim: int = setting(256, "Its hidden channels.", ge=1)
    fpn_strides: list[PositiveInt] = setting(
        [4, 8, 16, 32], "Strides of the feature maps.", automl=False, min_length=1
    )
    use_level: int = setting(1, "Feature map it samples, counted from the finest.", ge=0)
    loss_weight: float = setting(1.0, "Weight of its loss.", ge=0)
    det_box_key: str = setting("det_boxes_2d", "Name under which the 2D boxes are found in a sample.")
    det_cls_key: str = setting("det_classes_2d", "Name under which their classes are found in a sample.")
    min_box_size: float = setting(2.0, "Smaller boxes are left out.", ge=0, unit="pixel")


def _off(value: object) -> str | None:
    return (
        None
        if not value
        else f"{value!r} asks for mixed 2D and 3D supervision, which this bank does not have"
    )


COTRAIN_RULES = tuple(
    Rule(keys=(key,), check=_off, hint=f"remove {key} from the spec")
    for key in (
        "dataset.ltt_2dgt_sidecar_dir",
        "dataset.rtdetr_2d_cache_dir",
        "dataset.rtdetr_2d_cache_path",
        "dataset.resize_to_canonical_2d",
        "dataset.sync_route",
        "dataset.real_scene_keywords",
        "model.cotrain_param_touch",
        "model.sv_aux_head.enable",
        "model.head.loose_to_tight.enable",
        "model.head.loose_to_tight.pseudo_enable",
    )
)
