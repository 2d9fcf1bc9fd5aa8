"""What an action works with: the job's folder, status channel, artifacts, and the parts of the network."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from skillbank.errors import MissingValueError, NotFoundError, RuntimeMissingError
from skillbank.jobs.files import write_json
from skillbank.skill_info import ActionInfo
from skillbank.specs.base import Network
from skillbank_models.deploy.opened import is_deployed
from skillbank_models.protocol import Implementation, KpiWriter, LeavesArtifacts
from skillbank_runners.checkpoints import load_exactly
from skillbank_runners.interrupts import Interrupts
from skillbank_runners.saving import Register
from skillbank_runners.trainer import Host, setting_of

__all__ = ["Running", "table"]

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Running:
    """An action while it runs; what implementations see of it is `ActionContext`.

    Attributes:
        nested: the spec as plain values.
        info: machine facts of the action.
        record: registers an artifact; called by the first process only.
        shared: the shared form of the action, set by `run_action`.
    """

    network_facts: Network
    implementation: Implementation
    info: ActionInfo
    spec: Any
    nested: Mapping[str, Any]
    action: str
    job_id: str
    folder: Path
    host: Host
    status: KpiWriter
    interrupts: Interrupts
    record: Register
    shared: Callable[[], None] | None = field(default=None)

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.network_facts.name

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.host.rank.number

    @property
    def world(self) -> int:
        """How many processes run the action."""
        return self.host.rank.world

    @property
    def device(self) -> torch.device:
        """Where tensors belong on this process."""
        return self.host.device

    def register(
        self,
        path: Path,
        kind: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Record a finished file as an artifact of the job."""
        if self.rank == 0:
            self.record(Path(path), kind, epoch=epoch, step=step, metrics=metrics)

    def write_metrics(self, kpi: Mapping[str, float], *, name: str = "metrics.json", **more: Any) -> Path:
        """Report numbers everywhere at once: status channel, a JSON artifact and a table in the log."""
        path = self.folder / name
        if self.rank == 0:
            # strict JSON has no NaN
            values = {name: value if math.isfinite(value) else None for name, value in kpi.items()}
            content = {"network": self.network, "action": self.action, **more, "metrics": values}
            write_json(path, content, mode=0o644)
            self.register(path, "metrics", metrics=kpi)
            self.status.metrics(kpi, message=f"{self.action} results")
            log.info("%s results:\n%s", self.action, table(kpi))
        return path

    def run_shared(self) -> None:
        """Run the shared form of this action."""
        assert self.shared is not None, f"there is no shared form of {self.action}"
        self.shared()

    def check_stop(self) -> None:
        """Raise `InterruptedJobError` when the job was asked to stop."""
        self.interrupts.check()

    def load_model(self, module: Any) -> Path:
        """Load what ``<action>.trt_engine`` names, else the weights that ``<action>.checkpoint`` names.

        A network whose engine is only a part of it reads the rest from the checkpoint by itself.

        Raises:
            MissingValueError: both keys are empty.
            RuntimeMissingError: the network cannot run engines and ONNX files.
        """
        key = f"{self.action}.checkpoint"
        engine_key = f"{self.action}.trt_engine"
        engine = setting_of(self.spec, engine_key)
        given = engine or setting_of(self.spec, key)
        if not given:
            raise MissingValueError(
                f"{key}: no checkpoint is given",
                hint=f"{key}=PATH, or name a train job as the parent",
                key=key,
            )
        path = Path(given)
        is_part = self.implementation.engine_is_part
        if engine and setting_of(self.spec, key) and not (is_part is not None and is_part(self.spec)):
            log.warning("%s is given: %s is not read", engine_key, key)
        log.info("the network is that of %s", path)
        if engine or is_deployed(path):
            self._load_engine(module, path, engine_key if engine else key)
        elif self.implementation.load_weights is None:
            load_exactly(module, path, key)
        else:
            self.implementation.load_weights(module, path, self.spec)
        return path

    def _load_engine(self, module: Any, path: Path, key: str) -> None:
        if self.implementation.load_engine is None:
            raise RuntimeMissingError(
                f"{key}: {self.network} cannot run {path.name}, only checkpoints",
                hint=f"{self.action}.checkpoint=PATH of a .pth file",
                key=key,
                value=str(path),
            )
        if not path.is_file():
            raise NotFoundError(
                f"{key}: there is no file {path}", hint=f"ls -l {path.parent}", key=key, value=str(path)
            )
        self.implementation.load_engine(module, path, self.spec)

    def register_left_by(self, module: Any) -> None:
        """Record the files that a module says it wrote."""
        if isinstance(module, LeavesArtifacts) and self.rank == 0:
            for path, kind in module.artifacts():
                self.register(path, kind)


def table(kpi: Mapping[str, float]) -> str:
    """Numbers under each other, for people."""
    width = max((len(name) for name in kpi), default=0)
    return "\n".join(f"  {name:<{width}}  {value:>12.6g}" for name, value in kpi.items())
