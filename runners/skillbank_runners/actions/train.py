"""Training: fresh, from other weights, or going on where a run was left."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from skillbank.errors import ConflictError, InvalidValueError
from skillbank.metrics import lookup, primary_metric
from skillbank.specs.base import Metric
from skillbank_runners.actions.context import Running
from skillbank_runners.callbacks import ClipGradients, Frozen, Generators, LossGuard, sample_names
from skillbank_runners.checkpoints import (
    RESUME_KEY,
    Resume,
    check_fits,
    find_resume,
    read_checkpoint,
    tensors_of,
)
from skillbank_runners.data import DataOrder, arrange
from skillbank_runners.progress import Measures, Progress
from skillbank_runners.saving import Best, CheckpointPlan, Checkpoints
from skillbank_runners.schedule import StepLimit, ValidationSchedule
from skillbank_runners.trainer import TrainSettings, build_trainer, setting_of

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(job: Running) -> None:
    """Train until `train.num_epochs` epochs are done, counted over all runs that went before."""
    settings = TrainSettings.read(job.spec)
    link_name = job.network_facts.latest_link(job.nested)
    given = setting_of(job.spec, RESUME_KEY)
    # a trial run leaves nothing to resume from, and shall not go on with the real one
    resume = None if settings.is_dry_run else find_resume(given, job.folder, link_name)
    module = job.implementation.build_module(job.spec)
    if resume is None:
        log.info("training starts fresh: no %s in %s", link_name, job.folder)
        if job.implementation.start_weights is not None:
            job.implementation.start_weights(module, job.spec)
    else:
        log.info("training resumes from %s: %s", resume.path, resume.reason)
        _register_earlier(job, resume.path.parent)
        if _is_over(resume, module, settings):
            job.status.running(
                f"nothing left to train: {resume.path.name} has all {settings.num_epochs} epochs"
            )
            return
    order = DataOrder(
        seed=job.host.rank.seed,
        rank=job.rank,
        world=job.world,
        even=settings.strategy == "fsdp" and job.world > 1,
    )
    length = settings.steps_per_epoch * settings.accumulate if settings.steps_per_epoch else None
    data = job.implementation.build_data(job.spec)
    arrange(data, order, train_length=length)
    trainer = build_trainer(
        job.spec,
        job,
        job.host,
        callbacks=_callbacks(job, module, settings, order, link_name),
        training=settings,
        shard_units=getattr(module, "shard_units", None),
    )
    order.trainer = trainer
    start = f"resuming from {resume.path.name}" if resume else "training from the start"
    job.status.running(f"{start}, {settings.num_epochs} epochs on {_where(job)}")
    trainer.fit(module, datamodule=data, ckpt_path=resume.path if resume else None, weights_only=True)
    job.register_left_by(module)


def _callbacks(
    job: Running, module: pl.LightningModule, settings: TrainSettings, order: DataOrder, link_name: str
) -> list[Callback]:
    """The callbacks of a run; random state comes back first, checkpoints are written last."""
    schedule = ValidationSchedule(settings.validation_interval)
    own = job.implementation
    names = own.sample_names or sample_names
    measures = Measures()
    found: list[Callback] = [Generators(order), LossGuard(names), schedule, measures]
    frozen = setting_of(job.spec, "train.freeze", [])
    if frozen:
        found.append(Frozen(module, list(frozen)))
    if settings.clip is not None:
        found.append(ClipGradients(*settings.clip))
    if settings.max_steps:
        found.append(StepLimit(settings.max_steps))
    found += own.callbacks(job.spec) if own.callbacks else []
    verbose = bool(setting_of(job.spec, "train.verbose", False))
    found.append(Progress(job.status, measures, verbose=verbose))
    plan = CheckpointPlan(
        folder=job.folder,
        interval=float(setting_of(job.spec, "train.checkpoint_interval", 1)),
        unit=setting_of(job.spec, "train.checkpoint_interval_unit", "epoch"),
        link_name=link_name,
        network=job.network,
        replace_periodic=bool(setting_of(job.spec, "train.checkpointer.replace_periodic", False)),
        writes=not settings.is_dry_run,
    )
    found.append(
        Checkpoints(plan, job.interrupts, job.register, schedule=schedule, measures=measures, best=_best(job))
    )
    return found


def _best(job: Running) -> Best | None:
    """What `train.checkpointer` asks for.

    Raises:
        InvalidValueError: no metric to go by, or an unknown one without a direction.
    """
    block = setting_of(job.spec, "train.checkpointer")
    if block is None or not block.enable_topk:
        return None
    metric = _monitored(job, block.monitor, block.mode)
    pattern = block.filename
    if block.auto_insert_metric_name:
        pattern = pattern.replace("{epoch", "epoch={epoch").replace("{step", "step={step")

    def value(numbers: Mapping[str, float]) -> float | None:
        return lookup(numbers, metric)

    return Best(
        metric=value,
        direction=block.mode or metric.direction,
        count=block.save_top_k,
        pattern=pattern,
        folder=Path(block.dirpath) if block.dirpath else job.folder,
    )


def _monitored(job: Running, name: str | None, mode: Any) -> Metric:
    key = "train.checkpointer.monitor"
    if not name:
        found = primary_metric(job.network_facts, job.nested)
        if found is None:
            raise InvalidValueError(
                f"{key}: {job.network} has no main metric here; name one", hint=f"{key}=val_loss", key=key
            )
        return found
    known = [metric for metric in job.network_facts.metrics if lookup({name: 0.0}, metric) is not None]
    if known:
        return known[0]
    if mode is None:
        raise InvalidValueError(
            f"{key}: {name!r} is no metric that {job.network} names, so its direction is not known",
            hint="train.checkpointer.mode=max, or min",
            key=key,
            value=name,
            allowed=[metric.name for metric in job.network_facts.metrics],
        )
    return Metric(name=name, direction=mode, description="named by train.checkpointer.monitor")


def _is_over(resume: Resume, module: pl.LightningModule, settings: TrainSettings) -> bool:
    """Whether the checkpoint has all that was asked for; checks that it can be resumed at all.

    Raises:
        InvalidValueError: weights only, or of another architecture.
        ConflictError: it has more epochs than asked for.
    """
    checkpoint = read_checkpoint(resume.path, key=RESUME_KEY)
    absent = [
        name
        for name in ("state_dict", "optimizer_states", "lr_schedulers", "loops")
        if name not in checkpoint
    ]
    if absent:
        raise InvalidValueError(
            f"{RESUME_KEY}: {resume.path} has no {', '.join(absent)}, so training cannot go on from it",
            hint="start from its weights instead: set the network's pretrained model key to this file",
            key=RESUME_KEY,
            value=str(resume.path),
        )
    check_fits(module, tensors_of(checkpoint), resume.path, RESUME_KEY)
    done = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    if done > settings.num_epochs:
        raise ConflictError(
            f"train.num_epochs: {settings.num_epochs} is less than the {done} epochs that {resume.path} has; "
            "the number counts all epochs, those before a resume as well",
            hint=f"train.num_epochs={done + settings.num_epochs}, or another results_dir",
            key="train.num_epochs",
            value=settings.num_epochs,
        )
    steps = int(checkpoint.get("global_step", 0))
    return done == settings.num_epochs or (settings.max_steps is not None and steps >= settings.max_steps)


def _register_earlier(job: Running, folder: Path) -> None:
    """Record the checkpoints of the runs before, so that the best of all is found by those who come after."""
    if job.rank != 0 or folder != job.folder.resolve():
        return
    for path in sorted(folder.glob("model_*.pth")):
        if path.is_symlink():
            continue
        about = read_checkpoint(path, key=RESUME_KEY).get("skillbank")
        if about:
            job.register(
                path, "checkpoint", epoch=about["epoch"], step=about["step"], metrics=about["metrics"]
            )


def _where(job: Running) -> str:
    kind = "GPU" if job.host.placement.accelerator == "cuda" else "CPU process"
    return f"{job.world} {kind}{'s' if kind == 'GPU' and job.world > 1 else 'es' if job.world > 1 else ''}"
