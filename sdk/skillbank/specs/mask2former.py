"""Mask2Former: semantic, instance or panoptic segmentation of RGB images."""

from __future__ import annotations

from typing import ClassVar, Literal

from skillbank.specs._segmentation import (
    SWIN_DERIVED,
    AnnotationStorage,
    Augmentation,
    EfficientVit,
    MaskDecoder,
    SegmentationExport,
    SemSegHead,
    Swin,
    Task,
    segmentation_rules,
)
from skillbank.specs._segmentation_metrics import segmentation_metrics
from skillbank.specs.base import ActionSpec, BaseExperiment, Network, StrictModel, section, setting
from skillbank.specs.common import (
    Evaluate,
    GenTrtEngine,
    Inference,
    PositiveInt,
    QuantCalibration,
    Quantize,
    Root,
    SegmentationTrain,
)

__all__ = ["NETWORK"]

DatasetType = Literal["coco", "ade", "coco_panoptic"]


class Backbone(StrictModel):
    """Image encoder."""

    type: Literal["swin", "efficientvit"] = setting(
        "swin", "Family of the backbone.", any_case=True, popular=True
    )
    pretrained_weights: str | None = setting(None, "Weights of the backbone alone; empty starts at random.")
    swin: Swin = section(Swin, "Swin Transformer, read when type is swin.")
    efficientvit: EfficientVit = section(EfficientVit, "EfficientViT, read when type is efficientvit.")


class MaskFormer(MaskDecoder):
    """Query decoder, matching cost and losses."""

    num_object_queries: int = setting(
        100, "Object queries, the most segments an image can have.", ge=1, automl=True, popular=True
    )
    hidden_dim: int = setting(
        256, "Width of the decoder.", ge=64, le=1024, multiple_of=8, math_cond="/ 8", automl=True
    )
    dec_layers: int = setting(
        10,
        "Predictions that are made and supervised; the decoder has one layer less.",
        ge=1,
        le=50,
        automl=True,
    )


class Model(StrictModel):
    """Network and post-processing."""

    precise_msda: bool = setting(
        False, "Plain, deterministic deformable attention even where a fused kernel is available."
    )
    export: bool = setting(
        False, "Accepted for compatibility; the exporter knows by itself when it traces the model."
    )
    backbone: Backbone = section(Backbone, "Image encoder.")
    sem_seg_head: SemSegHead = section(SemSegHead, "Pixel decoder.")
    mask_former: MaskFormer = section(MaskFormer, "Query decoder, matching cost and losses.")
    mode: Task = setting("panoptic", "Task whose post-processing is applied.", any_case=True, popular=True)
    object_mask_threshold: float = setting(
        0.4, "Queries with a lower class score are dropped in panoptic mode.", ge=0, le=1
    )
    overlap_threshold: float = setting(
        0.8, "Segments whose visible share is lower are dropped in panoptic mode.", ge=0, le=1
    )
    test_topk_per_image: int = setting(100, "Instances kept per image in instance mode.", ge=1)


class Split(StrictModel):
    """One data split."""

    type: DatasetType | None = setting(
        None, "Annotation format of this split; empty takes dataset.type.", any_case=True
    )
    name: str = setting("", "Free name of an annotated split, told in the log.")
    panoptic_json: str = setting("", "COCO panoptic JSON; empty takes annot_file.")
    instance_json: str = setting("", "COCO instance JSON; empty takes annot_file.")
    img_dir: str = setting("", "Image folder, relative to root_dir when that is set.")
    panoptic_dir: str = setting("", "Folder of the panoptic PNG files.")
    root_dir: str = setting("", "Folder put before relative paths.")
    annot_file: str = setting("", "Annotation file of any type: JSON lines for ade, else COCO JSON.")
    batch_size: int = setting(1, "Images per GPU and step.", ge=1, math_cond="> 0", popular=True)
    num_workers: int | None = setting(None, "Loader processes; empty takes dataset.workers.", ge=0)
    target_size: list[PositiveInt] | None = setting(
        [], "Height and width every image is resized to first; empty keeps the image.", unit="pixel"
    )


class TrainAugmentation(Augmentation):
    """Image sizes while training and testing, and what else changes training images."""

    random_flip_prob: float = setting(
        0.5, "Probability of mirroring a training image; 0 where left and right mean something.", ge=0, le=1
    )
    color_aug_ssd: bool = setting(True, "Random brightness, contrast, saturation and hue of training images.")


class Dataset(AnnotationStorage):
    """Data sources and pre-processing."""

    type: DatasetType = setting(
        "ade",
        "Annotations of all splits: ade = JSON lines with masks, coco = instances, coco_panoptic = segments.",
        any_case=True,
        popular=True,
    )
    workers: int = setting(1, "Loader processes per GPU of splits that name no number.", ge=0)
    train: Split = section(Split, "Training split.")
    val: Split = section(Split, "Validation split.")
    test: Split = section(Split, "Split of inference; only the images are read.")
    pin_memory: bool = setting(True, "Load into pinned host memory, which speeds up copies to the GPU.")
    pixel_mean: list[float] = setting(
        [0.485, 0.456, 0.406], "Mean of R, G, B in the range 0 to 1.", min_length=3, max_length=3
    )
    pixel_std: list[float] = setting(
        [0.229, 0.224, 0.225],
        "Standard deviation of R, G, B; when one is above 1, mean and deviation count in 0 to 255.",
        min_length=3,
        max_length=3,
    )
    augmentation: TrainAugmentation = section(
        TrainAugmentation, "Image sizes while training and testing, and what else changes training images."
    )
    contiguous_id: bool = setting(
        False, "Number the classes by their order in label_map; otherwise a class is its category id minus 1."
    )
    label_map: str = setting(
        "", "JSON list of categories with id, name, colour and thing flag; empty derives it from the data."
    )
    quant_calibration_dataset: QuantCalibration = section(QuantCalibration, "Images for static quantisation.")


