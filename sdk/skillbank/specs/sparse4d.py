"""Sparse4D: 3D detection and tracking of objects seen by many cameras."""

from __future__ import annotations

from typing import ClassVar, Literal

from skillbank.specs import common
from skillbank.specs._sparse4d_convert import AiCity, Formats
from skillbank.specs._sparse4d_dataset import Dataset
from skillbank.specs._sparse4d_model import Model
from skillbank.specs._sparse4d_rules import DERIVED, RULES
from skillbank.specs._sparse4d_train import Train
from skillbank.specs.base import ActionSpec, BaseExperiment, Metric, Network, StrictModel, section, setting

__all__ = ["NETWORK"]


class Tracking(StrictModel):
    """Track ids of results."""

    enabled: bool = setting(True, "Give results track ids; false reports detections alone.")
    threshold: float = setting(0.2, "Lowest class score of a tracked result.", ge=0, le=1)


class Evaluate(common.Evaluate):
    """Settings of the evaluation run: one GPU, one camera group at a time."""

    metrics: list[Literal["detection", "tracking"]] = setting(
        ["detection"], "What is measured.", automl=False, min_length=1, popular=True
    )
    tracking: Tracking = section(Tracking, "Track ids of results.")


class Inference(common.Inference):
    """Settings of the inference run: one GPU, one camera group at a time."""

    jsonfile_prefix: str = setting(
        "sparse4d_pred",
        "Folder of the result files; a relative one lies in the results folder.",
        min_length=1,
    )
    output_nvschema: bool = setting(True, "Write one JSON line per frame with all objects.")
    tracking: Tracking = section(Tracking, "Track ids of results.")
    nvschema_fps: float = setting(
        0.0, "Frame rate behind the times in these lines; 0 = 30.", ge=0, unit="1/s"
    )


class Export(common.Export):
    """Settings of the ONNX export: batch size 1, any number of cameras."""

    input_width: int = setting(
        960,
        "Accepted for older specs and not read; dataset.augmentation.final_dim decides.",
        ge=32,
        unit="pixel",
    )
    input_height: int = setting(
        544,
        "Accepted for older specs and not read; dataset.augmentation.final_dim decides.",
        ge=32,
        unit="pixel",
    )
    batch_size: int = setting(-1, "Batch size of the graph; -1 means the only one there is, 1.", ge=-1)
    format: Literal["onnx", "xdl"] = setting("onnx", "File format.", any_case=True)


class Visualize(StrictModel):
    """Pictures of the results."""

    show: bool = setting(True, "Write pictures.", popular=True)
    vis_dir: str = setting("./vis", "Their folder; a relative one lies in the results folder.")
    vis_score_threshold: float = setting(0.25, "Lowest score of a box that is drawn.", ge=0, le=1)
    n_images_col: int = setting(6, "Cameras side by side in a picture.", ge=1)
    viz_down_sample: int = setting(3, "Factor by which camera images are made smaller.", ge=1)


class _Spec(common.Root):
    """Blocks that every action on the network reads."""

    model: Model = section(Model, "Network.")
    dataset: Dataset = section(Dataset, "Data.")
    train: Train = section(Train, "Training run.")
    visualize: Visualize = section(Visualize, "Pictures of the results.")


class DatasetConvertSpec(ActionSpec):
    """Raw scenes to annotation files and initial boxes."""

    action: ClassVar[str] = "dataset_convert"
    results_dir: str = setting("/results", "Folder of the annotation files.", popular=True)
    verbose: bool = setting(False, "Log every scene and frame.")
    data: Formats = section(Formats, "What is converted to what.")
    aicity: AiCity = section(AiCity, "Raw scenes.")


class TrainSpec(_Spec):
    """Spec of train."""

    action: ClassVar[str] = "train"


class EvaluateSpec(_Spec):
    """Spec of evaluate."""

    action: ClassVar[str] = "evaluate"
    evaluate: Evaluate = section(Evaluate, "Evaluation run.")


class InferenceSpec(_Spec):
    """Spec of inference."""

    action: ClassVar[str] = "inference"
    inference: Inference = section(Inference, "Inference run.")


class ExportSpec(_Spec):
    """Spec of export."""

    action: ClassVar[str] = "export"
    export: Export = section(Export, "ONNX export.")


class QuantizeSpec(_Spec):
    """Spec of quantize."""

    action: ClassVar[str] = "quantize"
    quantize: common.Quantize = section(common.Quantize, "Quantisation.")


_PREFIX = "img_bbox_NuScenes"


def _mean_error(name: str, what: str) -> Metric:
    return Metric(
        name=name,
        direction="min",
        description=f"Mean {what} error of matched boxes.",
        aliases=(f"val_{name}", f"{_PREFIX}/{name}"),
    )


