"""What every training run gets beside its module: guards, clipping, freezing, random state."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from torch.distributed.fsdp import FullyShardedDataParallel

from skillbank.errors import InvalidValueError, JobFailedError
from skillbank_runners import randomness
from skillbank_runners.data import DataOrder

__all__ = [
    "ClipGradients",
    "Frozen",
    "Generators",
    "LossGuard",
    "sample_names",
]

log = logging.getLogger(__name__)

_SAMPLE_KEYS = ("sample_ids", "image_ids", "image_id", "file_names", "file_name", "ids", "names")


def sample_names(batch: Any) -> list[str]:
    """What a batch says of its samples, under one of the usual names; empty when it says nothing."""
    for name in _SAMPLE_KEYS:
        found = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
        if isinstance(found, torch.Tensor):
            return [str(value) for value in found.flatten().tolist()]
        if isinstance(found, list | tuple):
            return [str(value) for value in found]
    return []


class LossGuard(pl.Callback):
    """Ends training at the first loss that is not a number, before it reaches the weights or a checkpoint.

    On a GPU the value of a batch is looked at while the next one runs, so that nothing waits for it; it is
    looked at in any case before a checkpoint is written.

    Args:
        names: batch -> names of its samples.
    """

    def __init__(self, names: Callable[[Any], Sequence[str]] = sample_names) -> None:
        self._names = names
        self._batch: tuple[int, int, int, list[str]] | None = None
        self._pending: tuple[torch.Tensor, Any, tuple[int, int, int, list[str]]] | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which batch this is."""
        self._batch = trainer.current_epoch, trainer.global_step, batch_idx, list(self._names(batch))

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """Look at the loss, or have it brought over to look at it later."""
        assert self._batch is not None
        if loss.device.type != "cuda":
            self._judge(trainer, loss.detach(), self._batch)
            return
        self._settle(trainer)
        copy = torch.empty((), dtype=torch.float32, pin_memory=True)
        copy.copy_(loss.detach().float(), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = copy, event, self._batch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """No checkpoint of weights that a bad loss may have reached."""
        self._settle(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last one."""
        self._settle(trainer)

    def _settle(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        value, event, batch = self._pending
        self._pending = None
        event.synchronize()
        self._judge(trainer, value, batch)

    def _judge(
        self, trainer: pl.Trainer, value: torch.Tensor, batch: tuple[int, int, int, list[str]]
    ) -> None:
        if bool(torch.isfinite(value).all()):
            return
        epoch, step, index, names = batch
        bad = [
            name
            for name, number in trainer.callback_metrics.items()
            if not bool(torch.isfinite(number).all())
        ]
        where = f"epoch {epoch + 1}, step {step}, batch {index}"
        of = f" (samples {', '.join(names)})" if names else ""
        parts = f"; not finite: {', '.join(sorted(bad))}" if bad else ""
        raise JobFailedError(
            f"{where}{of}: the loss is {float(value)}{parts}; the last checkpoint was written before",
            hint="look at these samples; else lower train.optim.lr, or use train.precision=fp32",
            key="loss",
        )


class ClipGradients(pl.Callback):
    """Bounds gradients once per step, after unscaling, over all parameters however they are grouped.

    Args:
        bound: largest norm, or largest absolute value.
        norm_type: order of the norm; inf = largest absolute value.
        kind: ``full`` one norm over everything, ``norm`` one for each parameter, ``value`` each number.
    """

    def __init__(self, bound: float, norm_type: float = 2.0, kind: str = "full") -> None:
        self.bound = bound
        self.norm_type = norm_type
        self.kind = kind

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip."""
        sharded = trainer.strategy.model
        if self.kind == "full" and isinstance(sharded, FullyShardedDataParallel):
            sharded.clip_grad_norm_(self.bound, self.norm_type)
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.kind == "value":
            torch.nn.utils.clip_grad_value_(parameters, self.bound)
        elif self.kind == "norm":
            for parameter in parameters:
                torch.nn.utils.clip_grad_norm_(parameter, self.bound, self.norm_type)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, self.bound, self.norm_type)


class Frozen(pl.Callback):
    """Keeps modules as they are: no gradients, and evaluation mode, so that statistics rest as well.

    Args:
        module: holds the modules; those below its attribute ``model`` are meant first.
        names: dotted names; a name that fits nowhere is tried as the end of one.

    Raises:
        InvalidValueError: none of the names fits.
    """

    def __init__(self, module: pl.LightningModule, names: Sequence[str]) -> None:
        self.modules: list[torch.nn.Module] = []
        root = getattr(module, "model", module)
        known = {name: part for name, part in root.named_modules() if name}
        unknown = []
        for name in names:
            ending = [part for path, part in known.items() if path.endswith(f".{name}")]
            found = [known[name]] if name in known else ending
            self.modules += found
            if not found:
                unknown.append(name)
        for name in unknown:
            near = difflib.get_close_matches(name, known, n=3)
            text = (
                f"train.freeze: {name!r} is no module of this network; near are {', '.join(near) or 'none'}, "
                f"at the top {', '.join(path for path in known if '.' not in path)}"
            )
            if len(unknown) == len(names):
                raise InvalidValueError(text, hint="train.freeze=[]", key="train.freeze", value=list(names))
            log.warning("%s; it is left out", text)
        parameters = {id(parameter): parameter for part in self.modules for parameter in part.parameters()}
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        count = sum(parameter.numel() for parameter in parameters.values())
        log.info("frozen: %d parameters in %s", count, ", ".join(names))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put them back into evaluation mode."""
        for part in self.modules:
            part.eval()


class Generators(pl.Callback):
    """Keeps random generators and the place in the data in the checkpoint, and validation away from them."""

    def __init__(self, order: DataOrder) -> None:
        self._order = order
        self._restored: dict[str, Any] | None = None
        self._outside: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Generators of each process, seed of the data, and the place inside the epoch."""
        own = self._outside or randomness.capture()
        states = [own]
        if self._order.world > 1:
            states = [{} for _ in range(self._order.world)]
            torch.distributed.all_gather_object(states, own)
        return {"seed": self._order.seed, "batches": self._order.batches_done, "states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over seed, place and generators; these only where the number of processes is the same."""
        self._order.seed = int(state_dict["seed"])
        self._order.done_before = int(state_dict["batches"])
        states = state_dict["states"]
        if len(states) == self._order.world:
            self._restored = states[self._order.rank]
        else:
            log.warning(
                "the run had %d processes, now %d: random numbers differ", len(states), self._order.world
            )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the batches behind a resumed epoch as this number of processes would have."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state and state["batches"]:
            current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            shift = -(-state["batches"] // self._order.world) - current["ready"]
            for name in ("ready", "started", "processed", "completed"):
                current[name] += shift

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give every process numbers of its own."""
        randomness.seed_everything(randomness.derive(self._order.seed, "model", self._order.rank))
        if self._restored is not None:
            randomness.restore(self._restored)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on where the checkpoint of a finished epoch was taken."""
        if self._restored is not None:
            randomness.restore(self._restored)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on where a checkpoint inside an epoch was taken."""
        if self._restored is not None and batch_idx > 0:
            randomness.restore(self._restored)
        self._restored = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the training's generators aside."""
        if trainer.state.fn == "fit":
            self._outside = randomness.capture()
            randomness.seed_everything(randomness.derive(self._order.seed, "validation", self._order.rank))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take them back."""
        if self._outside is not None:
            randomness.restore(self._outside)
            self._outside = None