class Train(SegmentationTrain):
    """Training."""

    pretrained_model_path: str | None = setting(None, "Weights of a whole model to fine-tune.")
    use_distributed_sampler: bool = setting(
        False, "Give every GPU its own share of the images; otherwise batches of one order are dealt out."
    )


class _Spec(Root):
    """Blocks that every action reads."""

    model: Model = section(Model, "Network and post-processing.")
    dataset: Dataset = section(Dataset, "Data sources and pre-processing.")
    train: Train = section(Train, "Training.")


class TrainSpec(_Spec):
    """Spec of train."""

    action: ClassVar[str] = "train"


class EvaluateSpec(_Spec):
    """Spec of evaluate."""

    action: ClassVar[str] = "evaluate"
    evaluate: Evaluate = section(Evaluate, "Evaluation.")


class InferenceSpec(_Spec):
    """Spec of inference."""

    action: ClassVar[str] = "inference"
    inference: Inference = section(Inference, "Inference.")


class ExportSpec(_Spec):
    """Spec of export."""

    action: ClassVar[str] = "export"
    export: SegmentationExport = section(SegmentationExport, "ONNX export.")


class QuantizeSpec(_Spec):
    """Spec of quantize."""

    action: ClassVar[str] = "quantize"
    quantize: Quantize = section(Quantize, "Quantisation.")


class GenTrtEngineSpec(_Spec):
    """Spec of gen_trt_engine."""

    action: ClassVar[str] = "gen_trt_engine"
    gen_trt_engine: GenTrtEngine = section(GenTrtEngine, "TensorRT engine.")


_SPECS: tuple[type[ActionSpec], ...] = (
    TrainSpec,
    EvaluateSpec,
    InferenceSpec,
    ExportSpec,
    QuantizeSpec,
    GenTrtEngineSpec,
)

_SWIN = "https://github.com/SwinTransformer/storage/releases/download"
_ZOO = "https://dl.fbaipublicfiles.com/maskformer/mask2former"

_BASE_EXPERIMENTS = (
    BaseExperiment(
        id="mask2former-scratch",
        name="Mask2Former, Swin-T, from scratch",
        description="Random weights; nothing is downloaded.",
    ),
    BaseExperiment(
        id="mask2former-swin-tiny-in22k",
        name="Mask2Former, Swin-T pretrained on ImageNet-22k",
        description="Backbone weights of the Swin authors (MIT licence), 224 pixels, window 7.",
        specs={
            "model.backbone.pretrained_weights": f"{_SWIN}/v1.0.8/swin_tiny_patch4_window7_224_22k.pth",
            "model.backbone.swin.pretrain_img_size": 224,
        },
    ),
    BaseExperiment(
        id="mask2former-swin-large-in22k",
        name="Mask2Former, Swin-L pretrained on ImageNet-22k",
        description="Backbone weights of the Swin authors (MIT licence), 384 pixels, window 12; 200 queries.",
        specs={
            "model.backbone.pretrained_weights": f"{_SWIN}/v1.0.0/swin_large_patch4_window12_384_22k.pth",
            "model.backbone.swin.type": "large",
            "model.backbone.swin.window_size": 12,
            "model.mask_former.num_object_queries": 200,
        },
    ),
    BaseExperiment(
        id="mask2former-coco-panoptic-swin-tiny",
        name="Mask2Former, Swin-T trained on COCO panoptic",
        description="Whole model of the Mask2Former authors (CC BY-NC 4.0: no commercial use), 133 classes.",
        weights=f"{_ZOO}/coco/panoptic/maskformer2_swin_tiny_bs16_50ep/model_final_9fd0ae.pkl",
        specs={
            "model.backbone.swin.pretrain_img_size": 224,
            "model.sem_seg_head.num_classes": 133,
            "dataset.type": "coco_panoptic",
            "dataset.contiguous_id": True,
        },
    ),
)

NETWORK = Network(
    name="mask2former",
    title="Mask2Former",
    summary="RGB image to semantic, instance or panoptic segmentation.",
    impl="skillbank_models.mask2former",
    skill="tao-train-mask2former",
    actions={spec.action: spec for spec in _SPECS},
    aliases={
        "data": "dataset",
        "dataset.batch_size": "dataset.train.batch_size",
        "model.backbone.name": "model.backbone.type",
        "model.test.object_mask_threshold": "model.object_mask_threshold",
        "model.test.overlap_threshold": "model.overlap_threshold",
        "model.test.test_topk_per_image": "model.test_topk_per_image",
        "train.lr": "train.optim.lr",
        "train.pretrained_backbone": "model.backbone.pretrained_weights",
        "train.pretrained_model": "train.pretrained_model_path",
    },
    rules=segmentation_rules("model.mask_former"),
    derived=SWIN_DERIVED,
    metrics=segmentation_metrics("model.mode"),
    base_experiments=_BASE_EXPERIMENTS,
    latest_link=lambda spec: "mask2former_model_latest.pth",
)
