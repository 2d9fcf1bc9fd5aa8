"""Training settings of NVPanoptix3D."""

from __future__ import annotations

from typing import Literal

from skillbank.specs import common
from skillbank.specs.base import section, setting
from skillbank.specs.common import PRECISION_SPELLINGS, Index, SegmentationTrain

__all__ = ["Train"]


class Optim(common.Optim):
    """Optimiser and learning-rate schedule."""

    type: Literal["AdamW"] = setting("AdamW", "Optimiser.", any_case=True)
    lr: float = setting(
        2e-4, "Base learning rate of everything but the backbone; the published recipes use 1e-4.",
        ge=0.0, le=1.0, automl=True, popular=True, scale="log",
    )  # fmt: skip
    backbone_multiplier: float = setting(
        0.1, "Factor on the learning rate for the backbone.", ge=0.0, le=1.0, automl=True, scale="log"
    )
    momentum: float = setting(
        0.9, "First of the two decay rates of AdamW.", ge=0.0, le=1.0, automl=True, scale="linear"
    )
    weight_decay: float = setting(
        0.05, "Weight decay; norms and embeddings are left out.",
        ge=0.0, le=1.0, automl=True, popular=True, scale="log",
    )  # fmt: skip
    lr_scheduler: Literal["MultiStep", "Warmuppoly"] = setting(
        "MultiStep",
        "MultiStep multiplies by gamma at each milestone; Warmuppoly warms up, then falls to 0 at max_steps.",
        any_case=True,
        popular=True,
        spellings={"MultiStepLR": "MultiStep"},
    )
    milestones: list[Index] = setting(
        [88, 96], "Epochs at which MultiStep lowers the rate.", automl=False, unit="epoch"
    )
    max_steps: int = setting(
        160000,
        "Steps after which training ends, and where Warmuppoly reaches 0.",
        ge=1,
        popular=True,
        unit="step",
    )
    warmup_factor: float = setting(
        1.0, "Share of the rate at which the warm-up starts; 1 = no warm-up.", ge=0.0, le=1.0
    )
    warmup_iters: int = setting(0, "Length of the linear warm-up.", ge=0, unit="step")


class Train(SegmentationTrain):
    """Settings of the training run."""

    checkpoint_2d: str | None = setting(
        None, "Stage-1 checkpoint that gives stage 2 its frozen 2D part; a stage-1 parent job fills it.",
        popular=True,
    )  # fmt: skip
    checkpoint_3d: str | None = setting(
        None,
        "Stage-2 weights to start from, with a fresh optimiser; resume_training_checkpoint_path keeps it.",
    )
    val_check_interval: int = setting(
        5, "Accepted for older specs and not read; validation_interval, in epochs, decides.",
        gt=0, math_cond="> 0", unit="step",
    )  # fmt: skip
    clip_grad_type: Literal["full"] = setting(
        "full", "What is clipped: full = the whole model.", any_case=True
    )
    optim: Optim = section(Optim, "Optimiser and schedule.")
    precision: Literal["fp32", "fp16", "bf16"] = setting(
        "fp32",
        "Arithmetic: fp32 as documented; fp16 and bf16 are mixed precision, an extension of this bank.",
        any_case=True,
        spellings=PRECISION_SPELLINGS,
        popular=True,
    )
