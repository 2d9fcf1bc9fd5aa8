"""What an implementation offers to the job processes: one `Implementation` per network, named `NETWORK`.

The actions of `skillbank_runners` are written once against this module. An implementation states what
only it can know: its data, its LightningModule, its weights, and actions that no trainer drives. Settings are
read from the spec; no default is repeated here.

What the shared actions rely on beyond Lightning's own contract:

- `build_data` gives a LightningDataModule whose loaders are `torch.utils.data.DataLoader` (or lists or maps
  of them). Order, augmentation seeds, sharding over processes and the place of a resumed run are handled from
  outside: samplers and datasets draw from the ordinary generators of Python, numpy and torch, and need no
  seed of their own. A sampler that hands every process its own share says so with the attribute
  ``shards_itself = True``; batch samplers have a length, and one that never ends gives the length of an
  epoch.
- ``train_dataloader`` and ``val_dataloader`` serve training, ``test_dataloader`` evaluation,
  ``predict_dataloader`` inference, with ``test_step`` and ``predict_step``.
- `build_module` gives a LightningModule that logs its metrics with `self.log`; a metric that ends up in
  `trainer.callback_metrics` becomes a KPI of the epoch. Files go to `trainer.default_root_dir`, the folder of
  the action. Attributes that are looked for, all optional: ``artifacts()`` (see `LeavesArtifacts`) and
  ``shard_units``, a set of module classes that fsdp may split at.
- `train.freeze` names modules below ``module.model`` (or the module itself); the shared action freezes them
  before the optimiser is built, so `configure_optimizers` takes parameters with ``requires_grad`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import torch
    from pytorch_lightning import Callback, LightningDataModule, LightningModule

    from skillbank_models.weights.files import ForeignWeights

__all__ = [
    "ActionContext",
    "ActionFunction",
    "Implementation",
    "KpiWriter",
    "LeavesArtifacts",
    "WeightFormats",
]


class KpiWriter(Protocol):
    """The part of the status channel that an implementation may write to."""

    def running(self, message: str, **fields: Any) -> None:
        """Say what is going on."""

    def metrics(self, kpi: Mapping[str, float], *, message: str = "", **fields: Any) -> None:
        """Report numbers."""


class ActionContext(Protocol):
    """What an action gets beside its spec."""

    @property
    def network(self) -> str:
        """Name of the network."""

    @property
    def action(self) -> str:
        """Name of the action."""

    @property
    def job_id(self) -> str:
        """The job that runs it."""

    @property
    def folder(self) -> Path:
        """Existing folder of the action's results."""

    @property
    def status(self) -> KpiWriter:
        """The job's status channel; silent on all processes but the first."""

    @property
    def rank(self) -> int:
        """Number of this process, 0 for the first."""

    @property
    def world(self) -> int:
        """How many processes run the action."""

    @property
    def device(self) -> torch.device:
        """Where tensors belong on this process."""

    def register(
        self,
        path: Path,
        kind: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Record a finished file as an artifact of the job; only the first process does."""

    def write_metrics(self, kpi: Mapping[str, float], *, name: str = "metrics.json", **more: Any) -> Path:
        """Report numbers everywhere at once: status channel, a JSON artifact and a table in the log."""

    def run_shared(self) -> None:
        """Run the shared form of an action that the implementation replaces in some cases only."""

    def check_stop(self) -> None:
        """Raise `InterruptedJobError` when the job was asked to stop; call it between units of work."""


ActionFunction: TypeAlias = "Callable[[Any, ActionContext], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormats:
    """Weight files of other programs that a network reads and writes, for ``skillbank weights``.

    Attributes:
        targets: name of a layout -> file endings it is written to, the usual one first; empty means a folder.
            Of several layouts with one ending the first is taken where only the file is named.
        inspect: what a file is (``layout``) and the spec settings it tells (``settings``); None when it holds
            no weights of this network.
        convert: writes a file: weights that were read, target, layout, spec settings that nothing in the file
            tells. Gives a report of plain values.
    """

    targets: Mapping[str, tuple[str, ...]]
    inspect: Callable[[ForeignWeights], Mapping[str, Any] | None]
    convert: Callable[[ForeignWeights, Path, str, Mapping[str, Any]], Mapping[str, Any]]


@runtime_checkable
class LeavesArtifacts(Protocol):
    """A LightningModule that wrote files which others may use."""

    def artifacts(self) -> Iterable[tuple[Path, str]]:
        """Finished files, each with its kind: ``metrics``, ``predictions``, ``report`` or ``onnx``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """The parts of a network that the shared actions ask for; each gets the resolved spec of its action.

    Attributes:
        build_data: spec -> data; reads files in `setup`, not before.
        build_module: spec -> module with initialised weights; no checkpoint is read here.
        actions: actions that no trainer drives (export, quantize, ...), and those that replace a shared one.
        callbacks: further Lightning callbacks.
        start_weights: loads what a fresh training run starts from (pretrained model, backbone); not called
            when a run is resumed.
        load_weights: loads a checkpoint for any other action; None means an exact match of all tensors.
        load_engine: makes the module run a deployed file (.onnx, .engine or .plan) instead of its weights;
            None means that the network cannot.
        engine_is_part: spec -> whether such a file is only a part of what runs, so that `load_engine` reads
            ``<action>.checkpoint`` as well; None means that it is all.
        weights: weight files of other programs; None when the network reads its own alone.
        sample_names: batch -> names of its samples, for messages about a batch that went wrong.
        memory_keys: dotted spec keys to lower, or to set to the value behind ``=``, when memory runs out;
            batch sizes and activation checkpointing are known without being named.
    """

    build_data: Callable[[Any], LightningDataModule]
    build_module: Callable[[Any], LightningModule]
    actions: Mapping[str, ActionFunction] = field(default_factory=dict)
    callbacks: Callable[[Any], Sequence[Callback]] | None = None
    start_weights: Callable[[LightningModule, Any], None] | None = None
    load_weights: Callable[[LightningModule, Path, Any], None] | None = None
    load_engine: Callable[[LightningModule, Path, Any], None] | None = None
    engine_is_part: Callable[[Any], bool] | None = None
    weights: WeightFormats | None = None
    sample_names: Callable[[Any], Sequence[str]] | None = None
    memory_keys: tuple[str, ...] = ()
