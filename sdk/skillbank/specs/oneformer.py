"""OneFormer: one network for semantic, instance and panoptic segmentation, told the task by a token."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from skillbank.specs._oneformer_model import Model
from skillbank.specs._rules import divisible, not_above
from skillbank.specs._segmentation import (
    SWIN_DERIVED,
    AnnotationStorage,
    Augmentation,
    SegmentationExport,
    Task,
    segmentation_rules,
)
from skillbank.specs._segmentation_metrics import segmentation_metrics
from skillbank.specs.base import ActionSpec, BaseExperiment, Network, Rule, StrictModel, section, setting
from skillbank.specs.common import (
    Clipping,
    Evaluate,
    GenTrtEngine,
    Inference,
    Optim,
    PositiveInt,
    QuantCalibration,
    Quantize,
    Root,
    SegmentationTrain,
    TensorRT,
)

__all__ = ["NETWORK"]

TaskWeights = dict[Task, Annotated[float, Field(ge=0)]]


class Split(StrictModel):
    """One data split; lists of equal length join several data sets."""

    batch_size: int = setting(1, "Images per GPU and step.", ge=1, math_cond="> 0", popular=True)
    num_workers: int | None = setting(None, "Loader processes; empty takes dataset.workers.", ge=0)
    images: str | list[str] | None = setting(
        None, "Image folder, or a list; one folder may serve several annotation files."
    )
    annotations: str | list[str] | None = setting(
        None, "Annotations: COCO panoptic JSON, COCO instance JSON or JSON lines; or a list."
    )
    panoptic: str | list[str] | None = setting(None, "Folder of the panoptic PNG files, or a list.")
    names: str | list[str] | None = setting(None, "Name of each data set, put before its metrics.")


class OneFormerAugmentation(Augmentation):
    """Image sizes while training and testing."""

    train_min_size: list[PositiveInt] = setting(
        [800], "Lengths of the short side, one drawn for each training image.", min_length=1, unit="pixel"
    )
    train_max_size: int = setting(
        1333, "Most the long side may have after that resize.", ge=32, automl=True, unit="pixel"
    )
    train_crop_size: list[PositiveInt] = setting(
        [1024, 1024], "Height and width of the random crop.",
        min_length=2, max_length=2, popular=True, unit="pixel",
    )  # fmt: skip
    test_min_size: int = setting(
        800, "Length of the short side at test time.", ge=32, automl=True, unit="pixel"
    )
    test_max_size: int = setting(
        1333, "Most the long side may have at test time.", ge=32, automl=True, unit="pixel"
    )


class Dataset(AnnotationStorage):
    """Data sources and pre-processing."""

    train: Split = section(Split, "Training split.")
    val: Split = section(Split, "Validation split.")
    test: Split = section(
        Split, "Split of evaluation and inference; evaluation without annotations here uses val."
    )
    workers: int = setting(8, "Loader processes per GPU of splits that name no number.", ge=1)
    pin_memory: bool = setting(True, "Load into pinned host memory, which speeds up copies to the GPU.")
    pixel_mean: list[float] = setting(
        [123.675, 116.28, 103.53], "Mean of R, G, B in the range 0 to 255.", min_length=3, max_length=3
    )
    pixel_std: list[float] = setting(
        [58.395, 57.12, 57.375],
        "Standard deviation of R, G, B; when none is above 1, mean and deviation count in 0 to 1.",
        min_length=3,
        max_length=3,
    )
    augmentation: OneFormerAugmentation = section(
        OneFormerAugmentation, "Image sizes while training and testing."
    )
    contiguous_id: bool = setting(
        True, "Number the classes by their order in label_map; otherwise a class is its category id minus 1."
    )
    label_map: str = setting(
        "", "JSON list of categories with id, name, colour and thing flag; empty derives it from the data."
    )
    task_prob_train: TaskWeights = setting(
        {}, "Weights of the tasks drawn in training; one left out is never drawn, empty draws all equally."
    )
    task_prob_val: TaskWeights = setting(
        {}, "Tasks of validation: each with a weight above zero is run on every image; empty runs all."
    )
    task_seq_len: int = setting(77, "Tokens of the task text.", ge=1)
    max_seq_len: int = setting(77, "Tokens of an image's texts; at most the encoder's context_length.", ge=1)
    image_size: PositiveInt | list[PositiveInt] = setting(
        1024, "Size that evaluation images are resized to first: one side, or width and height.", unit="pixel"
    )
    min_scale: float = setting(0.1, "Lower bound of the random scale in training.", gt=0)
    max_scale: float = setting(2.0, "Upper bound of the random scale in training.", gt=0)
    cutmix_prob: float = setting(0.0, "Probability of pasting a part of another image.", ge=0, le=1)
    quant_calibration_dataset: QuantCalibration = section(QuantCalibration, "Images for static quantisation.")


class OneFormerOptim(Optim):
    """Optimiser and schedule."""

    warmup_iters: int = setting(1000, "Steps of the warm-up of Warmuppoly.", ge=0, unit="step")
    warmup_factor: float = setting(
        0.001, "Share of the learning rate that the warm-up starts from.", gt=0, le=1
    )
    max_iter: int | None = setting(
        None,
        "Steps of the whole schedule of Warmuppoly; empty follows from epochs and data.",
        ge=1,
        unit="step",
    )
    steps: list[PositiveInt] = setting(
        [], "Steps at which MultiStep decays; when given, they replace the milestones.", unit="step"
    )


class ClipGradients(StrictModel):
    """Other way to write gradient clipping; a value given here replaces the one in clip_grad_*."""

    enabled: bool | None = setting(None, "False turns clipping off; empty leaves it to clip_grad_norm.")
    clip_type: Literal["full_model"] | None = setting(
        None, "Clip one norm over all parameters.", any_case=True
    )
    clip_value: float | None = setting(None, "Replaces train.clip_grad_norm.", ge=0)
    norm_type: float | None = setting(None, "Replaces train.clip_grad_norm_type.", gt=0)


class Train(SegmentationTrain):
    """Training."""

    optim: OneFormerOptim = section(OneFormerOptim, "Optimiser and schedule.")
    pretrained_model: str | None = setting(None, "Weights of a whole model to fine-tune.")
    pretrained_backbone: str | None = setting(None, "Weights of the backbone alone; empty starts at random.")
    accumulate_grad_batches: int = setting(1, "Batches whose gradients make one step.", ge=1)
    val_check_interval: float = setting(
        1.0, "Share of an epoch between validations.", gt=0, le=1, math_cond="> 0.0"
    )
    clip_gradients: ClipGradients = section(ClipGradients, "Other way to write gradient clipping.")

    def clipping(self) -> Clipping | None:
        """The gradient clipping to apply, what is written in clip_gradients first; None when it is off."""
        other = self.clip_gradients
        bound = self.clip_grad_norm if other.clip_value is None else other.clip_value
        if other.enabled is False or bound == 0:
            return None
        norm_type = float(self.clip_grad_norm_type if other.norm_type is None else other.norm_type)
        return Clipping(bound, norm_type, "full" if other.clip_type else self.clip_grad_type)


class OneFormerInference(Inference):
    """Inference."""

    mode: Task | None = setting(None, "Task to run; empty takes model.mode.", any_case=True, popular=True)
    image_size: list[PositiveInt] = setting(
        [1024, 1024], "Height and width of the network input.", min_length=2, max_length=2, unit="pixel"
    )
    images_dir: str = setting("", "Folder of images to run; empty takes dataset.test.images.", popular=True)


class OneFormerExport(SegmentationExport):
    """ONNX export."""

    task: Task = setting("semantic", "Task that the graph is made for.", any_case=True, popular=True)


class OneFormerTensorRT(TensorRT):
    """Settings of the TensorRT builder."""

    workspace_size: int = setting(1024, "Memory the builder may use for scratch.", ge=1, unit="MB")
    data_type: Literal["FP32", "FP16"] = setting("FP16", "Arithmetic of the engine.", any_case=True)


class OneFormerEngine(GenTrtEngine):
    """TensorRT engine."""

    batch_size: int = setting(1, "Batch of the engine; -1 takes that of the ONNX file.", ge=-1)
    tensorrt: OneFormerTensorRT = section(OneFormerTensorRT, "Settings of the TensorRT builder.")


class OneFormerEvaluate(Evaluate):
    """Evaluation."""

    iou_per_class: bool = setting(True, "Report the intersection over union of every class.")


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
    evaluate: OneFormerEvaluate = section(OneFormerEvaluate, "Evaluation.")


class InferenceSpec(_Spec):
    """Spec of inference."""

    action: ClassVar[str] = "inference"
    inference: OneFormerInference = section(OneFormerInference, "Inference.")


class ExportSpec(_Spec):
    """Spec of export."""

    action: ClassVar[str] = "export"
    export: OneFormerExport = section(OneFormerExport, "ONNX export.")


class QuantizeSpec(_Spec):
    """Spec of quantize."""

    action: ClassVar[str] = "quantize"
    quantize: Quantize = section(Quantize, "Quantisation.")


class GenTrtEngineSpec(_Spec):
    """Spec of gen_trt_engine."""

    action: ClassVar[str] = "gen_trt_engine"
    gen_trt_engine: OneFormerEngine = section(OneFormerEngine, "TensorRT engine.")


_SPECS: tuple[type[ActionSpec], ...] = (
    TrainSpec,
    EvaluateSpec,
    InferenceSpec,
    ExportSpec,
    QuantizeSpec,
    GenTrtEngineSpec,
)


def _some_weight(key: str) -> Rule:
    return Rule(
        keys=(key,),
        check=lambda weights: (
            None if not weights or any(weights.values()) else "no task has a weight above 0; give one"
        ),
        hint=f"{key}.semantic=1",
    )


_RULES = (
    *segmentation_rules("model.one_former"),
    Rule(
        keys=("model.text_encoder.width", "model.one_former.hidden_dim"),
        check=lambda text, queries: (
            None
            if text == queries
            else f"{text} and {queries} differ; learned texts join the queries, use one width"
        ),
    ),
    Rule(
        keys=("model.text_encoder.n_ctx", "model.one_former.num_object_queries"),
        check=lambda learned, queries: (
            None
            if learned < queries
            else f"{learned} learned texts leave none of {queries} for the image; use fewer"
        ),
    ),
    divisible("model.text_encoder.width", "model.one_former.nheads"),
    not_above("dataset.max_seq_len", "model.text_encoder.context_length"),
    not_above("dataset.min_scale", "dataset.max_scale"),
    Rule(
        keys=("dataset.image_size",),
        check=lambda size: (
            None
            if isinstance(size, int) or len(size) == 2
            else f"{size} is neither a side nor [width, height]"
        ),
    ),
    Rule(
        keys=("model.backbone.dinat.dilations", "model.backbone.dinat.depths"),
        check=lambda dilations, depths: (
            None
            if dilations is None or [len(level) for level in dilations] == depths
            else f"{dilations} does not have one number for each of the {depths} blocks"
        ),
    ),
    Rule(
        keys=("model.backbone.dinat.kernel_size",),
        check=lambda side: (
            None if side % 2 else f"{side} is even; a neighbourhood has a middle, use an odd number"
        ),
    ),
    Rule(
        keys=("train.optim.steps",),
        check=lambda steps: None if steps == sorted(set(steps)) else f"{steps} does not increase",
        actions=("train",),
    ),
    _some_weight("dataset.task_prob_train"),
    _some_weight("dataset.task_prob_val"),
)

_BASE_EXPERIMENTS = (
    BaseExperiment(
        id="oneformer-scratch",
        name="OneFormer, Swin-L, from scratch",
        description="Random weights; nothing is downloaded.",
    ),
    BaseExperiment(
        id="oneformer-swin-tiny-in22k",
        name="OneFormer, Swin-T pretrained on ImageNet-22k",
        description="Backbone weights of the Swin authors (MIT licence), 224 pixels, window 7.",
        specs={
            "train.pretrained_backbone": (
                "https://github.com/SwinTransformer/storage/releases/download/v1.0.8/"
                "swin_tiny_patch4_window7_224_22k.pth"
            ),
            "model.backbone.swin.type": "tiny",
            "model.backbone.swin.window_size": 7,
            "model.backbone.swin.pretrain_img_size": 224,
        },
    ),
    BaseExperiment(
        id="oneformer-swin-large-in22k",
        name="OneFormer, Swin-L pretrained on ImageNet-22k",
        description="Backbone weights of the Swin authors (MIT licence), 384 pixels, window 12.",
        specs={
            "train.pretrained_backbone": (
                "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
                "swin_large_patch4_window12_384_22k.pth"
            ),
        },
    ),
    BaseExperiment(
        id="oneformer-coco-swin-large",
        name="OneFormer, Swin-L trained on COCO panoptic",
        description="Whole model of the OneFormer authors (MIT licence), 133 classes, 150 queries.",
        weights="https://shi-labs.com/projects/oneformer/coco/150_16_swin_l_oneformer_coco_100ep.pth",
    ),
)

NETWORK = Network(
    name="oneformer",
    title="OneFormer",
    summary="RGB image and task name to semantic, instance or panoptic segmentation with one set of weights.",
    impl="skillbank_models.oneformer",
    skill="tao-train-oneformer",
    actions={spec.action: spec for spec in _SPECS},
    aliases={
        "data": "dataset",
        "dataset.augmentation.cutmix_prob": "dataset.cutmix_prob",
        "dataset.batch_size": "dataset.train.batch_size",
        "model.backbone.pretrained_weights": "train.pretrained_backbone",
        "model.backbone.type": "model.backbone.name",
        "model.object_mask_threshold": "model.test.object_mask_threshold",
        "model.overlap_threshold": "model.test.overlap_threshold",
        "model.test_topk_per_image": "model.test.test_topk_per_image",
        "train.lr": "train.optim.lr",
        "train.pretrained_model_path": "train.pretrained_model",
    },
    rules=_RULES,
    derived=SWIN_DERIVED,
    metrics=segmentation_metrics(None),
    base_experiments=_BASE_EXPERIMENTS,
    latest_link=lambda spec: "oneformer_model_latest.pth",
)
