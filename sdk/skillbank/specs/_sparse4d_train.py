"""Training settings of Sparse4D."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skillbank.specs.base import StrictModel, section, setting
from skillbank.specs.common import PRECISION_SPELLINGS, Checkpointer, Cudnn, Devices

__all__ = ["Train"]


class ParamwiseCfg(StrictModel):
    """Multipliers for groups of parameters."""

    custom_keys: dict[str, dict[str, float]] = setting(
        {"img_backbone": {"lr_mult": 0.2}},
        "Part of a parameter's name -> lr_mult and decay_mult, factors on learning rate and weight decay.",
        automl=False,
    )


class GradClip(StrictModel):
    """Gradient clipping."""

    max_norm: float = setting(25, "Bound of the gradient's norm; 0 turns clipping off.", ge=0)
    norm_type: Annotated[float, Field(gt=0)] | Literal["L1", "L2", "inf"] = setting(
        "L2",
        "Order of that norm; inf is the largest absolute value.",
        any_case=True,
        spellings={"1": "L1", "2": "L2", "2.0": "L2"},
    )


class LrScheduler(StrictModel):
    """Schedule of the learning rate."""

    policy: Literal["cosine"] = setting(
        "cosine", "Course after the warm-up.", any_case=True, spellings={"CosineAnnealing": "cosine"}
    )
    warmup: Literal["linear"] | None = setting(
        "linear", "Course of the warm-up; empty = none.", any_case=True, spellings={"": None, "none": None}
    )
    warmup_iters: int = setting(500, "Length of the warm-up; less than the run has.", ge=0, unit="step")
    warmup_ratio: float = setting(0.333333, "Share of the rate at which the warm-up starts.", gt=0, le=1)
    min_lr_ratio: float = setting(0.001, "Share of the rate that is left at the end.", ge=0, le=1)


class Optim(StrictModel):
    """Optimiser and schedule."""

    type: Literal["adamw", "adam", "sgd"] = setting("adamw", "Optimiser.", any_case=True, popular=True)
    lr: float = setting(
        5e-5,
        "Base learning rate; the printed example uses 1e-4.",
        ge=0,
        automl=True,
        popular=True,
        scale="log",
    )
    weight_decay: float = setting(0.001, "Weight decay.", ge=0, popular=True, scale="log")
    momentum: float = setting(0.9, "Momentum of sgd.", ge=0, lt=1)
    paramwise_cfg: ParamwiseCfg = section(ParamwiseCfg, "Multipliers for groups of parameters.")
    grad_clip: GradClip = section(GradClip, "Gradient clipping.")
    lr_scheduler: LrScheduler = section(LrScheduler, "Schedule of the learning rate.")


class Train(Devices):
    """Settings of the training run."""

    seed: int = setting(1234, "Seed of all random generators; -1 leaves them unseeded.", ge=-1)
    cudnn: Cudnn = section(Cudnn, "cuDNN switches.")
    num_epochs: int = setting(10, "Total number of epochs, also when a run is resumed.", ge=1, popular=True)
    checkpoint_interval: float = setting(
        0.5, "Units between checkpoints, may be a fraction; 0 = only at the end.", ge=0, popular=True
    )
    checkpoint_interval_unit: Literal["epoch", "step"] = setting(
        "epoch", "Unit of `checkpoint_interval`.", any_case=True
    )
    validation_interval: float = setting(
        0.5,
        "Epochs between validations, may be a fraction; 0 = only at the end.",
        ge=0,
        popular=True,
        unit="epoch",
    )
    resume_training_checkpoint_path: str | None = setting(
        None,
        "Checkpoint to continue from; empty continues from the newest one in the results folder, if any.",
    )
    results_dir: str | None = setting(None, "Output folder of training; empty means <results_dir>/train.")
    checkpointer: Checkpointer = section(Checkpointer, "Which checkpoints are kept beside the periodic ones.")
    pretrained_model_path: str | None = setting(
        None,
        "Initial weights: a whole Sparse4D checkpoint or a ResNet alone; empty = random weights.",
        popular=True,
    )
    optim: Optim = section(Optim, "Optimiser and schedule.")
    precision: Literal["bf16", "fp16", "fp32"] = setting(
        "bf16", "Arithmetic; bf16 and fp16 are mixed precision, geometry stays in fp32.", any_case=True,
        spellings=PRECISION_SPELLINGS, popular=True,
    )  # fmt: skip
    scrub_nan_gradients: bool = setting(
        False, "Replace gradients that are not a number by 0 instead of failing."
    )
