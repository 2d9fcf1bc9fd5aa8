"""NVPanoptix3D: one RGB image to depth, 2D panoptic masks, 3D geometry and 3D panoptic segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from skillbank.specs._nvpanoptix3d_dataset import Dataset
from skillbank.specs._nvpanoptix3d_model import Model
from skillbank.specs._nvpanoptix3d_train import Train
from skillbank.specs._rules import (
    BATCH_PROFILE,
    CHECKPOINT_INTERVAL,
    VALIDATION_INTERVAL,
    divisible,
    not_above,
    weights_for,
)
from skillbank.specs.base import BaseExperiment, Derived, Metric, Network, Rule, StrictModel, section, setting
from skillbank.specs.common import Evaluate, GenTrtEngine, Inference, Root

__all__ = ["NETWORK"]


class Images(Inference):
    """Settings of the inference run."""

    mode: Literal["semantic", "instance", "panoptic"] = setting(
        "panoptic", "Kind of result that stage 1 writes; stage 2 writes panoptic results.", any_case=True
    )
    images_dir: str | None = setting(
        None,
        "Folder of .jpg and .png images, or an archive of one.",
        mandatory_for=("inference",),
        popular=True,
    )
    intrinsics: str | None = setting(
        None,
        "camera_head, dataset, or a file or folder of camera matrices; empty = the best that is known.",
    )
    meshes: bool = setting(True, "Write meshes and the page with them, in stage 2.")
    volumes: bool = setting(True, "Write geometry, semantic and panoptic volumes, in stage 2.")


class Export(StrictModel):
    """Settings of the ONNX export; the graph holds the 2D part."""

    results_dir: str | None = setting(None, "Output folder of export; empty means <results_dir>/export.")
    gpu_id: int = setting(0, "Index of the GPU used to trace the model.", ge=0)
    checkpoint: str | None = setting(
        None, "Checkpoint to export; 2D weights are taken out of a stage-2 checkpoint.",
        mandatory_for=("export",), popular=True,
    )  # fmt: skip
    onnx_file: str | None = setting(None, "Used as onnx_file_2d when that is empty.")
    on_cpu: bool = setting(False, "Trace on the CPU and use no TensorRT-only operators.")
    input_channel: Literal[1, 3] = setting(3, "Channels of the input image.", value_type="ordered_int")
    input_width: int = setting(
        960, "Width of the input image; the images of both datasets are 320.", ge=32, unit="pixel"
    )
    input_height: int = setting(
        544, "Height of the input image; use 256 for the datasets' 240, padded.", ge=32, unit="pixel"
    )
    opset_version: int = setting(17, "ONNX operator set.", ge=1)
    batch_size: int = setting(-1, "Batch size of the graph; -1 = any.", ge=-1)
    verbose: bool = setting(False, "Print what the exporter does.")
    format: Literal["onnx", "xdl"] = setting("onnx", "File format.", any_case=True)
    onnx_file_2d: str | None = setting(
        None, "ONNX file to write, with the 2D part of the network.", popular=True
    )
    onnx_file_3d: str | None = setting(
        None, "Accepted for older specs; the 3D part is served as a PyTorch module, not as a graph."
    )
    max_voxels: int = setting(
        700000, "Most voxels the served 3D part works on; the most occupied are kept.", ge=1, unit="voxel"
    )


class _Base(Root):
    model: Model = section(Model, "Network architecture and loss weights.")
    dataset: Dataset = section(Dataset, "Data.")
    train: Train = section(Train, "Training run.")


class TrainSpec(_Base):
    """Train stage 1 (2D) or stage 2 (3D)."""

    action: ClassVar[str] = "train"


class EvaluateSpec(_Base):
    """Measure a checkpoint on the test split."""

    action: ClassVar[str] = "evaluate"
    evaluate: Evaluate = section(Evaluate, "Evaluation run.")


class InferenceSpec(_Base):
    """Reconstruct a folder of images."""

    action: ClassVar[str] = "inference"
    inference: Images = section(Images, "Inference run.")


class ExportSpec(_Base):
    """Write the 2D part as ONNX."""

    action: ClassVar[str] = "export"
    export: Export = section(Export, "ONNX export.")


class GenTrtEngineSpec(_Base):
    """Build a TensorRT engine from the exported graph."""

    action: ClassVar[str] = "gen_trt_engine"
    gen_trt_engine: GenTrtEngine = section(GenTrtEngine, "TensorRT engine builder.")


def _factor_of(dataset: str) -> int:
    return 2 if dataset == "matterport" else 1


def _downsample(factor: int, dataset: str) -> str | None:
    wanted = _factor_of(dataset)
    if factor == wanted:
        return None
    return f"{factor} does not fit dataset.name {dataset!r}; 3D metrics of {dataset} need {wanted}"


def _stage_two(
    checkpoint_2d: str | None, enable_3d: bool, checkpoint_3d: str | None, resume: str | None
) -> str | None:
    if not enable_3d or checkpoint_2d or checkpoint_3d or resume:
        return None
    return "dataset.enable_3d is true, and stage 2 starts from a stage-1 checkpoint; none is given"


def _increasing(values: Sequence[float]) -> str | None:
    low, high = values
    return None if low < high else f"{low:g} is not below {high:g}; the first value must be the smaller one"


def _clipped(truncation: float, clip: Sequence[float]) -> str | None:
    if truncation <= clip[1]:
        return None
    return f"{truncation:g} is above {clip[1]:g}, where the distances to learn from end"


def _onnx_file(path: str | None) -> str | None:
    if not path or path.lower().endswith(".onnx"):
        return None
    return f"{path!r} is no ONNX file name; it must end in .onnx"


def _volume_part(checkpoint: str | None, engine: str | None, enable_3d: bool) -> str | None:
    deployed = engine or (checkpoint if str(checkpoint).lower().endswith(_DEPLOYED) else None)
    if not enable_3d or not deployed or (checkpoint and checkpoint != deployed):
        return None
    return (
        f"{deployed} is the 2D part of stage 2, and nothing says where the 3D part is; a checkpoint holds it"
    )


def _grid(decoder: int, lifting: int) -> str | None:
    if decoder not in _GRIDS:
        return f"{decoder} does not divide the stored volumes; allowed are {', '.join(map(str, _GRIDS))}"
    if lifting != decoder:
        return f"{decoder} and {lifting} differ; features are lifted into the volume that is decoded"
    return None


def _taps(layers: Sequence[int], depth: int) -> str | None:
    if list(layers) != sorted(set(layers)):
        return f"{list(layers)} is not in increasing order"
    return None if layers[-1] < depth else f"{layers[-1]} is not there; the last of {depth} is {depth - 1}"


def _multiples(step: int) -> Callable[[int | Sequence[int]], str | None]:
    def check(widths: int | Sequence[int]) -> str | None:
        wrong = [width for width in ([widths] if isinstance(widths, int) else widths) if width % step]
        return f"{', '.join(map(str, wrong))} is no multiple of {step}" if wrong else None

    return check


_DEPLOYED = (".onnx", ".engine", ".plan")
_GRIDS = (64, 128, 256)
_STEPS = {
    "model.backbone.vggt.depth_channels": 4,
    "model.backbone.vggt.depth_features": 8,
    "model.sem_seg_head.adapter_dim": 4,
    "model.sem_seg_head.convs_dim": 32,
    "model.mask_former.hidden_dim": 4,
}
_RULES = (
    Rule(
        keys=("model.frustum3d.grid_dimensions", "model.frustum3d.frustum_dims"),
        check=_grid,
        hint="set model.frustum3d.grid_dimensions alone; frustum_dims follows it",
    ),
    Rule(
        keys=("model.backbone.vggt.intermediate_layers", "model.backbone.vggt.depth"),
        check=_taps,
        hint="model.backbone.vggt.intermediate_layers: four numbers below model.backbone.vggt.depth",
    ),
    Rule(
        keys=("model.backbone.vggt.embed_dim", "model.backbone.vggt.num_heads"),
        check=lambda width, heads: (
            None if width % (4 * heads) == 0 else f"{width} is not a multiple of four times {heads} heads"
        ),
        hint="change model.backbone.vggt.embed_dim or model.backbone.vggt.num_heads",
    ),
    divisible("model.backbone.vggt.image_width", "model.backbone.vggt.patch_size"),
    divisible("model.sem_seg_head.convs_dim", "model.mask_former.nheads"),
    *(
        Rule(keys=(key,), check=_multiples(step), hint=f"{key}: use multiples of {step}")
        for key, step in _STEPS.items()
    ),
    Rule(
        keys=(
            "train.checkpoint_2d",
            "dataset.enable_3d",
            "train.checkpoint_3d",
            "train.resume_training_checkpoint_path",
        ),
        check=_stage_two,
        hint="name the stage-1 job with --parent-job-id, or train.checkpoint_2d=PATH",
        actions=("train",),
        missing=True,
    ),
    Rule(
        keys=("export.onnx_file_2d", "export.onnx_file"),
        check=lambda file_2d, file: (
            None if file_2d or file else "empty, so there is no file to write; name one"
        ),
        hint="export.onnx_file_2d=model_2d.onnx",
        actions=("export",),
        missing=True,
    ),
    *(
        Rule(keys=(key,), check=_onnx_file, hint=f"{key}=model_2d.onnx")
        for key in (
            "export.onnx_file_2d",
            "export.onnx_file",
            "export.onnx_file_3d",
            "gen_trt_engine.onnx_file",
        )
    ),
    Rule(
        keys=("dataset.downsample_factor", "dataset.name"),
        check=_downsample,
        hint="leave dataset.downsample_factor out, so that it follows dataset.name",
        actions=("train", "evaluate", "inference"),
    ),
    Rule(
        keys=("dataset.depth_min", "dataset.depth_max"),
        check=lambda near, far: None if near < far else f"{near:g} m is not nearer than {far:g} m",
        hint="lower dataset.depth_min or raise dataset.depth_max",
    ),
    Rule(
        keys=("dataset.depth_size", "dataset.reduced_target_size"),
        check=lambda depth, plane: (
            None
            if list(depth) == list(reversed(plane))
            else f"{list(depth)} (height, width) is not {list(plane)} (width, height) the other way round"
        ),
        hint="set dataset.reduced_target_size alone; depth_size follows it",
    ),
    Rule(
        keys=("model.frustum3d.truncation", "dataset.truncation_range"),
        check=_clipped,
        hint="lower model.frustum3d.truncation or raise the second value of dataset.truncation_range",
    ),
    Rule(keys=("dataset.truncation_range",), check=_increasing, hint="the default is [0.0, 12.0]"),
    Rule(
        keys=("dataset.num_thing_classes", "model.sem_seg_head.num_classes"),
        check=lambda things, classes: (
            None
            if things < classes
            else f"{things} things do not fit into {classes} classes, of which one is void"
        ),
        hint="lower dataset.num_thing_classes or raise model.sem_seg_head.num_classes",
    ),
    weights_for("evaluate"),
    weights_for("inference"),
    *(
        Rule(
            keys=(f"{action}.checkpoint", f"{action}.trt_engine", "dataset.enable_3d"),
            check=_volume_part,
            hint=f"{action}.checkpoint=PATH of the stage-2 checkpoint that was exported",
            actions=(action,),
            missing=True,
        )
        for action in ("evaluate", "inference")
    ),
    divisible("model.mask_former.hidden_dim", "model.mask_former.nheads"),
    not_above("dataset.augmentation.train_min_size", "dataset.augmentation.train_max_size"),
    not_above("dataset.augmentation.test_min_size", "dataset.augmentation.test_max_size"),
    CHECKPOINT_INTERVAL,
    VALIDATION_INTERVAL,
    BATCH_PROFILE,
)

_DERIVED = (
    Derived(key="dataset.downsample_factor", sources=("dataset.name",), value=_factor_of),
    Derived(
        key="dataset.depth_size",
        sources=("dataset.reduced_target_size",),
        value=lambda size: list(reversed(size)),
    ),
    Derived(
        key="model.frustum3d.frustum_dims",
        sources=("model.frustum3d.grid_dimensions",),
        value=lambda side: side,
    ),
    Derived(key="dataset.iso_value", sources=("dataset.name",), value=lambda name: float(_factor_of(name))),
)

_STAGE_1 = {"dataset.enable_3d": False}
_STAGE_2 = {"dataset.enable_3d": True}
_METRICS = (
    Metric(
        name="PRQ", direction="max", when=_STAGE_2, primary=True,
        description="3D panoptic reconstruction quality, geometry and recognition together, 0 to 100.",
    ),
    Metric(
        name="RSQ", direction="max", when=_STAGE_2,
        description="Quality of the matched 3D segments, 0 to 100.",
    ),
    Metric(
        name="RRQ", direction="max", when=_STAGE_2,
        description="Quality of finding the 3D segments at all, 0 to 100.",
    ),
    Metric(
        name="PRQ_things", direction="max", when=_STAGE_2, pattern=r"(PRQ|RSQ|RRQ)_(things|stuff)",
        description="The three 3D numbers over things and over stuff alone, 0 to 100.",
    ),
    Metric(
        name="val_dpq_averages_epoch", direction="max", when=_STAGE_1, primary=True,
        aliases=("PQ", "val_PQ", "test_dpq_averages_epoch", "dpq_averages"),
        description="2D panoptic quality, averaged over the depth-error limits 0.5, 0.25 and 0.1, 0 to 100.",
    ),
    Metric(
        name="val_dpq_0.5_epoch", direction="max", when=_STAGE_1,
        pattern=r"(train|val|test)_dpq(_th|_st)?_(averages|-?\d+(\.\d+)?)_epoch",
        description="2D panoptic quality at one depth-error limit (-1 = none); all, things or stuff.",
    ),
    Metric(
        name="val_loss", direction="min", description="Sum of the weighted losses on the validation split.",
        actions=("train",),
    ),
    Metric(
        name="train_loss", direction="min", description="Sum of the weighted losses while training.",
        actions=("train",),
    ),
)  # fmt: skip

_RECIPE: dict[str, Any] = {
    "dataset.contiguous_id": True,
    "dataset.augmentation.train_min_size": [240],
    "dataset.augmentation.train_max_size": 960,
    "dataset.augmentation.size_divisibility": 32,
    "model.object_mask_threshold": 0.8,
    "model.overlap_threshold": 0.8,
    "train.optim.lr": 1e-4,
    "train.optim.lr_scheduler": "Warmuppoly",
    "train.clip_grad_norm": 0.01,
    "export.input_width": 320,
    "export.input_height": 256,
    "train.checkpoint_interval": 1000,
    "train.checkpoint_interval_unit": "step",
}
_FRONT3D = {**_RECIPE, "dataset.name": "front3d", "model.frustum3d.iso_recon_value": 1.0}
_MATTERPORT = {
    **_RECIPE,
    "dataset.name": "matterport",
    "dataset.augmentation.size_divisibility": -1,
    "model.frustum3d.surface_weight": 10.0,
}


def _stage(
    recipe: Mapping[str, Any], *, stage: int, max_steps: int, multi_scale: bool = False
) -> dict[str, Any]:
    """A published recipe as dotted keys."""
    return {
        **recipe,
        "dataset.enable_3d": stage == 2,
        "dataset.train.batch_size": 16 if stage == 1 else 1,
        "train.num_epochs": 30 if stage == 1 else 20,
        "train.optim.max_steps": max_steps,
        "model.frustum3d.use_multi_scale": multi_scale,
    }


_BASE_EXPERIMENTS = (
    BaseExperiment(
        id="nvpanoptix3d-scratch",
        name="NVPanoptix3D from scratch",
        description="Documented defaults and random weights; nothing is downloaded.",
    ),
    BaseExperiment(
        id="nvpanoptix3d-front3d-2d",
        name="NVPanoptix3D on 3D-Front, stage 1",
        description="Published recipe of the 2D stage on 3D-Front, without weights.",
        specs=_stage(_FRONT3D, stage=1, max_steps=180000),
    ),
    BaseExperiment(
        id="nvpanoptix3d-front3d-3d",
        name="NVPanoptix3D on 3D-Front, stage 2",
        description="Published recipe of the 3D stage on 3D-Front, without weights.",
        specs=_stage(_FRONT3D, stage=2, max_steps=110000, multi_scale=True),
    ),
    BaseExperiment(
        id="nvpanoptix3d-matterport-2d",
        name="NVPanoptix3D on Matterport3D, stage 1",
        description="Published recipe of the 2D stage on Matterport3D, without weights.",
        specs=_stage(_MATTERPORT, stage=1, max_steps=120000),
    ),
    BaseExperiment(
        id="nvpanoptix3d-matterport-3d",
        name="NVPanoptix3D on Matterport3D, stage 2",
        description="Published recipe of the 3D stage on Matterport3D, without weights.",
        specs=_stage(_MATTERPORT, stage=2, max_steps=120000),
    ),
)


def _latest_link(spec: Mapping[str, Any]) -> str:
    dataset = spec.get("dataset") or {}
    return (
        "nvpanoptix3d_model_latest.pth" if dataset.get("enable_3d") else "panoptic_recon_3d_model_latest.pth"
    )


NETWORK = Network(
    name="nvpanoptix3d",
    title="NVPanoptix3D",
    summary="One RGB image to depth, 2D panoptic segmentation, 3D geometry and 3D panoptic segmentation.",
    impl="skillbank_models.nvpanoptix3d",
    skill="tao-train-nvpanoptix3d",
    actions={
        "train": TrainSpec,
        "evaluate": EvaluateSpec,
        "inference": InferenceSpec,
        "export": ExportSpec,
        "gen_trt_engine": GenTrtEngineSpec,
    },
    aliases={
        "train.lr": "train.optim.lr",
        "train.lr_scheduler": "train.optim.lr_scheduler",
        "train.backbone_multiplier": "train.optim.backbone_multiplier",
        "train.milestones": "train.optim.milestones",
        "train.weight_decay": "train.optim.weight_decay",
        "train.max_steps": "train.optim.max_steps",
        "model.backbone_type": "model.backbone.backbone_type",
        "model.backbone.pretrained_weights": "model.backbone.pretrained_model_path",
        "model.frustum_dims": "model.frustum3d.frustum_dims",
        "model.grid_dimensions": "model.frustum3d.grid_dimensions",
        "gen_trt_engine.onnx_file_2d": "gen_trt_engine.onnx_file",
        "gen_trt_engine.trt_engine_2d": "gen_trt_engine.trt_engine",
    },
    rules=_RULES,
    derived=_DERIVED,
    metrics=_METRICS,
    base_experiments=_BASE_EXPERIMENTS,
    latest_link=_latest_link,
)
