"""The one place where settings of a spec become a Lightning Trainer: precision, strategy, devices, limits."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import SingleDeviceStrategy, Strategy
from pytorch_lightning.utilities.model_helpers import is_overridden

from skillbank.errors import ConflictError
from skillbank.launch.devices import cpu_count
from skillbank_models.protocol import ActionContext
from skillbank_runners.checkpoints import SafeCheckpointIO
from skillbank_runners.placement import Placement
from skillbank_runners.ranks import Rank
from skillbank_runners.strategies import Replicated, Sharded, ShardedPrecision, StartedRanks

__all__ = ["Host", "TrainSettings", "build_trainer", "prepare_process", "setting_of"]

log = logging.getLogger(__name__)

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def setting_of(spec: Any, key: str, otherwise: Any = None) -> Any:
    """The value at a dotted key; `otherwise` where the network has no such key, or it is empty."""
    value = spec
    for part in key.split("."):
        value = getattr(value, part, None)
        if value is None:
            return otherwise
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where an action runs: devices of the job, and which of its processes this is."""

    placement: Placement
    rank: Rank

    @property
    def device(self) -> torch.device:
        """Where tensors of this process belong."""
        if self.placement.accelerator == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", self.placement.ids[self.rank.local])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What networks call by different names, under one.

    Attributes:
        clip: bound, order of the norm and kind (see `ClipGradients`), or None.
        steps_per_epoch: optimiser steps that make an epoch, or None for one pass over the data.
        max_steps: optimiser steps after which training ends, or None.
        validation_interval: epochs between validations; 0 = only at the end.
    """

    precision: str
    strategy: str
    accumulate: int
    clip: tuple[float, float, str] | None
    num_epochs: int
    max_steps: int | None
    steps_per_epoch: int | None
    validation_interval: float
    is_dry_run: bool

    @classmethod
    def read(cls, spec: Any) -> TrainSettings:
        """The training settings of a spec."""
        interval = float(setting_of(spec, "train.validation_interval", 1))
        inside = setting_of(spec, "train.val_check_interval", 1.0)
        if isinstance(inside, float) and inside < 1.0:
            interval = min(interval, inside)
        epochs = int(setting_of(spec, "train.num_epochs", 1))
        return cls(
            precision=setting_of(spec, "train.precision", "fp32"),
            strategy=setting_of(spec, "train.distributed_strategy", "ddp"),
            accumulate=int(setting_of(spec, "train.accumulate_grad_batches", 1)),
            clip=_clip(spec),
            num_epochs=epochs,
            max_steps=setting_of(spec, "train.optim.max_steps"),
            steps_per_epoch=setting_of(spec, "train.iters_per_epoch"),
            # the last epoch is validated in any case
            validation_interval=interval if interval > 0 else float(epochs),
            is_dry_run=bool(setting_of(spec, "train.is_dry_run", False)),
        )


def prepare_process(spec: Any, host: Host) -> None:
    """Switches of this process that no Trainer sets: threads, cuDNN, current GPU."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdigit() and int(asked) > 0 else torch.get_num_threads()
    if host.placement.accelerator == "cpu" and host.placement.processes > 1:
        threads = min(threads, max(1, cpu_count() // host.placement.processes))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = bool(setting_of(spec, "train.cudnn.deterministic", True))
    torch.backends.cudnn.benchmark = bool(setting_of(spec, "train.cudnn.benchmark", False))
    if host.placement.accelerator == "cuda":
        torch.cuda.set_device(host.device)
    # the worker writes the log of a job; hints about Lightning's own products do not belong there
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_trainer(
    spec: Any,
    context: ActionContext,
    host: Host,
    *,
    callbacks: Sequence[Callback] = (),
    training: TrainSettings | None = None,
    shard_units: set[type[torch.nn.Module]] | None = None,
) -> pl.Trainer:
    """A Trainer for one action.

    Args:
        spec: read for what is not part of `training`.
        context: names the action and its folder.
        host: devices, and which process this is.
        callbacks: in this order.
        training: settings of training; None for other actions, which run in full precision unless the
            action's block names another.
        shard_units: module classes at which fsdp splits.

    Raises:
        ConflictError: a precision that the device cannot do.
    """
    precision = training.precision if training else setting_of(spec, f"{context.action}.precision", "fp32")
    mode: str | None = _precision(precision, host, "train" if training else context.action)
    limit: int | None = 1 if training and training.is_dry_run else None
    strategy = _strategy(spec, host, training, shard_units)
    plugins: list[Any] = [SafeCheckpointIO()]
    if host.rank.world > 1:
        plugins.append(StartedRanks(host.rank))
    if isinstance(strategy, Sharded):
        plugins.append(ShardedPrecision(mode, host.device.type))
        mode = None
    trainer = pl.Trainer(
        accelerator=host.placement.accelerator,
        devices=list(host.placement.ids) or host.placement.processes,
        num_nodes=host.placement.nodes,
        strategy=strategy,
        precision=mode,  # type: ignore[arg-type]
        plugins=plugins,
        max_epochs=1 if limit else (training.num_epochs if training else None),
        accumulate_grad_batches=training.accumulate if training else 1,
        limit_train_batches=limit,
        limit_val_batches=limit,
        num_sanity_val_steps=0,
        callbacks=[*callbacks, *_progress_bar()],
        default_root_dir=context.folder,
        logger=_loggers(spec, context),
        benchmark=torch.backends.cudnn.benchmark,
        sync_batchnorm=host.placement.accelerator == "cuda" and host.rank.world > 1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and host.rank.number == 0,
    )
    _leave_signals_to_us(trainer)
    return trainer


def has_step(module: pl.LightningModule, name: str) -> bool:
    """Whether a module has a step of its own, such as ``validation_step``."""
    return bool(is_overridden(name, module, pl.LightningModule))


def _clip(spec: Any) -> tuple[float, float, str] | None:
    """Gradient clipping under the names the networks use for it."""
    if setting_of(spec, "train.clip_gradients.enabled", False):
        bound = setting_of(spec, "train.clip_gradients.clip_value", 0.0)
        norm, kind = setting_of(spec, "train.clip_gradients.norm_type", 2.0), "full"
    elif (block := setting_of(spec, "train.optim.grad_clip")) is not None:
        bound, norm, kind = _member(block, "max_norm", 0.0), _member(block, "norm_type", 2.0), "full"
    else:
        bound = setting_of(spec, "train.clip_grad_norm", 0.0)
        norm = setting_of(spec, "train.clip_grad_norm_type", 2.0)
        kind = setting_of(spec, "train.clip_grad_type", "full")
    text = str(norm).upper().removeprefix("L")
    return (float(bound), float(text), kind) if bound else None


def _member(block: Any, name: str, otherwise: Any) -> Any:
    found = block.get(name) if isinstance(block, dict) else getattr(block, name, None)
    return otherwise if found is None else found


def _precision(name: str, host: Host, action: str) -> str:
    if name == "fp16" and host.placement.accelerator == "cpu":
        raise ConflictError(
            f"{action}.precision: fp16 needs a GPU, and this job runs on the CPU; use bf16 or fp32",
            hint=f"{action}.precision=bf16",
            key=f"{action}.precision",
            value=name,
            allowed=["fp32", "bf16"],
        )
    return _PRECISIONS[name]


def _strategy(
    spec: Any, host: Host, training: TrainSettings | None, shard_units: set[type[torch.nn.Module]] | None
) -> Strategy:
    if host.rank.world == 1:
        return SingleDeviceStrategy(device=host.device)
    if training and training.strategy == "fsdp":
        return Sharded(state_dict_type="full", auto_wrap_policy=shard_units or None)
    # small networks have parts that no loss reaches, such as the projection of a map that no layer looks at
    return Replicated(find_unused_parameters=training is not None)


def _progress_bar() -> list[Callback]:
    if not sys.stderr.isatty():
        return []
    from pytorch_lightning.callbacks import RichProgressBar

    return [RichProgressBar(console_kwargs={"stderr": True})]


def _loggers(spec: Any, context: ActionContext) -> Any:
    """Weights & Biases, where it is asked for, installed and given a key."""
    is_wanted = setting_of(spec, "wandb.enable", False) and context.action == "train"
    if not is_wanted or not os.environ.get("WANDB_API_KEY") or context.rank != 0:
        return False
    try:
        from pytorch_lightning.loggers import WandbLogger

        block = spec.wandb
        return WandbLogger(
            name=block.name,
            save_dir=context.folder,
            project=block.project,
            id=block.run_id or None,
            entity=block.entity or None,
            group=block.group or None,
            tags=list(block.tags),
            reinit=block.reinit,
            sync_tensorboard=block.sync_tensorboard,
            save_code=block.save_code,
        )
    except ImportError:
        log.warning("wandb.enable is set and there is a key, but the package is missing: pip install wandb")
        return False


def _leave_signals_to_us(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM: it would not save, and waits for all processes at every batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    loop = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
