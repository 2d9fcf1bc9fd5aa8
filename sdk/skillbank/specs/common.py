"""Spec sections that two or more networks share with the same keys and defaults.

Where one network differs it subclasses the section and states only the difference; a redefined field keeps
its place in the order of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from skillbank.specs.base import ActionSpec, StrictModel, section, setting

__all__ = [
    "PRECISION_SPELLINGS",
    "Checkpointer",
    "Clipping",
    "Cudnn",
    "Devices",
    "Evaluate",
    "Export",
    "GenTrtEngine",
    "Index",
    "Inference",
    "Optim",
    "PositiveInt",
    "QuantCalibration",
    "Quantize",
    "QuantizeLayer",
    "QuantizeTensor",
    "Root",
    "SegmentationTrain",
    "TensorRT",
    "TrainRun",
    "Wandb",
]

PositiveInt = Annotated[int, Field(gt=0)]
Index = Annotated[int, Field(ge=0)]

PRECISION_SPELLINGS = {
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "16": "fp16",
    "16-mixed": "fp16",
    "float16": "fp16",
    "bf16-mixed": "bf16",
    "bfloat16": "bf16",
}


class Wandb(StrictModel):
    """Weights & Biases logging."""

    enable: bool = setting(
        True, "Log to Weights & Biases; without an API key in the environment nothing is sent.", popular=True
    )
    project: str = setting("TAO Toolkit", "Project that the run is listed under.")
    entity: str | None = setting("", "Team or user that owns the project; empty takes the account's own.")
    group: str | None = setting("", "Name that groups runs belonging together.")
    tags: list[str] = setting(["tao-toolkit"], "Labels of the run.")
    reinit: bool = setting(False, "Allow a second run to start inside one process.")
    sync_tensorboard: bool = setting(False, "Mirror TensorBoard scalars.")
    save_code: bool = setting(False, "Upload the source of the main script.")
    name: str = setting("TAO Toolkit Training", "Display name of the run.")
    run_id: str = setting("", "Identifier of a run to continue; empty starts a new one.")


class Root(ActionSpec):
    """Keys at the top of every spec; networks add model, dataset, train and the block of the action."""

    model_name: str | None = setting(
        None, "Network name for launchers that take any network; not read otherwise."
    )
    encryption_key: str | None = setting(
        None, "Key for encrypted checkpoints, accepted for compatibility and never stored or printed."
    )
    results_dir: str = setting(
        "/results", "Root of all outputs; each action writes to a folder below it.", popular=True
    )
    wandb: Wandb = section(Wandb, "Weights & Biases logging.")


class Cudnn(StrictModel):
    """cuDNN switches."""

    benchmark: bool = setting(
        False, "Let cuDNN time its algorithms and keep the fastest; costs reproducibility."
    )
    deterministic: bool = setting(True, "Only deterministic cuDNN algorithms.")


class Checkpointer(StrictModel):
    """Which checkpoints are kept beside the periodic ones."""

    enable_topk: bool = setting(False, "Also keep the checkpoints with the best value of `monitor`.")
    replace_periodic: bool = setting(False, "Keep only the best checkpoints and drop the periodic ones.")
    monitor: str | None = setting(None, "Metric that decides which is best; empty takes the network's own.")
    mode: Literal["min", "max"] | None = setting(None, "Which way is better; empty takes the metric's own.")
    save_top_k: int = setting(1, "Number of best checkpoints to keep.", ge=1)
    filename: str = setting(
        "model_best_{epoch:03d}", "File name pattern of a best checkpoint, without ending."
    )
    dirpath: str | None = setting(
        None, "Folder of the best checkpoints; empty means that of the periodic ones."
    )
    auto_insert_metric_name: bool = setting(
        False, "Put `epoch=` and the like before the numbers in the name."
    )


class Devices(StrictModel):
    """GPU fields of an action block."""

    num_gpus: int = setting(
        1, "GPUs per node; when `gpu_ids` disagrees, the larger of the two holds.", ge=1, popular=True
    )
    gpu_ids: list[Index] = setting([0], "Indices of the GPUs to use.", min_length=1, popular=True)
    num_nodes: int = setting(1, "Number of machines.", ge=1)


class TrainRun(Devices):
    """Keys of `train` that say how long, where to and how reproducibly, but nothing of the optimiser."""

    seed: int = setting(1234, "Seed of all random generators; -1 leaves them unseeded.", ge=-1)
    cudnn: Cudnn = section(Cudnn, "cuDNN switches.")
    num_epochs: int = setting(10, "Total number of epochs, also when a run is resumed.", ge=1, popular=True)
    checkpoint_interval: int = setting(
        1, "Units between checkpoints; the unit is `checkpoint_interval_unit`.", ge=1, popular=True
    )
    checkpoint_interval_unit: Literal["epoch", "step"] = setting("epoch", "Unit of `checkpoint_interval`.")
    validation_interval: int = setting(1, "Epochs between validations.", ge=1, popular=True)
    resume_training_checkpoint_path: str | None = setting(
        None, "Checkpoint to continue from; empty takes the newest one in the results folder, if any."
    )
    results_dir: str | None = setting(None, "Output folder of training; empty means <results_dir>/train.")
    checkpointer: Checkpointer = section(Checkpointer, "Which checkpoints are kept beside the periodic ones.")


class Optim(StrictModel):
    """Optimiser and schedule of the 2D segmentation networks."""

    type: Literal["AdamW", "SGD"] = setting("AdamW", "Optimiser.", any_case=True, popular=True)
    monitor_name: Literal["val_loss", "train_loss"] = setting(
        "val_loss", "Value for schedules that react to a plateau; none of the schedules here does."
    )
    lr: float = setting(
        2e-4, "Base learning rate of everything but the backbone.",
        gt=0, le=1, math_cond="> 0.0", automl=True, popular=True, scale="log",
    )  # fmt: skip
    backbone_multiplier: float = setting(
        0.1, "Factor on the learning rate for the backbone.",
        gt=0, le=1, math_cond="> 0.0", automl=True, scale="log",
    )  # fmt: skip
    momentum: float = setting(
        0.9, "Momentum of SGD; with AdamW the first of its two decay rates.",
        gt=0, le=1, math_cond="> 0.0", automl=True, scale="linear",
    )  # fmt: skip
    weight_decay: float = setting(
        1e-4, "Weight decay; norms, embeddings and position tables are left out.",
        gt=0, le=1, math_cond="> 0.0", automl=True, popular=True, scale="log",
    )  # fmt: skip
    lr_scheduler: Literal["MultiStep", "StepLR", "Warmuppoly"] = setting(
        "MultiStep",
        "MultiStep decays at `milestones`, StepLR every `milestones[0]` epochs, Warmuppoly by a power.",
        any_case=True,
        spellings={"MultiStepLR": "MultiStep"},
    )
    milestones: list[Index] = setting([11], "Epochs at which the learning rate decays.", unit="epoch")
    gamma: float = setting(0.1, "Factor of each decay.", gt=0, math_cond="> 0.0")


@dataclass(frozen=True, slots=True)
class Clipping:
    """How gradients are bounded before a step; see `SegmentationTrain.clip_grad_type` for the kinds."""

    bound: float
    norm_type: float
    kind: Literal["full", "norm", "value"]


class SegmentationTrain(TrainRun):
    """Keys of `train` that the networks with a mask decoder share."""

    freeze: list[str] | None = setting([], "Dotted names of the modules that are not trained.")
    clip_grad_norm: float = setting(
        0.1, "Bound of the gradient's norm before each step; 0 turns clipping off.", ge=0
    )
    clip_grad_norm_type: Annotated[float, Field(gt=0)] | Literal["inf"] = setting(
        2.0, "Order of that norm; inf is the largest absolute value."
    )
    clip_grad_type: Literal["full", "norm", "value"] = setting(
        "full",
        "What is bounded: full = one norm over all parameters, norm = each parameter's, value = each number.",
        any_case=True,
        spellings={"full_model": "full"},
    )
    is_dry_run: bool = setting(False, "Run one batch through training and validation, then stop.")
    optim: Optim = section(Optim, "Optimiser and schedule.")
    precision: Literal["fp32", "fp16", "bf16"] = setting(
        "fp32",
        "Arithmetic of training; fp16 and bf16 are mixed precision.",
        any_case=True,
        spellings=PRECISION_SPELLINGS,
        popular=True,
    )
    distributed_strategy: Literal["ddp", "fsdp"] = setting(
        "ddp",
        "How several GPUs share the work: ddp copies the model, fsdp (also written ddp_sharded) splits it.",
        any_case=True,
        spellings={"ddp_sharded": "fsdp"},
    )
    activation_checkpoint: bool = setting(
        True, "Recompute activations in the backward pass, which saves memory and costs time."
    )
    verbose: bool = setting(False, "Print the learning rate of every parameter group.")
    iters_per_epoch: int | None = setting(
        None, "Optimiser steps that make an epoch; empty means one pass over the data.", ge=1, unit="step"
    )

    def clipping(self) -> Clipping | None:
        """The gradient clipping to apply; None when it is off."""
        if self.clip_grad_norm == 0:
            return None
        return Clipping(self.clip_grad_norm, float(self.clip_grad_norm_type), self.clip_grad_type)


class Evaluate(Devices):
    """Keys of `evaluate`; a network that adds keys subclasses it."""

    checkpoint: str | None = setting(None, "Weights to evaluate; not needed with an engine.", popular=True)
    trt_engine: str | None = setting(None, "TensorRT engine or ONNX file to measure instead of a checkpoint.")
    results_dir: str | None = setting(
        None, "Output folder of evaluation; empty means <results_dir>/evaluate."
    )
    batch_size: int = setting(-1, "Images per batch; -1 takes that of the data split.", ge=-1)


class Inference(Devices):
    """Keys of `inference`; a network that adds keys subclasses it."""

    checkpoint: str | None = setting(None, "Weights to run; not needed with an engine.", popular=True)
    trt_engine: str | None = setting(None, "TensorRT engine or ONNX file to run instead of a checkpoint.")
    results_dir: str | None = setting(
        None, "Output folder of inference; empty means <results_dir>/inference."
    )
    batch_size: int = setting(-1, "Images per batch; -1 takes that of the data split.", ge=-1)


class Export(StrictModel):
    """Keys of `export`."""

    results_dir: str | None = setting(None, "Output folder of export; empty means <results_dir>/export.")
    gpu_id: int = setting(0, "Index of the GPU used to trace the model.", ge=0)
    checkpoint: str | None = setting(None, "Weights to export.", mandatory_for=("export",), popular=True)
    onnx_file: str | None = setting(None, "ONNX file to write.", mandatory_for=("export",), popular=True)
    on_cpu: bool = setting(
        False, "True writes standard operators only; False writes TensorRT's node for deformable attention."
    )
    input_channel: int = setting(3, "Channels of the input image.", ge=1)
    input_width: int = setting(960, "Width of the input.", ge=32, unit="pixel", popular=True)
    input_height: int = setting(544, "Height of the input.", ge=32, unit="pixel", popular=True)
    opset_version: int = setting(17, "ONNX operator set.", ge=1)
    batch_size: int = setting(-1, "Batch size of the graph; -1 makes it dynamic.", ge=-1)
    verbose: bool = setting(False, "Print what the exporter does.")


class TensorRT(StrictModel):
    """Settings of the TensorRT builder."""

    workspace_size: int = setting(1024, "Memory the builder may use for scratch.", ge=0, unit="MB")
    min_batch_size: int = setting(1, "Smallest batch the engine takes.", ge=1)
    opt_batch_size: int = setting(1, "Batch the engine is tuned for.", ge=1)
    max_batch_size: int = setting(1, "Largest batch the engine takes.", ge=1)
    layers_precision: list[str] | None = setting(
        [], "Precision of single layers, written as layer:precision."
    )
    data_type: Literal["FP32", "FP16"] = setting("FP32", "Arithmetic of the engine.", any_case=True)


class GenTrtEngine(StrictModel):
    """Keys of `gen_trt_engine`."""

    results_dir: str | None = setting(None, "Output folder; empty means <results_dir>/gen_trt_engine.")
    gpu_id: int = setting(0, "Index of the GPU the engine is built on and for.", ge=0)
    onnx_file: str | None = setting(
        None, "ONNX file to build from.", mandatory_for=("gen_trt_engine",), popular=True
    )
    trt_engine: str | None = setting(
        None, "Engine file to write.", mandatory_for=("gen_trt_engine",), popular=True
    )
    timing_cache: str | None = setting(None, "File with kernel timings that speeds up the next build.")
    batch_size: int = setting(-1, "Batch of the engine; -1 takes that of the ONNX file.", ge=-1)
    verbose: bool = setting(False, "Print what the builder does.")
    tensorrt: TensorRT = section(TensorRT, "Settings of the TensorRT builder.")


class QuantizeTensor(StrictModel):
    """How the weights or the activations of the matched layers are quantised."""

    dtype: str = setting("int8", "Number format, such as int8 or fp8_e4m3fn.")
    observer_or_fake_quant: str | None = setting(None, "Observer class; empty takes the backend's own.")
    quant_axis: int | None = setting(
        None, "Axis with one scale for each index; empty = one scale for the tensor."
    )
    kwargs: dict[str, Any] = setting({}, "Further options of the observer.")


class QuantizeLayer(StrictModel):
    """A rule for the layers that match a name."""

    module_name: str = setting("*", "Module name pattern or class name the rule is for.")
    weights: QuantizeTensor | None = setting(None, "Quantisation of the weights; empty leaves them.")
    activations: QuantizeTensor | None = setting(None, "Quantisation of the activations; empty leaves them.")


class Quantize(StrictModel):
    """Keys of `quantize`."""

    backend: Literal["modelopt.pytorch", "torchao", "modelopt.onnx"] | None = setting(
        "torchao", "Library that quantises."
    )
    mode: Literal["static_ptq", "weight_only_ptq"] | None = setting(
        "weight_only_ptq", "static_ptq needs calibration images, weight_only_ptq does not."
    )
    algorithm: Literal["minmax", "max", "entropy", "awq_clip", "awq_lite", "awq_full", "rtn_dq"] | None = (
        setting("minmax", "How the modelopt backends find value ranges.")
    )
    layers: list[QuantizeLayer] | None = setting(
        [], "Rules by module, first match wins; empty = every layer."
    )
    skip_names: list[str] | None = setting([], "Modules left as they are, whatever the rules say.")
    model_path: str | None = setting(
        None,
        "Checkpoint, or ONNX file for modelopt.onnx, to quantise.",
        mandatory_for=("quantize",),
        popular=True,
    )
    results_dir: str | None = setting(None, "Output folder; empty means <results_dir>/quantize.")
    backend_kwargs: dict[str, Any] | None = setting({}, "Further options handed to the backend.")
    device: Literal["cuda", "cpu", "trt"] = setting("cuda", "Where calibration runs.")


class QuantCalibration(StrictModel):
    """Images for static quantisation."""

    images_dir: str = setting("", "Folder of calibration images.")