_METRICS = (
    Metric(
        name="val_mAP", direction="max", primary=True, aliases=("mAP", "val_map", f"{_PREFIX}/mAP"),
        description="Mean average precision of detection, 0 to 1.",
    ),
    Metric(
        name="NDS", direction="max", aliases=("val_NDS", f"{_PREFIX}/NDS"),
        description="Detection score: mean average precision and the five mean errors together, 0 to 1.",
    ),
    _mean_error("mATE", "translation (m)"),
    _mean_error("mASE", "size (1 - IoU)"),
    _mean_error("mAOE", "heading (rad)"),
    _mean_error("mAVE", "velocity (m/s)"),
    _mean_error("mAAE", "attribute (1 - accuracy)"),
    Metric(
        name="AMOTA", direction="max", aliases=("amota", f"{_PREFIX}/amota"),
        description="Average tracking accuracy over recalls, 0 to 1; reported when tracking is measured.",
    ),
    Metric(
        name="AMOTP", direction="min", aliases=("amotp", f"{_PREFIX}/amotp"),
        description="Average distance of tracked boxes over recalls, in metres.",
    ),
    Metric(
        name="HOTA", direction="max", aliases=("img_bbox_HOTA/HOTA", "img_bbox_HOTA_IoU3D/HOTA"),
        description="Higher-order tracking accuracy, 0 to 100; reported with dataset.eval_hota.",
    ),
    Metric(
        name="img_bbox_IoU3D/mAP", direction="max", pattern=r"img_bbox_IoU3D/(mAP|NDS|.+_AP_dist_.+)",
        description="Detection numbers with boxes matched by 3D IoU, 0 to 1.",
    ),
    Metric(
        name="img_bbox_NuScenes/person_AP_dist_2.0", direction="max",
        pattern=r"img_bbox_NuScenes/.+_AP_dist_.+",
        description="Average precision of one class at one matching distance, 0 to 1.",
    ),
    Metric(
        name="img_bbox_NuScenes/person_trans_err", direction="min",
        pattern=r"img_bbox_(NuScenes|IoU3D)/(.+_(trans|scale|orient|vel|attr)_err|m[A-Z]{2}E)",
        description="One mean error of one class.",
    ),
    Metric(
        name="img_bbox_HOTA/person_HOTA", direction="max",
        pattern=r"img_bbox_HOTA(_IoU3D)?/.*(HOTA|DetA|AssA|LocA|DetRe|DetPr|AssRe|AssPr|OWTA|IDF1|MOTA)",
        description="Parts of HOTA, overall and by class, 0 to 100.",
    ),
    Metric(
        name="loss", direction="min", actions=("train",), aliases=("train_loss",),
        pattern=r"(train_|val_)?loss(_.+)?",
        description="Sum of the weighted losses while training, and each of its parts.",
    ),
)  # fmt: skip

_BASE_EXPERIMENTS = (
    BaseExperiment(
        id="sparse4d-scratch",
        name="Sparse4D from scratch",
        description="Documented defaults and random weights; nothing is downloaded.",
    ),
    BaseExperiment(
        id="sparse4d-warehouse",
        name="Sparse4D on a warehouse scene",
        description="Settings of the printed example for one scene of MTMC Tracking 2025, without weights.",
        specs={
            "dataset.num_frames": 9000,
            "dataset.num_workers": 2,
            "dataset.classes": ["person", "gr1_t2", "agility_digit", "nova_carter"],
            "model.use_temporal_align": True,
            "train.num_epochs": 5,
            "train.checkpoint_interval": 1,
            "train.validation_interval": 1,
            "train.optim.lr": 1e-4,
            "train.optim.paramwise_cfg.custom_keys": {"img_backbone": {"lr_mult": 0.25}},
        },
    ),
)

NETWORK = Network(
    name="sparse4d",
    title="Sparse4D",
    summary="Synchronised camera images and calibration to tracked 3D boxes.",
    impl="skillbank_models.sparse4d",
    skill="tao-train-sparse4d",
    actions={
        "dataset_convert": DatasetConvertSpec,
        "train": TrainSpec,
        "evaluate": EvaluateSpec,
        "inference": InferenceSpec,
        "export": ExportSpec,
        "quantize": QuantizeSpec,
    },
    aliases={
        "train.lr": "train.optim.lr",
        "train.lr_scheduler": "train.optim.lr_scheduler",
        "train.weight_decay": "train.optim.weight_decay",
        "train.grad_clip": "train.optim.grad_clip",
        "model.backbone_type": "model.backbone.type",
        "model.backbone.backbone_type": "model.backbone.type",
        "model.img_backbone": "model.backbone",
        "model.img_neck": "model.neck",
        "model.head.instance_bank.anchor_init": "model.head.instance_bank.anchor",
    },
    rules=RULES,
    derived=DERIVED,
    metrics=_METRICS,
    base_experiments=_BASE_EXPERIMENTS,
    latest_link=lambda spec: "sparse4d_model_latest.pth",
)
